"""A rotation replaces the cookie of a session; a late cookie sees and changes nothing.

What a request with a late cookie may do all the same, and when cookies with a max-age
are sent again.
"""

from __future__ import annotations

import logging
import pickle
import uuid

import pytest
from pyramid.httpexceptions import HTTPFound
from pyramid_retry import RetryableException
from sqlalchemy import update
from sqlalchemy.orm.exc import StaleDataError

from pyramid_sqlalchemy_sessions import (
    RenewalViolationEvent,
    TransactionRequiredError,
    UserSessionAuthenticationHelper,
    UserSessionAuthenticationPolicy,
)
from tests.application import statements
from tests.features.timed import (
    OURS,
    Attributed,
    Own,
    Timed,
    age,
    catching,
    forged,
    now,
    read,
    read_and_fail,
    row,
    sent,
    twin,
    use_cookie,
    visit_meanwhile,
    write,
)
from tests.stories.transactions import elsewhere, exception_view

GRACE = 10
PLAIN = {"renewal_grace": GRACE}
RENEWAL = {"renewal_timeout": 1000, "renewal_grace": GRACE}
BOTH = pytest.mark.parametrize("settings", [PLAIN, RENEWAL], ids=["plain", "renewal"])

HELPER = UserSessionAuthenticationHelper()
POLICY = UserSessionAuthenticationPolicy()


class Application:
    """Let the application use pyramid_retry, and record the violations."""

    def __init__(self):
        self.violations = []

    def __call__(self, config):
        config.include("pyramid_retry")
        config.add_subscriber(self.violations.append, RenewalViolationEvent)


@pytest.fixture
def configure():
    """Return what the application is configured with."""
    return Application()


@pytest.fixture
def violations(configure):
    """The violations that the application was told of."""
    return configure.violations


@pytest.fixture
def open_used_browser(open_browser, configure):
    """Make browsers that have a session, on each kind of database."""

    def open_used_browser(model=Timed, **settings):
        browser = open_browser(model, configure=configure, **settings)
        browser.visit(write)
        return browser

    return open_used_browser


@pytest.fixture
def late(open_used_browser):
    """A browser whose cookie was replaced a moment ago, by a login in another tab."""
    browser = open_used_browser(**PLAIN)
    visit_meanwhile(browser, log_in)
    return browser


def log_in(request):
    """Log a user in."""
    request.session.userid = 5


def log_in_another(request):
    """Log another user in."""
    HELPER.remember(request, 6)


def rotate(request):
    """Replace the cookie."""
    request.session.rotate()


def invalidate(request):
    """End the session."""
    request.session.invalidate()


def is_new(browser):
    """Tell whether the browser's cookie gives access to nothing."""
    return browser.ask(lambda session: session.new and not session and not session.id)


def is_alive(browser):
    """Tell whether the browser's cookie gives access to the session."""
    return browser.ask(lambda session: not session.new and session.get("a") == 1)


def is_late(browser):
    """Tell whether the browser's cookie is late, and shows nothing."""
    return browser.ask(
        lambda session: (
            session.is_late
            and session.new
            and (dict(session), session.peek_flash(), session.userid) == ({}, [], None)
        )
    )


def rotated(browser):
    """Let another tab rotate the session; return the cookie that it gets."""
    return sent(visit_meanwhile(browser, rotate)).value


def content(session):
    """Return what the row of a session holds."""
    return (pickle.loads(session.data), session.flash, session.userid)


# The row and the cookie.


@BOTH
@pytest.mark.parametrize("view", [rotate, log_in])
def test_what_a_rotation_replaces(open_used_browser, clock, settings, view):
    """The id is for life; the renewal id is new, and the row tells what it was."""
    browser = open_used_browser(**settings)
    before = row(browser)
    clock.shift(5)
    cookie = sent(browser.visit(view))
    after = row(browser)
    assert cookie.id == after.id == before.id
    assert cookie.renewal_id == after.renewal_id not in (None, before.renewal_id)
    assert (after.rotated, after.rotated_from) == (now(), before.renewal_id)
    assert content(after)[0] == {"a": 1}
    again = sent(browser.visit(rotate))
    assert row(browser).rotated_from == after.renewal_id != again.renewal_id


