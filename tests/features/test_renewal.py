"""The cookie changes now and then, so that a stolen one is noticed."""

from __future__ import annotations

import contextlib
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pyramid.request import Request
from pyramid.response import Response
from pyramid_retry import RetryableException
from sqlalchemy import event

from pyramid_sqlalchemy_sessions import InconsistentDataError, RenewalViolationEvent
from tests.application import Application, Browser, Failure, statements
from tests.features.timed import (
    OURS,
    Own,
    Timed,
    age,
    catching,
    forged,
    isolate_snapshots,
    now,
    read,
    read_and_doom,
    read_and_fail,
    row,
    sent,
    twin,
    use_cookie,
    visit_meanwhile,
    write,
    write_and_fail,
)
from tests.stories.transactions import all_of, exception_view, tween_above

TIMEOUT = 100
TRY_EVERY = 5
GRACE = 10
RENEWAL = {"renewal_timeout": TIMEOUT, "renewal_grace": GRACE}


class Recorder:
    """Tell the application to record the violations; they are events."""

    def __init__(self):
        self.events = []

    def __call__(self, config: Any) -> None:
        config.add_subscriber(self.events.append, RenewalViolationEvent)


@pytest.fixture
def recorder():
    """Return what the violations are recorded with."""
    return Recorder()


@pytest.fixture
def browser(open_browser, recorder):
    """Return a browser with a session, on each kind of database."""
    return used(open_browser(configure=recorder, **RENEWAL))


def used(browser):
    """Return the browser, which has got a session now."""
    browser.visit(write)
    return browser


def is_alive(browser):
    """Tell whether the session is still the one that was made at first."""
    return browser.ask(lambda session: not session.new and session["a"]) >= 1


def renew(browser, clock):
    """Let the session be renewed: return the old cookie and the new one."""
    old = browser.cookie
    clock.shift(TIMEOUT + 1)
    browser.visit(read)
    new = browser.cookie
    assert new != old
    browser.visit(read)
    assert row(browser).renewed == now()
    return old, new


# The candidate.


def test_cookie_of_a_new_session(open_browser):
    """The cookie carries the renewal id of the session."""
    cookie = sent(open_browser(**RENEWAL).visit(write))
    assert len(OURS.loads(cookie.value)) == 32


def test_columns_of_a_new_session(browser):
    """A new session counts as renewed, and has no candidate."""
    session = row(browser)
    assert session.renewal_id is not None
    assert session.renewed == now()
    assert (session.renewal_next, session.renewal_previous) == (None, None)
    assert session.renewal_tried is None


def test_no_candidate_until_the_timeout(browser, clock):
    """Just renewal_timeout seconds after the last renewal nothing is due."""
    clock.shift(TIMEOUT)
    with statements(browser.application.engine) as collected:
        assert sent(browser.visit(read)) is None
    assert [each.split()[0] for each in collected] == ["SELECT"]


@pytest.mark.parametrize("view", [read, write])
def test_candidate_after_the_timeout(browser, clock, view):
    """A second later a candidate is stored and sent; the id stays what it was."""
    before = row(browser)
    clock.shift(TIMEOUT + 1)
    cookie = sent(browser.visit(view))
    after = row(browser)
    assert cookie.id == after.id == before.id
    assert cookie.renewal_id == after.renewal_next != before.renewal_id
    assert after.renewal_id == before.renewal_id
    assert (after.renewed, after.renewal_tried) == (before.renewed, now())


def test_candidate_is_two_statements(browser, clock):
    """A candidate costs one UPDATE."""
    clock.shift(TIMEOUT + 1)
    with statements(browser.application.engine) as collected:
        browser.visit(read)
    assert [each.split()[0] for each in collected] == ["SELECT", "UPDATE"]


def test_unused_session_gets_no_candidate(browser, clock):
    """A request that does not use the session renews nothing."""
    clock.shift(TIMEOUT + 1)
    assert sent(browser.visit(lambda request: None)) is None
    assert row(browser).renewal_next is None


def test_old_cookie_stays_valid(browser, clock):
    """Before the candidate is acknowledged the old cookie is good, for any time."""
    old = twin(browser)
    clock.shift(TIMEOUT + 1)
    browser.visit(read)
    clock.shift(1_000_000)
    assert is_alive(old)


def test_nothing_is_sent_again_too_early(browser, clock):
    """Just renewal_try_every seconds after a candidate went out it does not again."""
    old = browser.cookie
    clock.shift(TIMEOUT + 1)
    browser.visit(read)
    clock.shift(TRY_EVERY)
    assert sent(twin(browser, old).visit(read)) is None


def test_candidate_is_sent_again(browser, clock):
    """A second later the same candidate goes out again, and the time is noted."""
    old = browser.cookie
    clock.shift(TIMEOUT + 1)
    candidate = sent(browser.visit(read)).renewal_id
    clock.shift(TRY_EVERY + 1)
    again = sent(twin(browser, old).visit(read))
    assert again.renewal_id == candidate == row(browser).renewal_next
    assert row(browser).renewal_tried == now()


def test_each_trial_counts_from_the_last_one(browser, clock):
    """The same candidate goes out as often as needed, and not more often."""
    old = browser.cookie
    clock.shift(TIMEOUT + 1)
    candidate = sent(browser.visit(read)).renewal_id
    for _ in range(3):
        clock.shift(TRY_EVERY + 1)
        assert sent(twin(browser, old).visit(read)).renewal_id == candidate
        clock.shift(TRY_EVERY)
        assert sent(twin(browser, old).visit(read)) is None


def test_try_every(open_browser, clock):
    """The setting renewal_try_every says how long to wait."""
    browser = used(open_browser(renewal_try_every=60, **RENEWAL))
    old = browser.cookie
    clock.shift(TIMEOUT + 1)
    browser.visit(read)
    clock.shift(60)
    assert sent(twin(browser, old).visit(read)) is None
    clock.shift(1)
    assert sent(twin(browser, old).visit(read)) is not None


# The takeover.


