"""A session that is not used for a while ends; whoever uses it extends it."""

from __future__ import annotations

import contextlib
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pyramid_sqlalchemy_sessions import InconsistentDataError
from tests.application import Application, Browser, statements
from tests.features.timed import (
    Own,
    Timed,
    age,
    catching,
    isolate_snapshots,
    now,
    pausing,
    read,
    read_and_doom,
    read_and_fail,
    row,
    sent,
    twin,
    visit_meanwhile,
    write,
    write_and_fail,
)
from tests.stories.transactions import exception_view, tween_above

TIMEOUT = 100


@pytest.fixture
def browser(open_browser):
    """Return a browser with a session, on each kind of database."""
    return used(open_browser(idle_timeout=TIMEOUT))


def used(browser):
    """Return the browser, which has got a session now."""
    browser.visit(lambda request: request.session.update(a=1, nested=[]))
    return browser


def is_alive(browser):
    """Tell whether the session is still the one that was made at first."""
    return browser.ask(lambda session: not session.new and session["a"]) >= 1


def left(browser):
    """Return for how many seconds from now the session is going to live."""
    return row(browser).idle_expire - now()


# When a session ends.


def test_new_session_expires_after_the_timeout(browser):
    """The expiry is the time of the last activity and the timeout."""
    assert left(browser) == TIMEOUT


def test_session_lives_in_the_second_of_its_expiry(browser, clock):
    """A session is alive as long as now is not greater than its expiry."""
    clock.shift(TIMEOUT)
    assert is_alive(browser)


def test_session_lives_until_that_second_is_over(browser, clock):
    """Times are whole seconds: the fraction of one does not count."""
    clock.shift(TIMEOUT + 0.9)
    assert is_alive(browser)


def test_session_is_dead_one_second_later(browser, clock):
    """A session has expired when now is greater than its expiry: it is a new one."""
    clock.shift(TIMEOUT + 1)
    assert browser.ask(lambda session: (dict(session), session.new)) == ({}, True)


def test_nothing_of_an_expired_session_is_left(browser, clock):
    """Neither data nor messages, user or token of an expired session can be seen."""

    def fill(request):
        request.session.userid = 5
        request.session.flash("message")
        return request.session.get_csrf_token()

    token = browser.visit(fill).text
    clock.shift(TIMEOUT + 1)
    answers = browser.ask(
        lambda session: (
            dict(session),
            session.peek_flash(),
            session.userid,
            session.get_csrf_token() == token,
        )
    )
    assert answers == ({}, [], None, False)


def test_every_use_postpones_the_end(browser, clock):
    """A session that is used again and again lives much longer than its timeout."""
    for _ in range(5):
        clock.shift(TIMEOUT)
        assert is_alive(browser)
    clock.shift(TIMEOUT + 1)
    assert browser.ask(lambda session: session.new)


def test_session_that_is_not_touched_is_not_extended(browser, clock):
    """A request that does not touch the session is none of its activity."""
    clock.shift(TIMEOUT)
    with statements(browser.application.engine) as collected:
        browser.visit(lambda request: None)
    assert collected == []
    clock.shift(1)
    assert browser.ask(lambda session: session.new)


def test_session_after_an_invalidated_one_has_its_own_expiry(browser, clock):
    """What follows invalidate() is a new session, with a timeout from now on."""

    def begin_anew(request):
        request.session.invalidate()
        write(request)

    clock.shift(60)
    browser.visit(begin_anew)
    assert left(browser) == TIMEOUT
    assert row(browser).created == now()


# What extends it.


def delete_what_is_missing(session):
    """Try to delete a key that is not there."""
    with contextlib.suppress(KeyError):
        del session["missing"]


def pop_what_is_missing(session):
    """Try to pop a key that is not there."""
    with contextlib.suppress(KeyError):
        session.pop("missing")