def test_cookie_before_and_after(open_used_browser):
    """A cookie has 16 bytes, and 32 from the first rotation on."""
    browser = open_used_browser()
    assert len(OURS.loads(browser.cookie)) == 16
    assert (row(browser).renewal_id, row(browser).rotated) == (None, None)
    browser.visit(rotate)
    assert len(OURS.loads(browser.cookie)) == 32
    assert is_alive(browser)


def test_new_session_has_nothing_to_rotate(open_browser):
    """It gets a cookie as any other new session."""
    browser = open_browser()
    browser.visit(lambda request: (write(request), rotate(request)))
    session = row(browser)
    assert (session.renewal_id, session.rotated, session.rotated_from) == (None,) * 3


def test_rotation_that_is_rolled_back(open_browser):
    """Nothing is late then."""
    browser = open_browser(configure=catching)
    browser.visit(write)
    old = browser.cookie

    def rotate_and_fail(request):
        rotate(request)
        read_and_fail(request)

    assert sent(browser.visit(rotate_and_fail, status=500)) is None
    assert row(browser).rotated is None
    assert browser.cookie == old
    assert is_alive(browser)


# When a cookie is late.


@BOTH
@pytest.mark.parametrize("passed", [0, 1, GRACE])
def test_late_cookie(open_used_browser, clock, violations, settings, passed):
    """Until the last second of the grace the cookie before a rotation is late."""
    browser = open_used_browser(**settings)
    new = rotated(browser)
    clock.shift(passed)
    assert is_late(browser)
    assert is_alive(twin(browser, new))
    assert not twin(browser, new).ask(lambda session: session.is_late)
    assert violations == []


@BOTH
def test_cookie_after_the_grace(open_used_browser, clock, violations, settings):
    """Then it is of no use: the session starts new, and the cookie is left alone."""
    browser = open_used_browser(**settings)
    new = rotated(browser)
    clock.shift(GRACE + 1)
    assert browser.ask(lambda session: (session.new, session.is_late)) == (True, False)
    assert sent(browser.visit(read)) is None
    assert is_alive(twin(browser, new))
    assert sent(browser.visit(write)).id != row_of(browser, new).id
    assert violations == []


def row_of(browser, value):
    """Return the row that a cookie stands for."""
    key = OURS.loads(value)[:16]
    (found,) = [each for each in browser.application.rows() if each.id.bytes == key]
    return found


@BOTH
def test_no_grace(open_used_browser, settings):
    """With renewal_grace 0 no cookie is late, not even at once."""
    browser = open_used_browser(**{**settings, "renewal_grace": 0})
    new = rotated(browser)
    assert browser.ask(lambda session: (session.new, session.is_late)) == (True, False)
    assert is_alive(twin(browser, new))


def test_grace_by_default(open_used_browser, clock):
    """The grace is a minute by default."""
    browser = open_used_browser()
    rotated(browser)
    clock.shift(60)
    assert is_late(browser)
    clock.shift(1)
    assert not is_late(browser)


@BOTH
def test_unknown_renewal_id(open_used_browser, clock, violations, settings):
    """After the grace it is a violation if renewal is on, and of no use if not."""
    browser = open_used_browser(**settings)
    browser.visit(rotate)
    cookie = forged(browser)
    assert is_late(twin(browser, cookie))
    clock.shift(GRACE + 1)
    response = twin(browser, cookie).visit(read)
    if settings is RENEWAL:
        assert sent(response).is_deletion
        assert len(violations) == 1
        assert browser.application.rows() == []
    else:
        assert sent(response) is None
        assert violations == []
        assert is_alive(browser)


def test_cookie_from_before_two_rotations(open_used_browser, clock, violations):
    """Only the last one is remembered; without renewal that makes no difference."""
    browser = open_used_browser(**PLAIN)
    first = rotated(browser)
    use_cookie(browser, first)
    second = rotated(browser)
    use_cookie(browser, second)
    browser.visit(rotate)
    assert is_late(twin(browser, first))
    assert is_late(twin(browser, second))
    clock.shift(GRACE + 1)
    for value in (first, second):
        assert twin(browser, value).ask(lambda session: session.new)
        assert not is_late(twin(browser, value))
    assert is_alive(browser)
    assert violations == []