def test_takeover(browser, clock):
    """The request that brings the candidate completes the renewal, without a cookie."""
    before = row(browser)
    clock.shift(TIMEOUT + 1)
    candidate = sent(browser.visit(read)).renewal_id
    clock.shift(3)
    assert sent(browser.visit(read)) is None
    after = row(browser)
    assert after.renewal_id == candidate
    assert after.renewal_previous == before.renewal_id
    assert after.renewal_next is None
    assert after.renewed == now()


def test_takeover_by_a_late_request(browser, clock):
    """A candidate that was sent first is good as well when it was sent again."""
    old = browser.cookie
    clock.shift(TIMEOUT + 1)
    browser.visit(read)
    clock.shift(TRY_EVERY + 1)
    twin(browser, old).visit(read)
    assert is_alive(browser)
    assert row(browser).renewal_next is None


def test_takeover_by_a_write(browser, clock):
    """A request that writes completes the renewal as well."""
    clock.shift(TIMEOUT + 1)
    browser.visit(read)
    browser.visit(write)
    assert row(browser).renewal_next is None
    assert browser.ask(lambda session: session["a"]) == 2


def test_next_renewal_counts_from_the_takeover(browser, clock):
    """After the takeover the timeout begins anew."""
    renew(browser, clock)
    clock.shift(TIMEOUT)
    assert sent(browser.visit(read)) is None
    clock.shift(1)
    assert sent(browser.visit(read)) is not None


def test_many_renewals(browser, clock, recorder):
    """A session can be renewed again and again."""
    seen = {renew(browser, clock)[1] for _ in range(4)}
    assert len(seen) == 4
    assert is_alive(browser)
    assert recorder.events == []


def test_renewal_does_not_conflict_with_a_writer(browser, clock):
    """A candidate that is stored while another request writes is no conflict."""

    def slow_write(request):
        write(request)
        assert sent(visit_meanwhile(browser, read)) is not None

    clock.shift(TIMEOUT + 1)
    browser.visit(slow_write)
    assert browser.ask(lambda session: session["a"]) == 2


def test_takeover_does_not_conflict_with_a_writer(browser, clock):
    """Nor is a takeover."""

    def slow_write(request):
        write(request)
        visit_meanwhile(browser, read)

    clock.shift(TIMEOUT + 1)
    browser.visit(read)
    browser.visit(slow_write)
    assert row(browser).renewal_next is None
    assert browser.ask(lambda session: session["a"]) == 2


# Grace.


@pytest.mark.parametrize("seconds", [0, GRACE])
def test_grace(browser, clock, recorder, seconds):
    """A request that was on its way with the previous id is served without a cookie."""
    old, _ = renew(browser, clock)
    clock.shift(seconds)
    late = twin(browser, old)
    assert sent(late.visit(lambda request: write(request))) is None
    assert browser.ask(lambda session: session["a"]) == 2
    assert recorder.events == []


def test_grace_is_over(browser, clock, recorder):
    """A second later the previous id is a violation."""
    old, _ = renew(browser, clock)
    clock.shift(GRACE + 1)
    assert twin(browser, old).ask(lambda session: session.new)
    assert len(recorder.events) == 1
    assert browser.application.rows() == []


def test_grace_of_another_length(open_browser, clock, recorder):
    """The setting renewal_grace says how long the previous id is good."""
    settings = {**RENEWAL, "renewal_grace": 60}
    browser = used(open_browser(configure=recorder, **settings))
    old, _ = renew(browser, clock)
    clock.shift(60)
    assert is_alive(twin(browser, old))
    clock.shift(1)
    assert twin(browser, old).ask(lambda session: session.new)


def test_no_grace(open_browser, clock, recorder):
    """With renewal_grace 0 there is none, not even in the second of the takeover."""
    settings = {**RENEWAL, "renewal_grace": 0}
    browser = used(open_browser(configure=recorder, **settings))
    old, _ = renew(browser, clock)
    assert twin(browser, old).ask(lambda session: session.new)
    assert len(recorder.events) == 1


def test_grace_is_for_the_previous_id_only(browser, clock, recorder):
    """The id before the previous one is a violation."""
    first, _ = renew(browser, clock)
    renew(browser, clock)
    assert twin(browser, first).ask(lambda session: session.new)
    assert len(recorder.events) == 1


def test_previous_id_does_not_complete_the_next_renewal(open_browser, clock, recorder):
    """A grace ends with the renewal timeout: no candidate is out while it lasts."""
    browser = used(
        open_browser(
            configure=recorder, renewal_timeout=TIMEOUT, renewal_grace=TIMEOUT + 20
        )
    )
    old, _ = renew(browser, clock)
    clock.shift(TIMEOUT)
    late = twin(browser, old)
    assert sent(late.visit(read)) is None
    assert is_alive(late)
    assert sent(browser.visit(read)) is None
    assert row(browser).renewal_next is None
    clock.shift(1)
    candidate = sent(browser.visit(read)).renewal_id
    assert row(browser).renewal_next == candidate
    assert recorder.events == []
    assert late.ask(lambda session: session.new)
    assert len(recorder.events) == 1


def test_late_request_gets_no_cookie_that_lasts(open_browser, clock, recorder):
    """A session with a max-age sends no previous id when it is extended.

    The browser would take it for the newest cookie, and be a thief after the grace.
    """
    browser = used(
        open_browser(
            idle_timeout=1000, cookie_max_age=1000, configure=recorder, **RENEWAL
        )
    )
    old, _ = renew(browser, clock)
    clock.shift(GRACE)
    assert sent(twin(browser, old).visit(read)) is None
    assert sent(twin(browser, old).visit(write)) is None
    assert is_alive(browser)


def test_slow_request_gets_no_outdated_cookie(open_browser, clock, recorder):
    """Nor does a request that was overtaken by a renewal and its takeover."""
    browser = used(
        open_browser(
            idle_timeout=1000, cookie_max_age=1000, configure=recorder, **RENEWAL
        )
    )
    old = browser.cookie
    clock.shift(TIMEOUT + 1)
    browser.visit(read)
    clock.shift(1)
    cookies = []

    def slow_read(request):
        read(request)
        visit_meanwhile(browser, read)

    cookies.append(sent(twin(browser, old).visit(slow_read)))
    assert row(browser).renewal_next is None
    clock.shift(GRACE + 1)
    for cookie in cookies:
        if cookie is not None:
            assert is_alive(twin(browser, cookie.value))
    assert recorder.events == []