WRITES = {
    "set": lambda session: session.__setitem__("b", 1),
    "set what is there": lambda session: session.__setitem__("a", 1),
    "set an equal list": lambda session: session.__setitem__("nested", []),
    "set and take back": lambda session: session.update(b=1) or session.pop("b"),
    "delete": lambda session: session.__delitem__("nested"),
    "delete what is missing": delete_what_is_missing,
    "pop": lambda session: session.pop("nested"),
    "pop what is missing": pop_what_is_missing,
    "pop with a default": lambda session: session.pop("missing", None),
    "popitem": lambda session: session.popitem(),
    "setdefault": lambda session: session.setdefault("b", 1),
    "setdefault of what is there": lambda session: session.setdefault("a", 5),
    "update": lambda session: session.update(b=1),
    "update with what is there": lambda session: session.update(a=1),
    "update with nothing": lambda session: session.update({}),
    "clear": lambda session: session.clear(),
    "change in the depth": lambda session: session["nested"].append(1),
    "changed": lambda session: session.changed(),
    "flash": lambda session: session.flash("message"),
    "rotate": lambda session: session.rotate(),
    "log in": lambda session: setattr(session, "userid", 5),
    "log out though not logged in": lambda session: setattr(session, "userid", None),
    "new CSRF token": lambda session: session.new_csrf_token(),
    "first CSRF token": lambda session: session.get_csrf_token(),
}

READS = {
    "get": lambda session: session.get("a"),
    "get an item": lambda session: session["a"],
    "get a list": lambda session: session["nested"],
    "in": lambda session: "a" in session,
    "len": len,
    "iter": list,
    "items": lambda session: list(session.items()),
    "equal": lambda session: session == {},
    "bool": bool,
    "created": lambda session: session.created,
    "new": lambda session: session.new,
    "instance": lambda session: session.instance,
    "user": lambda session: session.userid,
    "settings": lambda session: session.settings.idle_timeout,
    "peek": lambda session: session.peek_flash(),
    "pop from an empty queue": lambda session: session.pop_flash(),
}

each_write = pytest.mark.parametrize("act", WRITES.values(), ids=WRITES)
each_read = pytest.mark.parametrize("act", READS.values(), ids=READS)


@each_write
def test_any_write_extends(open_lite_browser, clock, act):
    """A call that changes something, or might, extends whatever the delay."""
    browser = used(open_lite_browser(idle_timeout=TIMEOUT, extension_delay=90))
    clock.shift(10)
    browser.ask(act)
    assert left(browser) == TIMEOUT


def test_clear_of_nothing_extends(open_lite_browser, clock):
    """The same holds for clear() of a session that has no keys."""
    browser = open_lite_browser(idle_timeout=TIMEOUT, extension_delay=90)
    browser.ask(lambda session: session.flash("message"))
    clock.shift(10)
    browser.ask(lambda session: session.clear())
    assert left(browser) == TIMEOUT


def test_popping_messages_extends(open_lite_browser, clock):
    """The same holds for messages that are taken away."""
    browser = open_lite_browser(idle_timeout=TIMEOUT, extension_delay=90)
    browser.ask(lambda session: (session.flash("message"), session.update(a=1)))
    clock.shift(10)
    browser.ask(lambda session: session.pop_flash())
    assert left(browser) == TIMEOUT


@each_read
def test_read_does_not_extend_within_the_delay(open_lite_browser, clock, act):
    """A call that only looks does not extend as long as the delay lasts."""
    browser = used(open_lite_browser(idle_timeout=TIMEOUT, extension_delay=90))
    clock.shift(10)
    with statements(browser.application.engine) as collected:
        browser.ask(act)
    assert {each.split()[0] for each in collected} == {"SELECT"}
    assert left(browser) == TIMEOUT - 10


@each_read
def test_read_extends_after_the_delay(open_lite_browser, clock, act):
    """Every way to look at the session extends it after the delay."""
    browser = used(open_lite_browser(idle_timeout=TIMEOUT, extension_delay=9))
    clock.shift(10)
    browser.ask(act)
    assert left(browser) == TIMEOUT


@each_read
def test_read_extends_without_a_delay(open_lite_browser, clock, act):
    """Every way to look at the session extends it when no delay is set."""
    browser = used(open_lite_browser(idle_timeout=TIMEOUT))
    clock.shift(1)
    browser.ask(act)
    assert left(browser) == TIMEOUT