@BOTH
def test_cookie_without_a_renewal_id(open_used_browser, clock, violations, settings):
    """It is late, and of no use after that: a row from before was rotated since."""
    browser = open_used_browser(**settings)
    browser.visit(rotate)
    value = OURS.dumps(row(browser).id.bytes).decode("ascii")
    assert is_late(twin(browser, value))
    clock.shift(GRACE + 1)
    other = twin(browser, value)
    assert other.ask(lambda session: (session.new, session.is_late)) == (True, False)
    assert other.cookie == value
    assert is_alive(browser)
    assert violations == []


@BOTH
@pytest.mark.parametrize(("seconds", "expected"), [(GRACE, True), (GRACE + 1, False)])
def test_clock_that_is_set_back(
    open_used_browser, clock, violations, settings, seconds, expected
):
    """A clock that jumps backwards lengthens no grace, and ends nobody's session."""
    browser = open_used_browser(**settings)
    new = rotated(browser)
    clock.shift(-seconds)
    assert bool(is_late(browser)) is expected
    assert browser.ask(lambda session: session.new)
    assert is_alive(twin(browser, new))
    assert violations == []


def test_late_cookie_of_an_expired_session(open_used_browser, clock):
    """A session that is over is deleted, whatever cookie finds it."""
    browser = open_used_browser(idle_timeout=5, **PLAIN)
    rotated(browser)
    clock.shift(6)
    assert browser.ask(lambda session: (session.new, session.is_late)) == (True, False)
    assert browser.application.rows() == []


def test_good_cookie_beside_a_late_one(open_used_browser):
    """A browser that sends both has the session."""
    browser = open_used_browser(**PLAIN)
    old = browser.cookie
    new = rotated(browser)
    for pair in ((old, new), (new, old)):
        headers = {"Cookie": "; ".join(f"session={each}" for each in pair)}
        answers = []
        twin(browser).visit(
            lambda request: answers.append(  # noqa: B023
                (request.session.is_late, request.session["a"])
            ),
            headers=headers,
        )
        assert answers == [(False, 1)]


# What a late session does not do.


@pytest.mark.parametrize(
    "act",
    [
        lambda session: session.update(a=5, b=6),
        lambda session: session.setdefault("list", []).append(1),
        lambda session: session.flash("hello"),
        lambda session: session.get_csrf_token(),
        lambda session: session.new_csrf_token(),
        lambda session: session.changed(),
        lambda session: session.rotate(),
    ],
    ids=["write", "in place", "flash", "token", "new token", "changed", "rotate"],
)
def test_late_session_stores_nothing(late, caplog, act):
    """What is done to it is not stored, sets no cookie, and is logged once."""
    caplog.set_level(logging.INFO, "pyramid_sqlalchemy_sessions")
    before, cookie = vars(row(late)), late.cookie
    assert sent(late.visit(lambda request: act(request.session))) is None
    after = vars(row(late))
    before.pop("_sa_instance_state")
    after.pop("_sa_instance_state")
    assert after == before
    assert late.cookie == cookie
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "isn't stored" in record.getMessage()


def test_late_session_that_is_only_read(late, caplog):
    """There is nothing to tell of one that is only read, and nothing to write."""
    caplog.set_level(logging.INFO, "pyramid_sqlalchemy_sessions")
    with statements(late.application.engine) as collected:
        assert sent(late.visit(read)) is None
    assert [each.split()[0] for each in collected] == ["SELECT"]
    assert caplog.records == []


def test_late_session_within_its_request(late):
    """The request itself sees what it did, as in any other new session."""

    def view(request):
        write(request)
        request.session.flash("hello")
        assert request.session.pop_flash() == ["hello"]
        assert request.session.is_late
        return request.session["a"]

    assert late.visit(view).text == "1"


def test_late_session_is_not_extended(open_used_browser, clock):
    """A late request is no use of the session that the cookie stood for."""
    browser = open_used_browser(idle_timeout=100, **PLAIN)
    rotated(browser)
    clock.shift(GRACE)
    before = row(browser).idle_expire
    browser.visit(write)
    assert row(browser).idle_expire == before


def test_late_session_cannot_be_persisted(late):
    """What depends on the row would be without one."""

    def view(request):
        write(request)
        with pytest.raises(TransactionRequiredError, match="cookie"):
            request.session.persist()

    assert sent(late.visit(view)) is None
    assert content(row(late)) == ({"a": 1}, {}, 5)