@pytest.mark.parametrize("seconds", [TIMEOUT, TIMEOUT + 1], ids=["not due", "due"])
def test_request_that_is_slower_than_a_renewal(open_browser, clock, recorder, seconds):
    """The same holds for a request that began before the candidate was drawn."""
    browser = used(
        open_browser(
            idle_timeout=1000, cookie_max_age=1000, configure=recorder, **RENEWAL
        )
    )

    def slow_read(request):
        read(request)
        clock.shift(1)
        candidate = sent(visit_meanwhile(browser, read))
        visit_meanwhile(twin(browser, candidate.value), read)

    clock.shift(seconds)
    cookie = sent(browser.visit(slow_read))
    assert row(browser).renewal_previous is not None
    clock.shift(GRACE + 1)
    if cookie is not None:
        assert is_alive(twin(browser, cookie.value))
    assert recorder.events == []


def test_unacknowledged_candidate_is_not_replaced_by_the_old_cookie(
    open_browser, clock, recorder
):
    """A cookie with a max-age that goes out again carries the candidate, if any.

    Otherwise the answer to a parallel request could take the candidate away from the
    browser after it was acknowledged.
    """
    browser = used(
        open_browser(
            idle_timeout=1000, cookie_max_age=1000, configure=recorder, **RENEWAL
        )
    )
    old = browser.cookie
    clock.shift(TIMEOUT + 1)
    browser.visit(read)
    clock.shift(1)
    late = sent(twin(browser, old).visit(read))
    browser.visit(read)
    assert row(browser).renewal_next is None
    if late is not None:
        use_cookie(browser, late.value)
    clock.shift(GRACE + 1)
    assert is_alive(browser)
    assert recorder.events == []


def test_takeover_with_a_max_age(open_browser, clock):
    """The request that completes a renewal sends its cookie again if that is due."""
    browser = used(open_browser(idle_timeout=1000, cookie_max_age=1000, **RENEWAL))
    clock.shift(TIMEOUT + 1)
    candidate = sent(browser.visit(read)).renewal_id
    assert row(browser).sent == now()
    clock.shift(100)
    again = sent(browser.visit(read))
    assert again.renewal_id == candidate == row(browser).renewal_id
    assert (row(browser).sent, row(browser).renewed) == (now(), now())


def test_takeover_soon_with_a_max_age(open_browser, clock):
    """A candidate that has just been sent isn't sent again when it comes back."""
    browser = used(open_browser(idle_timeout=1000, cookie_max_age=1000, **RENEWAL))
    clock.shift(TIMEOUT + 1)
    candidate = sent(browser.visit(read)).renewal_id
    clock.shift(99)
    assert sent(browser.visit(read)) is None
    assert row(browser).renewal_id == candidate


def test_lost_candidate_with_a_max_age(open_browser, clock):
    """Who never got the candidate gets it again before their cookie is too old."""
    settings = {**RENEWAL, "renewal_try_every": 5000}
    browser = used(open_browser(idle_timeout=1000, cookie_max_age=1000, **settings))
    clock.shift(TIMEOUT + 1)
    cookie = browser.cookie
    candidate = sent(browser.visit(read)).renewal_id
    use_cookie(browser, cookie)
    clock.shift(99)
    assert sent(browser.visit(read)) is None
    clock.shift(1)
    again = sent(browser.visit(read))
    assert "Max-Age=1000" in again.attributes
    assert again.renewal_id == candidate == row(browser).renewal_next
    assert row(browser).sent == now()
    assert sent(browser.visit(read)) is None
    assert row(browser).renewal_id == candidate


# Violations.


def test_violation(browser, recorder):
    """Another renewal id is a violation: an event, and row and cookie are gone."""
    cookie = forged(browser)
    thief = twin(browser, cookie)
    response = thief.visit(lambda request: str(request.session.new))
    assert response.text == "True"
    assert sent(response).is_deletion
    assert len(recorder.events) == 1
    assert browser.application.rows() == []
    assert browser.ask(lambda session: session.new)


def test_event_of_a_violation(browser, clock, recorder):
    """The event carries the request, the user, and no exception."""
    browser.visit(lambda request: setattr(request.session, "userid", 5))
    clock.shift(GRACE + 1)
    twin(browser, forged(browser)).visit(read, "/path")
    (event,) = recorder.events
    assert isinstance(event.request, Request)
    assert event.request.path == "/path"
    assert (event.userid, event.exception) == (5, None)


def test_event_of_a_violation_without_a_user(browser, recorder):
    """The user is None if nobody was logged in."""
    twin(browser, forged(browser)).visit(read)
    assert recorder.events[0].userid is None


def test_handler_finds_a_new_session(open_browser):
    """A handler of the event may use the session, which is a new one."""
    found = []

    def handle(event):
        session = event.request.session
        found.append((session.new, dict(session)))
        session["warning"] = "stolen?"

    browser = used(
        open_browser(
            configure=lambda config: config.add_subscriber(
                handle, RenewalViolationEvent
            ),
            **RENEWAL,
        )
    )
    thief = twin(browser, forged(browser))
    thief.visit(read)
    assert found == [(True, {})]
    assert thief.ask(dict) == {"warning": "stolen?"}


def test_violation_is_noticed_in_the_view_or_not_at_all(browser, recorder):
    """A request that does not use the session notices nothing."""
    twin(browser, forged(browser)).visit(lambda request: None)
    assert recorder.events == []
    assert is_alive(browser)


def test_stolen_cookie_is_noticed(browser, clock, recorder):
    """Once the user's cookie was renewed the thief's copy ends the session of both."""
    thief = twin(browser)
    renew(browser, clock)
    clock.shift(GRACE + 1)
    thief.visit(read)
    assert len(recorder.events) == 1
    assert browser.ask(lambda session: session.new)