@pytest.mark.parametrize(("passed", "extended"), [(19, 0), (20, 0), (21, 21)])
def test_delay(open_browser, clock, passed, extended):
    """A read extends when more than extension_delay seconds passed, not before."""
    browser = used(open_browser(idle_timeout=TIMEOUT, extension_delay=20))
    clock.shift(passed)
    browser.visit(read)
    assert left(browser) == TIMEOUT - passed + extended


def test_delay_counts_from_the_last_extension(open_browser, clock):
    """Reads within the delay do not put off the extension that they do not make."""
    browser = used(open_browser(idle_timeout=TIMEOUT, extension_delay=20))
    for _ in range(4):
        clock.shift(5)
        browser.visit(read)
        assert left(browser) < TIMEOUT
    clock.shift(1)
    browser.visit(read)
    assert left(browser) == TIMEOUT


def test_delay_counts_from_a_write(open_browser, clock):
    """A write is an extension, from which the delay counts anew."""
    browser = used(open_browser(idle_timeout=TIMEOUT, extension_delay=20))
    clock.shift(15)
    browser.visit(write)
    clock.shift(20)
    browser.visit(read)
    assert left(browser) == TIMEOUT - 20


def test_second_read_in_one_second_writes_nothing(browser, clock):
    """An extension that changes nothing is not sent to the database."""
    clock.shift(10)
    browser.visit(read)
    with statements(browser.application.engine) as collected:
        browser.visit(read)
    assert [each.split()[0] for each in collected] == ["SELECT"]


# Chance. A test with an even chance is repeated so often that the outcome is certain.


def reads_that_extended(browser, clock, number, seconds):
    """Read so often, so many seconds after the last extension; count extensions."""
    extended = 0
    for _ in range(number):
        clock.shift(seconds)
        browser.visit(read)
        extended += left(browser) == TIMEOUT
        browser.visit(write)
    return extended


def test_chance(open_lite_browser, clock):
    """With a chance of 50 percent some reads extend, and some do not."""
    browser = used(
        open_lite_browser(
            idle_timeout=TIMEOUT, extension_chance=50, extension_deadline=90
        )
    )
    assert 0 < reads_that_extended(browser, clock, 60, 10) < 60


@pytest.mark.parametrize(("chance", "least", "most"), [(1, 0, 29), (99, 1, 30)])
def test_small_and_great_chance(open_lite_browser, clock, chance, least, most):
    """A chance of 1 percent is not always taken, one of 99 is not always missed."""
    browser = used(
        open_lite_browser(
            idle_timeout=TIMEOUT, extension_chance=chance, extension_deadline=90
        )
    )
    assert least <= reads_that_extended(browser, clock, 30, 10) <= most


def test_just_the_deadline_leaves_it_to_chance(open_lite_browser, clock):
    """Just extension_deadline seconds after the last extension it is still chance."""
    browser = used(
        open_lite_browser(
            idle_timeout=TIMEOUT, extension_chance=1, extension_deadline=30
        )
    )
    assert reads_that_extended(browser, clock, 30, 30) < 30


def test_deadline(open_browser, clock):
    """More than extension_deadline seconds after the last extension a read extends."""
    browser = used(
        open_browser(idle_timeout=TIMEOUT, extension_chance=1, extension_deadline=30)
    )
    assert reads_that_extended(browser, clock, 5, 31) == 5


def test_delay_comes_before_chance(open_lite_browser, clock):
    """Within the delay there is no chance at all."""
    browser = used(
        open_lite_browser(
            idle_timeout=TIMEOUT,
            extension_delay=20,
            extension_chance=99,
            extension_deadline=30,
        )
    )
    assert reads_that_extended(browser, clock, 10, 20) == 0


def test_chance_after_the_delay(open_lite_browser, clock):
    """Between delay and deadline it is chance."""
    browser = used(
        open_lite_browser(
            idle_timeout=TIMEOUT,
            extension_delay=20,
            extension_chance=50,
            extension_deadline=30,
        )
    )
    assert 0 < reads_that_extended(browser, clock, 60, 21) < 60


def test_write_leaves_nothing_to_chance(open_lite_browser, clock):
    """A write extends, however small the chance of a read."""
    browser = used(
        open_lite_browser(
            idle_timeout=TIMEOUT, extension_chance=1, extension_deadline=90
        )
    )
    for _ in range(10):
        clock.shift(5)
        browser.visit(write)
        assert left(browser) == TIMEOUT