def test_late_session_in_an_exception_view(open_browser, caplog):
    """A late session is so in an exception view, too."""
    flash = exception_view(lambda request: request.session.flash("sorry"))
    browser = open_browser(configure=flash, **PLAIN)
    browser.visit(write)
    rotated(browser)
    caplog.set_level(logging.INFO, "pyramid_sqlalchemy_sessions")
    assert sent(browser.visit(read_and_fail, status=500)) is None
    assert content(row(browser)) == ({"a": 1}, {}, None)
    (record,) = caplog.records
    assert record.levelno == logging.INFO


# What it does all the same.


@pytest.mark.parametrize("login", [log_in, log_in_another])
def test_login_in_a_late_session(late, login):
    """A login makes a new session; the other one stays what it is."""
    before = row(late)

    def view(request):
        write(request)
        login(request)
        assert request.session.is_late

    cookie = sent(late.visit(view))
    assert cookie.id != before.id
    made = row_of(late, cookie.value)
    assert content(made) == ({"a": 1}, {}, 5 if login is log_in else 6)
    (other,) = [each for each in late.application.rows() if each.id == before.id]
    assert content(other) == content(before)
    assert (other.renewal_id, other.version) == (before.renewal_id, before.version)
    assert not late.ask(lambda session: session.is_late)


@pytest.mark.parametrize(
    "end",
    [
        invalidate,
        HELPER.forget,
        POLICY.forget,
        lambda request: setattr(request.session, "userid", None),
    ],
    ids=["invalidate", "helper", "policy", "userid"],
)
@pytest.mark.parametrize("farewell", [False, True])
def test_end_in_a_late_session(late, end, farewell):
    """An end ends the session that the cookie stood for, and goes on as a new one."""
    key = row(late).id
    other = twin(late)
    late_states = []

    def view(request):
        end(request)
        late_states.append(request.session.is_late)
        if farewell:
            request.session.flash("bye")

    cookie = sent(late.visit(view))
    assert late_states == [False]
    if farewell:
        assert cookie.id == row(late).id != key
        assert late.ask(lambda session: session.pop_flash()) == ["bye"]
    else:
        assert cookie.is_deletion
        assert late.application.rows() == []
    assert other.ask(lambda session: (session.new, session.is_late)) == (True, False)


def test_end_in_a_late_session_that_is_rolled_back(open_browser):
    """With its transaction the end is gone, too."""
    browser = open_browser(configure=catching, **PLAIN)
    browser.visit(write)
    new = rotated(browser)

    def fail(request):
        invalidate(request)
        read_and_fail(request)

    assert sent(browser.visit(fail, status=500)) is None
    assert is_alive(twin(browser, new))
    assert is_late(browser)


def test_end_in_an_exception_view_of_a_late_session(open_browser):
    """It ends the session that the cookie stood for, too."""
    browser = open_browser(configure=exception_view(invalidate), **PLAIN)
    browser.visit(write)
    rotated(browser)
    assert sent(browser.visit(read_and_fail, status=500)).is_deletion
    assert browser.application.rows() == []


# Retries.


@BOTH
@pytest.mark.parametrize("passed", [0, GRACE + 1])
@pytest.mark.parametrize("grace", [0, GRACE])
def test_retry_after_a_rotation(
    open_used_browser, clock, violations, settings, passed, grace
):
    """A cookie that was good in the first attempt is late, whatever the grace."""
    browser = open_used_browser(**{**settings, "renewal_grace": grace})
    new, attempts = [], []

    def view(request):
        attempts.append((request.session.is_late, request.session.get("a")))
        write(request)
        if len(attempts) == 1:
            new.append(rotated(browser))
            clock.shift(passed)
            raise RetryableException

    assert sent(browser.visit(view)) is None
    assert attempts == [(False, 1), (True, None)]
    assert is_alive(twin(browser, new[0]))
    assert violations == []


@pytest.mark.parametrize("grace", [0, GRACE])
def test_conflict_with_a_login(open_used_browser, grace):
    """A write that a login has overtaken is late in its second attempt."""
    browser = open_used_browser(renewal_grace=grace)
    attempts, new = [], []

    def view(request):
        attempts.append((request.session.is_late, request.session.get("a")))
        write(request)
        if len(attempts) == 1:
            new.append(sent(visit_meanwhile(browser, log_in)))

    assert sent(browser.visit(view)) is None
    assert attempts == [(False, 1), (True, None)]
    assert twin(browser, new[0].value).ask(lambda s: (s.userid, s["a"])) == (5, 1)