def test_thief_who_was_renewed_first_is_noticed(browser, clock, recorder):
    """And so does the user's, if it was the thief's that was renewed."""
    thief = twin(browser)
    renew(thief, clock)
    clock.shift(GRACE + 1)
    browser.visit(read)
    assert len(recorder.events) == 1
    assert thief.ask(lambda session: session.new)


def test_violation_of_an_expired_session(open_browser, clock, recorder):
    """Violations are looked for even when the session has expired."""
    browser = used(open_browser(idle_timeout=10, configure=recorder, **RENEWAL))
    clock.shift(11)
    thief = twin(browser, forged(browser))
    assert sent(thief.visit(read)).is_deletion
    assert len(recorder.events) == 1
    assert browser.application.rows() == []


def test_violation_of_a_session_beyond_its_absolute_end(open_browser, clock, recorder):
    """The same holds for the absolute timeout."""
    browser = used(open_browser(absolute_timeout=10, configure=recorder, **RENEWAL))
    clock.shift(11)
    twin(browser, forged(browser)).visit(read)
    assert len(recorder.events) == 1


def test_expired_session_with_a_good_cookie_is_no_violation(
    open_browser, clock, recorder
):
    """An honest user who comes late is no thief."""
    browser = used(open_browser(idle_timeout=10, configure=recorder, **RENEWAL))
    clock.shift(11)
    assert sent(browser.visit(read)).is_deletion
    assert recorder.events == []


def test_violation_and_a_new_session(browser, recorder):
    """After a violation the session is usable as a new one, with one new cookie."""
    stolen = row(browser).id
    thief = twin(browser, forged(browser))
    cookie = sent(thief.visit(write))
    assert cookie.id == row(browser).id != stolen
    assert is_alive(thief)


@pytest.mark.parametrize(
    "view",
    [read_and_fail, write_and_fail, read_and_doom],
    ids=["read and fail", "write and fail", "doom"],
)
@pytest.mark.parametrize("answered", [True, False])
def test_violation_survives_a_rollback(open_browser, recorder, view, answered):
    """A thief must not keep a session by making the request fail."""
    configure = all_of(recorder, catching) if answered else recorder
    browser = used(open_browser(configure=configure, **RENEWAL))
    thief = twin(browser, forged(browser))
    if answered or view is read_and_doom:
        response = thief.visit(view, expect_errors=True)
        assert sent(response).is_deletion
    else:
        with pytest.raises(Failure):
            thief.visit(view)
    assert len(recorder.events) == 1
    assert browser.application.rows() == []
    assert sent(browser.visit(read)) is None


def test_violation_is_deleted_in_spite_of_a_conflict(browser, recorder):
    """A thief who provokes a conflict with the deletion keeps nothing by it."""
    conflicts = []
    dbapi: Any = browser.application.engine.dialect.dbapi

    def conflict(cursor: Any, statement: str, *args: Any) -> None:
        if statement.startswith("DELETE") and len(conflicts) < 2:
            conflicts.append(statement)
            raise dbapi.OperationalError("database is locked")

    event.listen(browser.application.engine, "do_execute", conflict)
    twin(browser, forged(browser)).visit(read)
    assert len(conflicts) == 2
    assert browser.application.rows() == []


def test_violation_in_an_exception_view_only(open_browser, recorder):
    """A violation that an exception view finds has the same effects."""
    configure = all_of(recorder, exception_view(read))
    browser = used(open_browser(configure=configure, **RENEWAL))
    thief = twin(browser, forged(browser))

    def fail(request):
        raise Failure

    response = thief.visit(fail, status=500)
    assert response.text == "None"
    assert sent(response).is_deletion
    assert len(recorder.events) == 1
    assert browser.application.rows() == []


def test_violation_above_the_transaction(open_browser, recorder):
    """Nor does it matter that a tween above pyramid_tm finds it."""

    def tween(handler, request):
        read(request)
        return handler(request)

    configure = all_of(recorder, tween_above(tween))
    browser = used(open_browser(configure=configure, **RENEWAL))
    thief = twin(browser, forged(browser))
    response = thief.visit(read)
    assert response.text == "None"
    assert sent(response).is_deletion
    assert len(recorder.events) == 1
    assert browser.application.rows() == []


def test_violation_below_a_tween_that_reads_after_it(open_browser, recorder):
    """A violation is one event, though the session is read again after a rollback."""

    def tween(handler, request):
        with contextlib.suppress(Failure):
            handler(request)
        return Response(read(request))

    configure = all_of(recorder, tween_above(tween))
    browser = used(open_browser(configure=configure, **RENEWAL))
    thief = twin(browser, forged(browser))
    response = thief.visit(read_and_fail)
    assert response.text == "None"
    assert sent(response).is_deletion
    assert len(recorder.events) == 1
    assert browser.application.rows() == []


def test_violation_in_the_first_transaction_of_two(browser, recorder):
    """A violation is one event, though the session is used in two transactions."""

    def view(request):
        read(request)
        request.tm.commit()
        request.tm.begin()
        return read(request)

    thief = twin(browser, forged(browser))
    response = thief.visit(view)
    assert response.text == "None"
    assert sent(response).is_deletion
    assert len(recorder.events) == 1
    assert browser.application.rows() == []


def test_violation_in_an_attempt_that_is_retried(open_browser, recorder):
    """However often the request is tried: row and cookie are gone in the end."""
    attempts = []

    def view(request):
        read(request)
        attempts.append(request)
        if len(attempts) < 3:
            raise RetryableException

    configure = all_of(recorder, lambda config: config.include("pyramid_retry"))
    browser = used(open_browser(configure=configure, **RENEWAL))
    thief = twin(browser, forged(browser))
    response = thief.visit(view)
    assert len(attempts) == 3
    assert browser.application.rows() == []
    assert sent(response).is_deletion