# How the extension is stored.


def test_extension_is_one_narrow_update(browser, clock):
    """A pure extension writes the expiry and nothing else."""
    before = row(browser)
    clock.shift(10)
    with statements(browser.application.engine) as collected:
        browser.visit(read)
    select, update = collected
    assert select.startswith("SELECT")
    assert re.search(r"SET idle_expire=\S+ WHERE", update)
    after = row(browser)
    assert (after.version, after.data) == (before.version, before.data)
    assert after.idle_expire == before.idle_expire + 10


def test_write_and_extension_are_one_update(browser, clock):
    """A write takes the extension along."""
    clock.shift(10)
    with statements(browser.application.engine) as collected:
        browser.visit(write)
    assert [each.split()[0] for each in collected] == ["SELECT", "UPDATE"]
    assert left(browser) == TIMEOUT


def test_rotation_takes_the_extension_along(browser, clock):
    """A session that gets another cookie is extended at that."""
    clock.shift(10)
    browser.visit(lambda request: request.session.rotate())
    assert left(browser) == TIMEOUT
    clock.shift(TIMEOUT)
    assert is_alive(browser)


def test_extension_beside_a_writer(browser, clock):
    """An extension does not conflict with what another request wrote meanwhile."""

    def slow_read(request):
        read(request)
        visit_meanwhile(browser, write)

    clock.shift(10)
    browser.visit(slow_read)
    assert browser.ask(lambda session: session["a"]) == 2
    assert left(browser) == TIMEOUT


def test_writer_beside_an_extension(browser, clock):
    """A write does not conflict with an extension by another request."""

    def slow_write(request):
        write(request)
        visit_meanwhile(browser, read)

    clock.shift(10)
    browser.visit(slow_write)
    assert browser.ask(lambda session: session["a"]) == 2
    assert left(browser) == TIMEOUT


@pytest.mark.parametrize("view", [read, write])
def test_slow_request_does_not_move_the_expiry_back(browser, clock, view):
    """A request that is slower than a later one does not shorten the session."""

    def slow(request):
        view(request)
        clock.shift(20)
        visit_meanwhile(browser, read)

    clock.shift(10)
    browser.visit(slow)
    assert left(browser) == TIMEOUT


@pytest.mark.parametrize("view", [read, write])
def test_clock_that_is_set_back_shortens_nothing(browser, clock, view):
    """A clock that jumps backwards moves no expiry backwards."""
    expire = row(browser).idle_expire
    clock.shift(-50)
    browser.visit(view)
    assert row(browser).idle_expire == expire
    clock.shift(50 + TIMEOUT)
    assert is_alive(browser)


@pytest.mark.parametrize("view", [read, write])
def test_clock_that_is_set_back_by_years(browser, clock, view):
    """Nor does it end a session that seems to come from the future."""
    clock.shift(-100_000_000)
    browser.visit(view)
    assert is_alive(browser)


@pytest.mark.parametrize("number", [2, 4])
def test_parallel_reads_that_are_both_due(browser, clock, number):
    """Of requests that extend at the same time none fails."""

    def slow_read(request):
        read(request)
        for _ in range(number):
            visit_meanwhile(browser, read)

    clock.shift(10)
    browser.visit(slow_read)
    assert left(browser) == TIMEOUT


STRICT = {
    "SERIALIZABLE": {"isolation_level": "SERIALIZABLE"},
    "REPEATABLE READ": {"isolation_level": "REPEATABLE READ"},
}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("options", STRICT.values(), ids=STRICT)
def test_parallel_reads_at_strict_levels(make_engine, clock, options):
    """Nor does one at the levels that refuse to write what another one wrote."""
    check_parallel_reads(make_engine(**options), clock)


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
def test_parallel_reads_at_snapshot_isolation(make_engine, clock):
    """Nor does one on MariaDB with what is its default from version 11.6 on."""
    check_parallel_reads(isolate_snapshots(make_engine()), clock)


def check_parallel_reads(engine, clock):
    """Extend in two requests at once."""
    Timed.__table__.create(engine)
    browser = used(Browser(Application(engine, Timed, idle_timeout=TIMEOUT)))

    def slow_read(request):
        read(request)
        visit_meanwhile(browser, read)

    clock.shift(10)
    browser.visit(slow_read)
    assert left(browser) == TIMEOUT
    assert is_alive(browser)