def test_late_cookie_in_all_attempts(open_used_browser, clock):
    """A late one stays late in the next attempt, though the grace is over by then."""
    browser = open_used_browser(**PLAIN)
    rotated(browser)
    attempts = []

    def view(request):
        attempts.append(request.session.is_late)
        if len(attempts) == 1:
            clock.shift(GRACE + 1)
            raise RetryableException

    browser.visit(view)
    assert attempts == [True, True]


def test_useless_cookie_in_all_attempts(open_used_browser, clock):
    """One that was of no use is so in the next attempt: no attempt makes it late."""
    browser = open_used_browser(**PLAIN)
    rotated(browser)
    clock.shift(GRACE + 1)
    attempts = []

    def view(request):
        attempts.append((request.session.new, request.session.is_late))
        if len(attempts) == 1:
            raise RetryableException

    browser.visit(view)
    assert attempts == [(True, False)] * 2


# A cookie that was good when its request loaded the session.


def test_rotated_while_another_request_writes(open_used_browser):
    """It stays good until that transaction ends, and its write is merged."""
    browser = open_used_browser(**PLAIN)
    new = []

    def view(request):
        request.session["b"] = 2
        if not new:
            new.append(rotated(browser))
        assert not request.session.is_late

    assert sent(browser.visit(view)) is None
    assert twin(browser, new[0]).ask(dict) == {"a": 1, "b": 2}


def test_login_while_another_request_writes(open_browser):
    """But a row whose user changed takes nothing from it."""
    browser = open_browser(**PLAIN)
    browser.visit(write)
    new = []

    def view(request):
        request.session["b"] = 2
        new.append(sent(visit_meanwhile(browser, log_in)))

    with pytest.raises(StaleDataError, match="userid"):
        browser.visit(view)
    assert twin(browser, new[0].value).ask(dict) == {"a": 1}


def test_login_while_another_request_ends_the_session(open_browser):
    """Except an end, which wins."""
    browser = open_browser(**PLAIN)
    browser.visit(write)

    def view(request):
        invalidate(request)
        visit_meanwhile(browser, log_in)

    assert sent(browser.visit(view)).is_deletion
    assert browser.application.rows() == []


def test_two_rotations_at_once(open_used_browser):
    """One of them is tried again, and comes too late then."""
    browser = open_used_browser(**PLAIN)
    new, attempts = [], []

    def view(request):
        attempts.append(request.session.is_late)
        rotate(request)
        if not new:
            new.append(rotated(browser))

    assert sent(browser.visit(view)) is None
    assert attempts == [False, True]
    assert is_alive(twin(browser, new[0]))


# Cookies with a max-age are sent again when a tenth of it has passed.

AGE = {"cookie_max_age": 1000}
ALL = [
    {},
    {"idle_timeout": 2000},
    {"idle_timeout": 2000, "extension_delay": 500},
    {
        "idle_timeout": 2000,
        "extension_delay": 50,
        "extension_chance": 1,
        "extension_deadline": 500,
    },
]
EACH = pytest.mark.parametrize(
    "settings", ALL, ids=["no timeout", "idle", "delay", "chance"]
)


@EACH
@pytest.mark.parametrize("view", [read, write])
def test_cookie_is_sent_again(open_used_browser, clock, settings, view):
    """When a tenth has passed since it was sent, whatever is extended, or not."""
    browser = open_used_browser(**AGE, **settings)
    assert row(browser).sent == now()
    for _ in range(3):
        clock.shift(99)
        before = row(browser).sent
        assert sent(browser.visit(view)) is None
        assert row(browser).sent == before
        clock.shift(1)
        cookie = sent(browser.visit(view))
        assert cookie.id == row(browser).id
        assert "Max-Age=1000" in cookie.attributes
        assert row(browser).sent == now()
        assert sent(browser.visit(view)) is None
    assert not browser.ask(lambda session: session.new)