def test_violation_in_a_subrequest(browser, recorder):
    """A violation that only a subrequest finds is no trouble for a writing request."""

    def outer(request):
        write_row(request)
        headers = {"Cookie": request.headers["Cookie"]}
        sub = Request.blank("/", headers=headers)
        sub.environ["app.dbsession"] = request.dbsession
        sub.tm = request.tm
        browser.application.view = read
        return request.invoke_subrequest(sub).text

    def write_row(request):
        """Hold the lock that SQLite has for a writer, as the application does."""
        request.dbsession.add(_other_row())
        request.dbsession.flush()

    thief = twin(browser, forged(browser))
    stolen = row(browser).id
    assert thief.visit(outer).text == "None"
    assert len(recorder.events) == 1
    assert stolen not in [each.id for each in browser.application.rows()]


def _other_row():
    """Return a row that the application writes."""
    return Timed(
        id=uuid.uuid4(), created=now(), data=b"\x80\x04}\x94.", flash={}, version=1
    )


def test_two_cookies_of_which_one_is_a_violation(browser, recorder):
    """A good cookie beside a bad one is used, and stays."""
    other = used(twin(browser, forged(browser)))
    rows = {each.id: each for each in browser.application.rows()}
    assert len(rows) == 1
    good = used(Browser(browser.application))
    bad = forged_for(other)
    header = f"session={bad}; session={good.cookie}"
    recorder.events.clear()
    fresh = Browser(browser.application)
    response = fresh.visit(read, headers={"Cookie": header})
    assert response.text == "1"
    assert sent(response) is None
    assert len(recorder.events) == 1
    assert len(browser.application.rows()) == 1
    assert is_alive(good)


@pytest.mark.parametrize("step", ["used", "due", "acknowledged", "late"])
def test_good_cookie_beside_that_of_an_expired_session(
    open_browser, clock, recorder, step
):
    """A good cookie stays what it is, or gets its candidate, beside an expired one."""
    browser = used(open_browser(absolute_timeout=1000, configure=recorder, **RENEWAL))
    expired = browser.cookie
    clock.shift(950 if step == "used" else 900)
    good = used(Browser(browser.application))
    old = good.cookie
    clock.shift(1001 - 950 if step == "used" else TIMEOUT + 1)
    if step in ("acknowledged", "late"):
        good.visit(read)
    if step == "late":
        good.visit(read)
    value = old if step == "late" else good.cookie
    fresh = Browser(browser.application)
    header = f"session={expired}; session={value}"
    response = fresh.visit(read, headers={"Cookie": header})
    assert response.text == "1"
    cookie = sent(response)
    assert row(browser).created > now() - 1000
    clock.shift(GRACE + 1)
    kept = good.cookie if step == "late" else value
    assert is_alive(twin(browser, kept if cookie is None else cookie.value))
    assert recorder.events == []


@pytest.mark.parametrize("is_first", [True, False])
def test_outdated_and_good_cookie_of_one_session(browser, clock, recorder, is_first):
    """Beside a good cookie an outdated one ends the session, or does not matter.

    What the view sees is in any case what becomes of the session.
    """
    old, new = renew(browser, clock)
    clock.shift(GRACE + 1)
    values = [old, new] if is_first else [new, old]
    header = "; ".join(f"session={value}" for value in values)

    def view(request):
        was_new = request.session.new
        write(request)
        return str(was_new)

    fresh = Browser(browser.application)
    was_new = fresh.visit(view, headers={"Cookie": header}).text == "True"
    assert (len(recorder.events) == 1) == was_new
    assert row(browser).id == uuid.UUID(bytes=OURS.loads(fresh.cookie or new)[:16])
    assert browser.ask(lambda session: session.new) == was_new
    assert was_new or browser.ask(lambda session: session["a"]) == 2


@pytest.mark.parametrize("is_good_one_there", [False, True])
def test_two_outdated_cookies_of_one_session(
    browser, clock, recorder, is_good_one_there
):
    """However many outdated cookies come at once: it is one violation, or none."""
    first, second = renew(browser, clock)
    renew(browser, clock)
    clock.shift(GRACE + 1)
    values = [first, second, *([browser.cookie] if is_good_one_there else [])]
    header = "; ".join(f"session={value}" for value in values)
    fresh = Browser(browser.application)
    fresh.visit(read, headers={"Cookie": header})
    assert len(recorder.events) == (0 if is_good_one_there else 1)
    assert len(browser.application.rows()) == (1 if is_good_one_there else 0)


def forged_for(browser):
    """Return a cookie for the browser's own session with a wrong renewal id."""
    session_id = OURS.loads(browser.cookie)[:16]
    return OURS.dumps(session_id + uuid.uuid4().bytes).decode("ascii")


# Rollbacks.


@pytest.mark.parametrize("view", [read_and_fail, write_and_fail, read_and_doom])
def test_rollback_undoes_the_candidate(open_browser, clock, view):
    """A request that is not committed stores and sends no candidate."""
    browser = used(open_browser(configure=catching, **RENEWAL))
    clock.shift(TIMEOUT + 1)
    assert sent(browser.visit(view, expect_errors=True)) is None
    assert row(browser).renewal_next is None
    assert sent(browser.visit(read)) is not None


@pytest.mark.parametrize("view", [read_and_fail, write_and_fail, read_and_doom])
def test_rollback_undoes_the_takeover(open_browser, clock, view):
    """A request that is not committed completes no renewal; the next one does."""
    browser = used(open_browser(configure=catching, **RENEWAL))
    clock.shift(TIMEOUT + 1)
    candidate = sent(browser.visit(read)).renewal_id
    browser.visit(view, expect_errors=True)
    assert row(browser).renewal_next == candidate
    assert is_alive(browser)
    assert row(browser).renewal_id == candidate


def test_exception_view_that_writes_renews(open_browser, clock):
    """What an exception view stores takes along what is due."""
    flash = exception_view(lambda request: request.session.flash("sorry"))
    browser = used(open_browser(configure=flash, **RENEWAL))
    clock.shift(TIMEOUT + 1)
    cookie = sent(browser.visit(write_and_fail, status=500))
    assert cookie is None or cookie.renewal_id == row(browser).renewal_next
    assert browser.ask(lambda session: (session["a"], session.pop_flash())) == (
        1,
        ["sorry"],
    )