def test_revoked_session_is_not_brought_back(browser, clock):
    """A session that is deleted while a request extends it stays deleted."""

    def slow_read(request):
        read(request)
        visit_meanwhile(browser, lambda request: request.session.invalidate())

    clock.shift(10)
    browser.visit(slow_read)
    assert browser.application.rows() == []


# Rollbacks.


@pytest.mark.parametrize("view", [read_and_fail, write_and_fail, read_and_doom])
def test_rollback_undoes_the_extension(open_browser, clock, view):
    """A request that is not committed extends nothing."""
    browser = used(open_browser(idle_timeout=TIMEOUT, configure=catching))
    clock.shift(10)
    browser.visit(view, expect_errors=True)
    assert left(browser) == TIMEOUT - 10


@pytest.mark.parametrize("view", [read_and_fail, write_and_fail, read_and_doom])
def test_rollback_undoes_the_deletion(open_browser, clock, view):
    """A request that is not committed deletes no expired session, nor its cookie."""
    browser = used(open_browser(idle_timeout=TIMEOUT, configure=catching))
    cookie = browser.cookie
    clock.shift(TIMEOUT + 1)
    response = browser.visit(view, expect_errors=True)
    assert sent(response) is None
    assert browser.cookie == cookie
    assert len(browser.application.rows()) == 1
    assert sent(browser.visit(read)).is_deletion
    assert browser.application.rows() == []


def test_exception_view_that_writes_extends(open_browser, clock):
    """What an exception view stores extends the session, as any write."""
    flash = exception_view(lambda request: request.session.flash("sorry"))
    browser = used(open_browser(idle_timeout=TIMEOUT, configure=flash))
    clock.shift(10)
    browser.visit(write_and_fail, status=500)
    assert browser.ask(lambda session: (session["a"], session.peek_flash())) == (
        1,
        ["sorry"],
    )
    assert left(browser) == TIMEOUT


def test_exception_view_after_an_expired_session(open_browser, clock):
    """An exception view finds a new session in place of an expired one."""
    flash = exception_view(lambda request: request.session.flash("sorry"))
    browser = used(open_browser(idle_timeout=TIMEOUT, configure=flash))
    expired = row(browser).id
    clock.shift(TIMEOUT + 1)
    cookie = sent(browser.visit(write_and_fail, status=500))
    assert cookie.id != expired
    assert browser.ask(lambda session: (dict(session), session.pop_flash())) == (
        {},
        ["sorry"],
    )


@pytest.mark.parametrize("view", [read, write_and_fail])
def test_exception_view_alone_finds_it_expired(open_browser, clock, view):
    """A session that only an exception view uses has expired there, too."""
    browser = used(
        open_browser(
            idle_timeout=TIMEOUT,
            configure=exception_view(lambda request: request.session.get("a")),
        )
    )
    clock.shift(TIMEOUT + 1)
    response = browser.visit(write_and_fail, status=500)
    assert response.text == ""
    assert browser.ask(lambda session: session.new)


def test_retry_extends_once(open_browser, clock):
    """Each attempt of pyramid_retry starts from the database again."""
    attempts = []

    def view(request):
        write(request)
        attempts.append(request.session["a"])
        if len(attempts) == 1:
            visit_meanwhile(browser, write)

    browser = used(
        open_browser(
            idle_timeout=TIMEOUT,
            configure=lambda config: config.include("pyramid_retry"),
        )
    )
    clock.shift(10)
    browser.visit(view)
    assert attempts == [2, 3]
    assert row(browser).version == 3
    assert left(browser) == TIMEOUT


def test_two_transactions_of_one_request(browser, clock):
    """A session that is used in two transactions is extended, and extended once."""

    def view(request):
        read(request)
        request.tm.commit()
        request.tm.begin()
        read(request)

    clock.shift(10)
    with statements(browser.application.engine) as collected:
        browser.visit(view)
    words = [each.split()[0] for each in collected]
    assert words == ["SELECT", "UPDATE", "SELECT"]
    assert left(browser) == TIMEOUT