@EACH
def test_active_browser_stays(open_used_browser, clock, settings):
    """Nobody drops out who comes again while the cookie lasts."""
    browser = open_used_browser(**AGE, **settings)
    for _ in range(5):
        clock.shift(999)
        assert is_alive(browser)


@EACH
def test_cookie_is_sent_again_by_one_narrow_update(open_used_browser, clock, settings):
    """That is one UPDATE, which is that of the extension, too; no version is raised."""
    browser = open_used_browser(**AGE, **settings)
    version = row(browser).version
    clock.shift(501)
    with statements(browser.application.engine) as collected:
        assert sent(browser.visit(read)) is not None
    kinds = [each.split()[0] for each in collected]
    assert kinds == ["SELECT", "UPDATE"]
    assert "sent" in collected[1]
    assert "data" not in collected[1]
    assert row(browser).version == version
    if settings:
        assert row(browser).idle_expire == now() + 2000


def test_cookie_of_a_rotated_session_is_sent_again(open_used_browser, clock):
    """With its renewal id; and a rotation counts as sending."""
    browser = open_used_browser(**AGE, **PLAIN)
    clock.shift(50)
    browser.visit(rotate)
    assert row(browser).sent == now()
    clock.shift(99)
    assert sent(browser.visit(read)) is None
    clock.shift(1)
    cookie = sent(browser.visit(read))
    assert cookie.renewal_id == row(browser).renewal_id is not None


def test_cookie_without_an_age_is_sent_once(open_used_browser, clock):
    """Nothing is noted for a cookie that goes when the browser does."""
    browser = open_used_browser()
    assert row(browser).sent is None
    clock.shift(1_000_000)
    assert sent(browser.visit(read)) is None
    assert row(browser).sent is None


def test_age_that_the_row_is_older_than(open_used_browser, clock):
    """Who cannot know when it was sent sends it now."""
    browser = open_used_browser(**AGE)
    age(browser, sent=None)
    clock.shift(1)
    assert sent(browser.visit(read)) is not None
    assert row(browser).sent == now()
    assert sent(browser.visit(read)) is None


def test_age_of_the_session_s_own(open_used_browser, clock):
    """The tenth is one of the session's own age."""
    browser = open_used_browser(Own, **AGE)
    age(browser, cookie_max_age=200)
    clock.shift(19)
    assert sent(browser.visit(read)) is None
    clock.shift(1)
    assert "Max-Age=200" in sent(browser.visit(read)).attributes


def test_age_with_a_clock_that_is_set_back(open_used_browser, clock):
    """A cookie that was sent in the future is sent again."""
    browser = open_used_browser(**AGE)
    clock.shift(-100)
    assert sent(browser.visit(read)) is not None
    assert row(browser).sent == now()


@pytest.mark.parametrize("model", [Timed, Attributed])
def test_rotated_while_the_cookie_is_sent_again(open_used_browser, clock, model):
    """A cookie that was replaced meanwhile is not sent again."""
    browser = open_used_browser(model, **AGE, **PLAIN)
    clock.shift(500)
    new = []

    def slow_read(request):
        read(request)
        new.append(rotated(browser))

    assert sent(browser.visit(slow_read)) is None
    session = row(browser)
    assert session.renewal_id == sent_in(new[0])
    assert is_alive(twin(browser, new[0]))


def sent_in(value):
    """Return the renewal id in a cookie."""
    return uuid.UUID(bytes=OURS.loads(value)[16:])


def test_rotated_twice_while_the_cookie_is_sent_again(open_used_browser, clock):
    """The same where it had a renewal id before."""
    browser = open_used_browser(**AGE, **PLAIN)
    browser.visit(rotate)
    clock.shift(500)
    new = []

    def slow_read(request):
        read(request)
        new.append(rotated(browser))

    assert sent(browser.visit(slow_read)) is None
    assert row(browser).renewal_id == sent_in(new[0])


def test_rotated_while_a_write_would_send_the_cookie_again(open_used_browser, clock):
    """A write that is merged does not send what was replaced meanwhile."""
    browser = open_used_browser(**AGE, **PLAIN)
    clock.shift(500)
    new = []

    def slow_write(request):
        request.session["b"] = 2
        if not new:
            new.append(rotated(browser))

    assert sent(browser.visit(slow_write)) is None
    assert twin(browser, new[0]).ask(dict) == {"a": 1, "b": 2}