def test_retry_sends_one_candidate(open_browser, clock):
    """The candidate of an attempt that failed is forgotten."""
    attempts = []

    def view(request):
        write(request)
        attempts.append(request)
        if len(attempts) < 3:
            raise RetryableException

    browser = used(
        open_browser(
            configure=lambda config: config.include("pyramid_retry"), **RENEWAL
        )
    )
    clock.shift(TIMEOUT + 1)
    cookie = sent(browser.visit(view))
    assert len(attempts) == 3
    assert cookie.renewal_id == row(browser).renewal_next
    assert browser.ask(lambda session: session["a"]) == 2


def test_candidate_is_not_confirmed_by_its_own_request(browser, clock):
    """Only a cookie from the browser completes a renewal, not a second transaction."""

    def view(request):
        read(request)
        request.tm.commit()
        request.tm.begin()
        read(request)

    before = row(browser)
    clock.shift(TIMEOUT + 1)
    cookie = sent(browser.visit(view))
    after = row(browser)
    assert after.renewal_id == before.renewal_id
    assert after.renewal_next == cookie.renewal_id
    assert is_alive(browser)


def test_second_transaction_that_writes_keeps_the_candidate(browser, clock):
    """The candidate of the first transaction goes out, whatever the second one does."""

    def view(request):
        read(request)
        request.tm.commit()
        request.tm.begin()
        write(request)

    clock.shift(TIMEOUT + 1)
    cookie = sent(browser.visit(view))
    assert cookie.renewal_id == row(browser).renewal_next
    assert browser.ask(lambda session: session["a"]) == 2


def test_second_transaction_that_fails_keeps_the_candidate(open_browser, clock):
    """It was stored by the first one, and so it is sent."""

    def view(request):
        read(request)
        request.tm.commit()
        request.tm.begin()
        write(request)
        raise Failure

    browser = used(open_browser(configure=catching, **RENEWAL))
    clock.shift(TIMEOUT + 1)
    cookie = sent(browser.visit(view, status=500))
    assert cookie.renewal_id == row(browser).renewal_next
    assert is_alive(browser)


# Requests at the same time.


def test_two_requests_that_are_both_due(browser, clock):
    """Of requests that are due at the same time exactly one sends a candidate."""
    meanwhile = []

    def slow_read(request):
        read(request)
        meanwhile.append(sent(visit_meanwhile(browser, read)))

    clock.shift(TIMEOUT + 1)
    assert sent(browser.visit(slow_read)) is None
    assert meanwhile[0].renewal_id == row(browser).renewal_next


def test_two_requests_that_both_send_again(browser, clock):
    """The same holds when a candidate is to be sent again: one does, and the same."""
    old = browser.cookie
    clock.shift(TIMEOUT + 1)
    candidate = sent(browser.visit(read)).renewal_id
    clock.shift(TRY_EVERY + 1)
    late = twin(browser, old)
    meanwhile = []

    def slow_read(request):
        read(request)
        meanwhile.append(sent(visit_meanwhile(late, read)))

    assert sent(late.visit(slow_read)) is None
    assert meanwhile[0].renewal_id == candidate


def test_two_requests_with_the_candidate(browser, clock):
    """Two requests may bring the candidate at the same time."""

    def slow_read(request):
        read(request)
        assert sent(visit_meanwhile(browser, read)) is None

    clock.shift(TIMEOUT + 1)
    candidate = sent(browser.visit(read)).renewal_id
    assert sent(browser.visit(slow_read)) is None
    assert row(browser).renewal_id == candidate
    assert is_alive(browser)


def test_slow_request_with_the_old_id(browser, clock, recorder):
    """A slow request with the old id neither undoes nor repeats the renewal."""
    old = browser.cookie
    clock.shift(TIMEOUT + 1)
    browser.visit(read)
    clock.shift(TRY_EVERY + 1)

    def slow_write(request):
        write(request)
        visit_meanwhile(browser, read)

    assert sent(twin(browser, old).visit(slow_write)) is None
    assert row(browser).renewal_next is None
    assert browser.ask(lambda session: session["a"]) == 2
    assert recorder.events == []


@pytest.mark.parametrize("number", [8])
def test_many_requests_at_once(browser, clock, recorder, number):
    """However many requests are due at once, one candidate goes out."""
    barrier = threading.Barrier(number)

    def view(request):
        read(request)
        barrier.wait(10)

    clock.shift(TIMEOUT + 1)
    browsers = [twin(browser) for _ in range(number)]
    with ThreadPoolExecutor(number) as pool:
        responses = list(pool.map(lambda each: each.visit(view), browsers))
    cookies = [each for each in map(sent, responses) if each is not None]
    assert [each.renewal_id for each in cookies] == [row(browser).renewal_next]
    assert recorder.events == []


STRICT = {
    "SERIALIZABLE": {"isolation_level": "SERIALIZABLE"},
    "REPEATABLE READ": {"isolation_level": "REPEATABLE READ"},
}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("options", STRICT.values(), ids=STRICT)
def test_requests_at_once_at_strict_levels(make_engine, clock, options):
    """None of them fails at the levels that refuse what another one wrote."""
    check_requests_at_once(make_engine(**options), clock)


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
def test_requests_at_once_at_snapshot_isolation(make_engine, clock):
    """Nor on MariaDB with what is its default from version 11.6 on."""
    check_requests_at_once(isolate_snapshots(make_engine()), clock)


def check_requests_at_once(engine, clock):
    """Send a candidate, and complete the renewal, in two requests at once."""
    Timed.__table__.create(engine)
    browser = used(Browser(Application(engine, Timed, **RENEWAL)))
    meanwhile = []

    def slow_read(request):
        read(request)
        meanwhile.append(sent(visit_meanwhile(browser, read)))

    clock.shift(TIMEOUT + 1)
    assert sent(browser.visit(slow_read)) is None
    assert meanwhile[0].renewal_id == row(browser).renewal_next
    use_cookie(browser, meanwhile[0].value)
    browser.visit(slow_read)
    assert row(browser).renewal_next is None
    assert is_alive(browser)


# Rotation.