def test_expired_in_the_first_transaction_of_two(browser, clock):
    """The second transaction of a request works with a new session as well."""

    def view(request):
        read(request)
        request.tm.commit()
        request.tm.begin()
        write(request)

    expired = row(browser).id
    clock.shift(TIMEOUT + 1)
    cookie = sent(browser.visit(view))
    assert cookie.id == row(browser).id != expired
    assert browser.ask(dict) == {"a": 1}


# The deletion of an expired session.


def test_expired_session_is_deleted_with_its_cookie(browser, clock):
    """Who finds a session expired deletes it, and its cookie in the same response."""
    clock.shift(TIMEOUT + 1)
    assert sent(browser.visit(read)).is_deletion
    assert browser.application.rows() == []


def test_found_expired_by_two_requests_at_once(browser, clock):
    """A second request that finds a session expired deletes nothing of a third one."""

    def slow_read(request):
        read(request)
        assert sent(visit_meanwhile(browser, read)).is_deletion

    clock.shift(TIMEOUT + 1)
    browser.visit(slow_read)
    assert browser.application.rows() == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("options", STRICT.values(), ids=STRICT)
def test_found_expired_at_once_at_strict_levels(make_engine, clock, options):
    """Nor does the second request fail, at whatever level."""
    check_found_expired_at_once(make_engine(**options), clock)


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
def test_found_expired_at_once_at_snapshot_isolation(make_engine, clock):
    """Nor on MariaDB with what is its default from version 11.6 on."""
    check_found_expired_at_once(isolate_snapshots(make_engine()), clock)


def check_found_expired_at_once(engine, clock):
    """Find a session expired in two requests at once."""
    Timed.__table__.create(engine)
    browser = used(Browser(Application(engine, Timed, idle_timeout=TIMEOUT)))

    def slow_read(request):
        read(request)
        assert sent(visit_meanwhile(browser, read)).is_deletion

    clock.shift(TIMEOUT + 1)
    browser.visit(slow_read)
    assert browser.application.rows() == []


def test_session_that_expires_while_it_is_being_extended(browser, clock):
    """An extension does not bring back what another request found expired."""

    def slow_read(request):
        read(request)
        with pausing(clock, 1):
            assert sent(visit_meanwhile(browser, read)).is_deletion

    clock.shift(TIMEOUT)
    browser.visit(slow_read)
    assert browser.application.rows() == []


def test_session_that_is_extended_after_it_was_found_expired(browser, clock):
    """A session lives, with its cookie, if it is no more expired when it matters."""
    loaded, extended = threading.Event(), threading.Event()
    other = twin(browser)

    def late(request):
        assert request.session.new
        loaded.set()
        assert extended.wait(5)

    with ThreadPoolExecutor(1) as pool:
        late_responses = []

        def slow(request):
            read(request)
            clock.shift(1)
            late_responses.append(pool.submit(other.visit, late))
            assert loaded.wait(5)

        clock.shift(TIMEOUT)
        browser.visit(slow)
        extended.set()
        assert sent(late_responses[0].result()) is None
    assert is_alive(browser)


# Settings that change.


def test_timeout_that_is_none_is_off(open_browser, clock):
    """Without a timeout a session lives for ever, and no expiry is stored."""
    browser = used(open_browser())
    assert row(browser).idle_expire is None
    clock.shift(1_000_000_000)
    with statements(browser.application.engine) as collected:
        assert is_alive(browser)
    assert [each.split()[0] for each in collected] == ["SELECT"]


def test_timeout_that_is_switched_off(open_browser, clock):
    """What was stored while there was a timeout does not matter any more."""
    browser = used(open_browser(idle_timeout=TIMEOUT))
    expire = row(browser).idle_expire
    later = twin(open_browser(), browser.cookie)
    clock.shift(TIMEOUT + 1)
    later.visit(write)
    assert is_alive(later)
    assert row(later).idle_expire == expire


@pytest.mark.parametrize("view", [read, write])
def test_timeout_that_is_switched_on(open_browser, clock, view):
    """The timeout of a session without an expiry begins with the next use."""
    browser = used(open_browser())
    later = twin(open_browser(idle_timeout=TIMEOUT, extension_delay=20), browser.cookie)
    clock.shift(1000)
    later.visit(view)
    assert left(later) == TIMEOUT
    clock.shift(TIMEOUT)
    assert is_alive(later)
    clock.shift(TIMEOUT + 1)
    assert later.ask(lambda session: session.new)