def test_ended_while_the_cookie_is_sent_again(open_used_browser, clock):
    """A session that is gone sends none."""
    browser = open_used_browser(**AGE)
    clock.shift(500)

    def slow_read(request):
        read(request)
        visit_meanwhile(browser, invalidate)

    assert sent(browser.visit(slow_read)) is None
    assert browser.application.rows() == []


def test_two_requests_that_send_the_cookie_again(open_used_browser, clock):
    """Both send the same cookie."""
    browser = open_used_browser(**AGE)
    clock.shift(500)
    meanwhile = []

    def slow_read(request):
        read(request)
        meanwhile.append(sent(visit_meanwhile(browser, read)))

    cookie = sent(browser.visit(slow_read))
    assert meanwhile[0] is not None
    assert cookie is None or cookie.id == meanwhile[0].id
    assert is_alive(browser)


def test_cookie_that_a_redirect_sends_again(open_used_browser, clock):
    """A response of any kind carries it, if the transaction commits."""
    browser = open_used_browser(**AGE)
    clock.shift(500)

    def view(request):
        read(request)
        return HTTPFound("/")

    assert sent(browser.visit(view, status=302)) is not None


@pytest.mark.parametrize("view", [rotate, log_in])
def test_rotation_is_one_update(open_used_browser, clock, view):
    """Neither a candidate nor the old cookie is tried for, though both are due."""
    settings = {**AGE, **RENEWAL, "idle_timeout": 3000}
    browser = open_used_browser(**settings)
    clock.shift(1001)
    # The browser has forgotten a cookie of that age; a copy of it is as good.
    use_cookie(browser, OURS.dumps(ids_of(row(browser))).decode("ascii"))
    with statements(browser.application.engine) as collected:
        cookie = sent(browser.visit(view))
    assert [each.split()[0] for each in collected] == ["SELECT", "UPDATE"]
    session = row(browser)
    assert cookie.renewal_id == session.renewal_id
    assert (session.sent, session.renewed) == (now(), now())
    assert session.idle_expire == now() + 3000


def ids_of(session):
    """Return what the cookie of a session carries."""
    return session.id.bytes + session.renewal_id.bytes


def test_no_candidate_beside_a_cookie_that_goes_out_again(open_browser, clock):
    """A candidate isn't drawn if another request sends the cookie again meanwhile."""
    browser = open_browser(
        Own, cookie_max_age=1000, renewal_timeout=150, renewal_grace=60
    )
    browser.visit(write)
    clock.shift(160)
    key = row(browser).id

    def view(request):
        read(request)
        # What another request notes that sends the cookie again.
        statement = update(Own).where(Own.id == key).values(sent=now())

        def send_again():
            with request.dbsession.get_bind().begin() as connection:
                connection.execute(statement)

        elsewhere(send_again)

    assert sent(browser.visit(view)) is None
    assert row(browser).renewal_next is None


def test_answer_to_a_login_with_the_candidate_is_lost(open_browser, clock):
    """The candidate is what the browser still has: it's of no use, and no theft."""
    heard = []
    browser = open_browser(
        renewal_timeout=100,
        renewal_grace=GRACE,
        configure=lambda config: config.add_subscriber(
            heard.append, RenewalViolationEvent
        ),
    )
    browser.visit(write)
    clock.shift(101)
    candidate = sent(browser.visit(read))
    browser.visit(lambda request: request.session.rotate())
    assert row(browser).rotated_from == candidate.renewal_id
    clock.shift(GRACE + 1)
    assert twin(browser, candidate.value).ask(lambda session: session.new)
    assert heard == []
    assert len(browser.application.rows()) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"idle_timeout": 1000, "extension_delay": 500},
        {"idle_timeout": 1000, "extension_chance": 1, "extension_deadline": 500},
    ],
    ids=["no timeout", "delay", "chance"],
)
def test_browser_keeps_the_cookie_while_it_is_used(open_browser, clock, settings):
    """A visit each minute, with a cookie that lasts for five."""
    browser = open_browser(Attributed, cookie_max_age=300, **settings)
    browser.visit(write)
    for _ in range(20):
        clock.shift(60)
        assert not browser.ask(lambda session: session.new)
    clock.shift(301)
    assert browser.ask(lambda session: session.new)