def test_rotation_renews(browser, clock, recorder):
    """A rotated session has a new renewal id, and counts as renewed; its id stays."""
    before = row(browser)
    old = browser.cookie
    clock.shift(50)
    cookie = sent(browser.visit(lambda request: request.session.rotate()))
    after = row(browser)
    assert (cookie.id, cookie.renewal_id) == (after.id, after.renewal_id)
    assert after.id == before.id
    assert after.renewal_id != before.renewal_id
    assert (after.rotated, after.rotated_from) == (now(), before.renewal_id)
    assert after.renewed == now()
    assert twin(browser, old).ask(lambda session: session.new)
    assert recorder.events == []
    assert is_alive(browser)


def test_rotation_when_renewal_is_due(browser, clock):
    """A request that rotates the session sends the new id, and no candidate."""
    clock.shift(TIMEOUT + 1)
    cookie = sent(browser.visit(lambda request: request.session.rotate()))
    session = row(browser)
    assert (cookie.id, cookie.renewal_id) == (session.id, session.renewal_id)
    assert session.renewal_next is None


@pytest.mark.parametrize("acknowledged", [True, False])
def test_rotation_while_a_candidate_is_under_way(
    browser, clock, recorder, acknowledged
):
    """The candidate is forgotten; cookies with it, and the old ones, are dead."""
    old = browser.cookie
    clock.shift(TIMEOUT + 1)
    browser.visit(read)
    candidate = browser.cookie
    if not acknowledged:
        use_cookie(browser, old)
    browser.visit(lambda request: request.session.rotate())
    session = row(browser)
    assert (session.renewal_next, session.renewal_previous) == (None, None)
    for value in (old, candidate):
        assert twin(browser, value).ask(lambda session: session.new)
    assert recorder.events == []
    clock.shift(TRY_EVERY + 1)
    assert sent(browser.visit(read)) is None
    assert is_alive(browser)


def test_rotation_after_a_takeover(browser, clock, recorder):
    """A late request with the previous id finds no session, and is no thief."""
    old, _ = renew(browser, clock)
    browser.visit(lambda request: request.session.rotate())
    late = twin(browser, old)
    response = late.visit(lambda request: str(request.session.new))
    assert response.text == "True"
    assert sent(response) is None
    assert recorder.events == []


def test_login_and_renewal(browser, clock, recorder):
    """Who logs in and out keeps on being renewed."""

    def log_in(request):
        request.session.userid = 5

    def log_out(request):
        request.session.userid = None

    for view in (log_in, log_out, log_in):
        renew(browser, clock)
        cookie = sent(browser.visit(view))
        assert cookie.renewal_id == row(browser).renewal_id
        assert is_alive(browser)
    assert recorder.events == []


def test_login_with_the_previous_id(browser, clock, recorder):
    """A request in its grace that logs in sends the new cookie."""
    old, _ = renew(browser, clock)
    late = twin(browser, old)
    cookie = sent(late.visit(lambda request: setattr(request.session, "userid", 5)))
    assert cookie.renewal_id == row(browser).renewal_id
    assert is_alive(late)
    assert recorder.events == []


def test_rotation_beside_a_request_that_is_due(browser, clock, recorder):
    """A candidate for a session that got another id meanwhile is not sent."""
    rotated = []

    def slow_read(request):
        read(request)
        rotated.append(
            sent(visit_meanwhile(browser, lambda request: request.session.rotate()))
        )

    clock.shift(TIMEOUT + 1)
    assert sent(browser.visit(slow_read)) is None
    assert is_alive(twin(browser, rotated[0].value))
    assert recorder.events == []


def test_rotation_after_a_request_that_was_due(browser, clock, recorder):
    """A candidate that another request stored does not trouble a rotated session."""

    def slow_rotation(request):
        request.session.rotate()
        assert sent(visit_meanwhile(browser, read)) is not None

    clock.shift(TIMEOUT + 1)
    cookie = sent(browser.visit(slow_rotation))
    assert cookie.renewal_id == row(browser).renewal_id
    for _ in range(3):
        clock.shift(TRY_EVERY + 1)
        assert is_alive(browser)
    assert recorder.events == []


@pytest.mark.parametrize("acknowledged", [False, True])
def test_rotation_leaves_nothing_of_another_request(browser, clock, acknowledged):
    """A rotated session has nothing of a renewal that went on meanwhile."""

    def slow_rotation(request):
        request.session.rotate()
        candidate = sent(visit_meanwhile(browser, read))
        if acknowledged:
            visit_meanwhile(twin(browser, candidate.value), read)

    clock.shift(TIMEOUT + 1)
    cookie = sent(browser.visit(slow_rotation))
    session = row(browser)
    assert cookie.renewal_id == session.renewal_id
    assert (session.renewal_next, session.renewal_previous) == (None, None)
    assert session.renewal_tried is None
    clock.shift(TIMEOUT)
    assert sent(browser.visit(read)) is None


def test_invalidated_while_a_candidate_is_under_way(browser, clock):
    """A session that ends ends, whatever was due."""
    clock.shift(TIMEOUT + 1)
    response = browser.visit(lambda request: request.session.invalidate())
    assert sent(response).is_deletion
    assert browser.application.rows() == []


# Clocks and other timeouts.


def test_clock_that_is_set_back(browser, clock, recorder):
    """A clock that jumps backwards neither ends nor blocks a session."""
    clock.shift(-1_000_000)
    assert sent(browser.visit(read)) is None
    assert is_alive(browser)
    clock.shift(1_000_000)
    renew(browser, clock)
    assert recorder.events == []


@pytest.mark.parametrize(("seconds", "is_good"), [(GRACE, True), (GRACE + 1, False)])
def test_clock_that_is_set_back_after_a_takeover(
    browser, clock, recorder, seconds, is_good
):
    """A clock that is set back lengthens no grace, and makes no thief of anyone."""
    old, _ = renew(browser, clock)
    clock.shift(-seconds)
    late = twin(browser, old)
    assert late.ask(lambda session: session.new) is not is_good
    assert late.cookie == old
    assert is_alive(browser)
    assert recorder.events == []