def test_timeout_that_is_switched_on_beside_another_use(open_browser, clock):
    """Two uses that are both the first one give it an expiry, and do not conflict."""
    browser = used(open_browser())
    later = twin(open_browser(idle_timeout=TIMEOUT), browser.cookie)

    def slow_read(request):
        read(request)
        visit_meanwhile(later, read)

    later.visit(slow_read)
    assert left(later) == TIMEOUT


def test_expiry_before_the_timeout_was_used(open_browser):
    """It begins with the first use."""
    browser = used(open_browser())
    later = twin(open_browser(idle_timeout=TIMEOUT), browser.cookie)
    assert later.ask(lambda session: session.expires) == now() + TIMEOUT


def test_timeout_that_is_switched_on_does_not_matter_without_use(open_browser):
    """A request that does not use such a session is served."""
    browser = used(open_browser())
    later = twin(open_browser(idle_timeout=TIMEOUT), browser.cookie)
    assert later.visit(lambda request: "served").text == "served"


@pytest.mark.parametrize("view", [read, write])
def test_timeout_that_is_shortened(open_browser, clock, view):
    """A shorter timeout moves no expiry backwards; it counts when it is later."""
    browser = used(open_browser(idle_timeout=TIMEOUT))
    expire = row(browser).idle_expire
    later = twin(open_browser(idle_timeout=10), browser.cookie)
    clock.shift(50)
    later.visit(view)
    assert row(later).idle_expire == expire
    clock.shift(45)
    later.visit(view)
    assert left(later) == 10


def test_timeout_that_is_lengthened(open_browser, clock):
    """A longer timeout counts from the next use."""
    browser = used(open_browser(idle_timeout=TIMEOUT))
    later = twin(open_browser(idle_timeout=500), browser.cookie)
    later.visit(read)
    assert left(later) == 500


# Timeouts of the session's own.


def test_new_session_has_the_timeout_of_the_application(open_browser, clock):
    """With ConfigIdleMixin a session keeps the settings that it was made with."""
    browser = used(open_browser(Own, idle_timeout=TIMEOUT, extension_delay=20))
    later = twin(open_browser(Own, idle_timeout=10), browser.cookie)
    clock.shift(20)
    later.visit(read)
    assert left(later) == TIMEOUT - 20
    clock.shift(1)
    later.visit(read)
    assert left(later) == TIMEOUT


def test_session_without_a_timeout_of_its_own(open_browser, clock):
    """NULL is no timeout, whatever the application has."""
    browser = used(open_browser(Own))
    later = twin(open_browser(Own, idle_timeout=10), browser.cookie)
    clock.shift(1000)
    assert is_alive(later)
    assert row(later).idle_expire is None


def test_expired_session_with_a_timeout_of_its_own(open_browser, clock):
    """A session that ends by its own timeout is deleted with its cookie."""
    browser = used(open_browser(Own, idle_timeout=TIMEOUT))
    later = twin(open_browser(Own), browser.cookie)
    clock.shift(TIMEOUT + 1)
    assert sent(later.visit(read)).is_deletion
    assert later.application.rows() == []


@pytest.mark.parametrize("view", [read, write])
def test_own_timeout_without_an_expiry(open_browser, clock, view):
    """So does a timeout of the session's own that has no expiry."""
    browser = used(open_browser(Own, idle_timeout=TIMEOUT))
    age(browser, idle_expire=None)
    clock.shift(TIMEOUT + 1)
    browser.visit(view)
    assert left(browser) == TIMEOUT
    assert is_alive(browser)


def test_settings_that_the_row_is_older_than(open_browser, clock):
    """NULL is the setting of the application where it is no value of the session's."""
    browser = used(open_browser(Own, idle_timeout=TIMEOUT))
    age(browser, extension_chance=None, extension_deadline=None)
    later = twin(
        open_browser(Own, idle_timeout=90, extension_chance=40, extension_deadline=50),
        browser.cookie,
    )
    chances = later.ask(
        lambda session: (
            session.settings.idle_timeout,
            session.settings.extension_chance,
            session.settings.extension_deadline,
        )
    )
    assert chances == (TIMEOUT, 40, 50)
    clock.shift(51)
    later.visit(read)
    assert left(later) == TIMEOUT
    assert row(later).extension_chance is None


@pytest.mark.parametrize(
    "columns",
    [
        {"idle_timeout": 0},
        {"idle_timeout": -5},
        {"idle_timeout": 100_000_001},
        {"extension_delay": 0},
        {"extension_chance": 0},
        {"extension_chance": 101},
        {"extension_deadline": 32768},
    ],
    ids=str,
)
def test_bad_settings_of_its_own(open_lite_browser, columns):
    """What never was a setting is an error that names it."""
    browser = used(open_lite_browser(Own, idle_timeout=TIMEOUT))
    age(browser, **columns)
    with pytest.raises(InconsistentDataError, match=next(iter(columns))):
        browser.visit(read)


# Max-age: the cookie must not end before the session.

LASTING = {"idle_timeout": TIMEOUT, "cookie_max_age": TIMEOUT}


@pytest.mark.parametrize("view", [read, write])
def test_cookie_with_an_age_goes_out_with_each_extension(open_browser, clock, view):
    """A browser keeps the cookie as long as its session is extended."""
    browser = used(open_browser(**LASTING))
    for _ in range(3):
        clock.shift(TIMEOUT - 1)
        cookie = sent(browser.visit(view))
        assert cookie.id == row(browser).id
        assert f"Max-Age={TIMEOUT}" in cookie.attributes
    assert is_alive(browser)


def test_cookie_with_an_age_goes_out_without_an_extension(open_browser, clock):
    """The delay of extensions does not concern the cookie, which has its own."""
    browser = used(open_browser(extension_delay=20, **LASTING))
    clock.shift(9)
    assert sent(browser.visit(read)) is None
    assert sent(browser.visit(write)) is None
    clock.shift(1)
    assert sent(browser.visit(read)) is not None
    assert left(browser) == TIMEOUT - 1  # since the write
    assert sent(browser.visit(write)) is None


def test_cookie_without_an_age_stays(browser, clock):
    """The cookie of a browser session goes out once."""
    clock.shift(10)
    assert sent(browser.visit(read)) is None
    assert sent(browser.visit(write)) is None


def test_cookie_with_an_age_after_a_rollback(open_browser, clock):
    """An extension that is not stored sends no cookie."""
    browser = used(open_browser(configure=catching, **LASTING))
    clock.shift(10)
    assert sent(browser.visit(write_and_fail, status=500)) is None
    assert sent(browser.visit(read_and_doom)) is None


def test_cookie_with_an_age_after_an_exception_view(open_browser, clock):
    """An extension that an exception view stores sends it, by the same rules."""
    flash = exception_view(lambda request: request.session.flash("sorry"))
    browser = used(open_browser(configure=flash, **LASTING))
    clock.shift(10)
    cookie = sent(browser.visit(read_and_fail, status=500))
    assert left(browser) == TIMEOUT
    assert cookie.id == row(browser).id


def test_cookie_with_an_age_above_the_transaction(open_browser, clock):
    """So does one that a tween above pyramid_tm stores."""

    def tween(handler, request):
        write(request)
        return handler(request)

    browser = used(open_browser(configure=tween_above(tween), **LASTING))
    clock.shift(10)
    cookie = sent(browser.visit(lambda request: None))
    assert left(browser) == TIMEOUT
    assert cookie.id == row(browser).id


def test_cookie_with_an_age_and_a_new_id(open_browser, clock):
    """A rotated session sends one cookie, the new one, however it is extended."""
    browser = used(open_browser(**LASTING))
    clock.shift(10)
    cookie = sent(browser.visit(lambda request: request.session.rotate()))
    assert cookie.id == row(browser).id


def test_cookie_with_an_age_and_a_session_that_ends(open_browser, clock):
    """An invalidated session sends a deletion, though it was due."""
    browser = used(open_browser(**LASTING))
    clock.shift(10)
    response = browser.visit(lambda request: request.session.invalidate())
    assert sent(response).is_deletion