def test_clock_that_is_set_back_after_a_takeover_without_a_grace(
    open_browser, clock, recorder
):
    """Where there is no grace the previous id is a violation, whatever the clock."""
    settings = {**RENEWAL, "renewal_grace": 0}
    browser = used(open_browser(configure=recorder, **settings))
    old, _ = renew(browser, clock)
    clock.shift(-1)
    assert twin(browser, old).ask(lambda session: session.new)
    assert len(recorder.events) == 1


def test_clock_that_is_set_back_after_a_trial(browser, clock, recorder):
    """A candidate that was sent in the future can be acknowledged."""
    clock.shift(TIMEOUT + 1)
    browser.visit(read)
    clock.shift(-50)
    assert is_alive(browser)
    assert row(browser).renewal_next is None
    assert recorder.events == []


def test_renewal_and_extension_in_one_request(open_browser, clock):
    """Both are done when both are due."""
    browser = used(open_browser(idle_timeout=1000, **RENEWAL))
    clock.shift(TIMEOUT + 1)
    cookie = sent(browser.visit(read))
    session = row(browser)
    assert cookie.renewal_id == session.renewal_next
    assert session.idle_expire == now() + 1000


# Settings that change.


def test_timeout_that_is_none_is_off(open_browser, clock):
    """Without a timeout there is no renewal id in row and cookie."""
    browser = open_browser()
    cookie = sent(browser.visit(write))
    assert cookie.renewal_id is None
    assert row(browser).renewal_id is None
    assert row(browser).renewed is None
    clock.shift(1_000_000)
    assert sent(browser.visit(read)) is None
    assert is_alive(browser)


def test_renewal_that_is_switched_on(open_browser, recorder):
    """A cookie without a renewal id is of no use then; that is no violation."""
    browser = used(open_browser())
    later = twin(open_browser(configure=recorder, **RENEWAL), browser.cookie)
    assert later.ask(lambda session: session.new)
    assert recorder.events == []


def test_login_after_renewal_was_switched_on(open_browser, recorder):
    """One login later all is well."""
    browser = used(open_browser())
    later = twin(open_browser(configure=recorder, **RENEWAL), browser.cookie)
    cookie = sent(later.visit(write))
    assert cookie.renewal_id is not None
    assert is_alive(later)
    assert recorder.events == []


def test_renewal_that_is_switched_off(open_browser, clock, recorder):
    """Cookies with a renewal id are good without renewal, whatever the id."""
    browser = used(open_browser(configure=recorder, **RENEWAL))
    later = twin(open_browser(configure=recorder), forged(browser))
    clock.shift(TIMEOUT + 1)
    assert is_alive(later)
    assert recorder.events == []


def test_cookie_after_renewal_was_switched_off(open_browser):
    """A rotated session has a renewal id, with renewal or without it."""
    browser = used(open_browser(**RENEWAL))
    old = browser.cookie
    later = twin(open_browser(renewal_grace=GRACE), old)
    cookie = sent(later.visit(lambda request: request.session.rotate()))
    assert cookie.renewal_id == row(browser).renewal_id
    assert is_alive(later)
    assert twin(later, old).ask(lambda session: session.new)


def test_renewal_that_is_switched_off_and_on(open_browser, clock, recorder):
    """A cookie that went through both is as good as before."""
    browser = used(open_browser(configure=recorder, **RENEWAL))
    use = twin(open_browser(), browser.cookie)
    use.visit(write)
    clock.shift(TIMEOUT + 1)
    renew(browser, clock)
    assert is_alive(browser)
    assert recorder.events == []


# Timeouts of the session's own.


def test_new_session_has_the_timeout_of_the_application(open_browser, clock):
    """With ConfigRenewalMixin a session keeps the settings that it was made with."""
    browser = used(open_browser(Own, renewal_try_every=30, **RENEWAL))
    later = twin(open_browser(Own, renewal_timeout=10), browser.cookie)
    old = browser.cookie
    clock.shift(TIMEOUT)
    assert sent(later.visit(read)) is None
    clock.shift(1)
    assert sent(later.visit(read)) is not None
    use_cookie(later, old)
    clock.shift(30)
    assert sent(later.visit(read)) is None
    clock.shift(1)
    assert sent(later.visit(read)) is not None


def test_session_without_a_timeout_of_its_own(open_browser, clock, recorder):
    """NULL is no renewal, whatever the application has."""
    browser = used(open_browser(Own))
    later = twin(open_browser(Own, configure=recorder, **RENEWAL), browser.cookie)
    clock.shift(TIMEOUT + 1)
    assert sent(later.visit(read)) is None
    assert is_alive(later)


def test_violation_of_a_session_with_a_timeout_of_its_own(open_browser, recorder):
    """Renewal that is on for the session alone finds thieves as well."""
    browser = used(open_browser(Own, **RENEWAL))
    thief = twin(open_browser(Own, configure=recorder), forged(browser))
    assert sent(thief.visit(read)).is_deletion
    assert len(recorder.events) == 1
    assert browser.application.rows() == []


@pytest.mark.parametrize(
    "columns",
    [
        {"renewal_timeout": 0},
        {"renewal_timeout": 100_000_001},
        {"renewal_try_every": 0},
        {"renewal_try_every": 32768},
    ],
    ids=str,
)
def test_bad_settings_of_its_own(open_lite_browser, columns):
    """What never was a setting is an error that names it."""
    browser = used(open_lite_browser(Own, **RENEWAL))
    age(browser, **columns)
    with pytest.raises(InconsistentDataError, match=next(iter(columns))):
        browser.visit(read)


def test_settings_that_the_row_is_older_than(open_browser, clock):
    """NULL is the setting of the application where it is no value of the session's."""
    browser = used(open_browser(Own, **RENEWAL))
    age(browser, renewal_try_every=None)
    old = browser.cookie
    later = twin(open_browser(Own, renewal_try_every=30), old)
    assert later.ask(lambda session: session.settings.renewal_try_every) == 30
    clock.shift(TIMEOUT + 1)
    assert sent(later.visit(read)) is not None
    use_cookie(later, old)
    clock.shift(30)
    assert sent(later.visit(read)) is None
    clock.shift(1)
    assert sent(later.visit(read)) is not None
    assert row(browser).renewal_try_every is None
