"""A session ends some time after it was made, however much it is used."""

from __future__ import annotations

import pytest
from sqlalchemy.orm.exc import StaleDataError

from pyramid_sqlalchemy_sessions import InconsistentDataError
from tests.application import statements
from tests.features.timed import (
    Own,
    age,
    catching,
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

TIMEOUT = 100


@pytest.fixture
def browser(open_browser):
    """Return a browser with a session, on each kind of database."""
    return used(open_browser(absolute_timeout=TIMEOUT))


def used(browser):
    """Return the browser, which has got a session now."""
    browser.visit(write)
    return browser


def is_alive(browser):
    """Tell whether the session is still the one that was made at first."""
    return browser.ask(lambda session: not session.new and session["a"]) >= 1


def test_session_lives_in_its_last_second(browser, clock):
    """A session is alive as long as now is not greater than its expiry."""
    clock.shift(TIMEOUT + 0.9)
    assert is_alive(browser)


def test_session_is_dead_one_second_later(browser, clock):
    """A session has expired when now is greater than its expiry: it is a new one."""
    clock.shift(TIMEOUT + 1)
    assert browser.ask(lambda session: (dict(session), session.new)) == ({}, True)


@pytest.mark.parametrize(
    "act",
    [
        lambda session: session.get("a"),
        lambda session: session.update(a=5),
        lambda session: session.changed(),
        lambda session: session.rotate(),
        lambda session: setattr(session, "userid", 5),
    ],
    ids=["read", "write", "changed", "rotate", "log in"],
)
def test_activity_does_not_extend(open_lite_browser, clock, act):
    """Whatever is done to a session, it ends when it has to."""
    browser = used(open_lite_browser(absolute_timeout=TIMEOUT))
    created = row(browser).created
    clock.shift(TIMEOUT)
    browser.ask(act)
    assert row(browser).created == created
    clock.shift(1)
    assert browser.ask(lambda session: session.new)


def test_read_writes_nothing(browser, clock):
    """This timeout alone costs no statement."""
    clock.shift(TIMEOUT)
    with statements(browser.application.engine) as collected:
        browser.visit(read)
    assert [each.split()[0] for each in collected] == ["SELECT"]


def test_next_session_has_a_timeout_of_its_own(browser, clock):
    """The session after an expired one counts from its own beginning."""
    clock.shift(TIMEOUT + 1)
    browser.visit(write)
    assert row(browser).created == now()
    clock.shift(TIMEOUT)
    assert is_alive(browser)


def test_session_after_an_invalidated_one(browser, clock):
    """What follows invalidate() counts from then on."""

    def begin_anew(request):
        request.session.invalidate()
        write(request)

    clock.shift(60)
    browser.visit(begin_anew)
    clock.shift(TIMEOUT)
    assert is_alive(browser)


def test_expired_session_is_deleted_with_its_cookie(browser, clock):
    """Who finds a session expired deletes it, and its cookie in the same response."""
    clock.shift(TIMEOUT + 1)
    assert sent(browser.visit(read)).is_deletion
    assert browser.application.rows() == []


@pytest.mark.parametrize("view", [read_and_fail, write_and_fail, read_and_doom])
def test_rollback_undoes_the_deletion(open_browser, clock, view):
    """A request that is not committed deletes no expired session, nor its cookie."""
    browser = used(open_browser(absolute_timeout=TIMEOUT, configure=catching))
    clock.shift(TIMEOUT + 1)
    assert sent(browser.visit(view, expect_errors=True)) is None
    assert len(browser.application.rows()) == 1
    assert sent(browser.visit(read)).is_deletion
    assert browser.application.rows() == []


def test_session_that_expires_while_it_is_being_written(browser, clock):
    """A request that began in time does not bring back what another one deleted."""

    def slow_write(request):
        write(request)
        with pausing(clock, 1):
            assert sent(visit_meanwhile(browser, read)).is_deletion

    clock.shift(TIMEOUT)
    with pytest.raises(StaleDataError):
        browser.visit(slow_write)
    assert browser.application.rows() == []


@pytest.mark.parametrize("seconds", [-50, -100_000_000])
def test_clock_that_is_set_back(browser, clock, seconds):
    """A session that seems to come from the future is alive."""
    clock.shift(seconds)
    assert is_alive(browser)


# With the idle timeout.


def test_idle_timeout_comes_first(open_browser, clock):
    """A session that is not used ends by the idle timeout."""
    browser = used(open_browser(absolute_timeout=TIMEOUT, idle_timeout=30))
    clock.shift(31)
    assert browser.ask(lambda session: session.new)


def test_absolute_timeout_comes_though_the_session_is_used(open_browser, clock):
    """A session that is used again and again ends by the absolute timeout."""
    browser = used(open_browser(absolute_timeout=TIMEOUT, idle_timeout=30))
    for _ in range(4):
        clock.shift(25)
        assert is_alive(browser)
    clock.shift(1)
    assert browser.ask(lambda session: session.new)
    assert browser.application.rows() == []


# Settings that change.


def test_timeout_that_is_none_is_off(open_browser, clock):
    """Without a timeout a session lives for ever."""
    browser = used(open_browser())
    clock.shift(1_000_000_000)
    assert is_alive(browser)


def test_timeout_that_is_switched_off(open_browser, clock):
    """A session lives on when the timeout is taken away."""
    browser = used(open_browser(absolute_timeout=TIMEOUT))
    later = twin(open_browser(), browser.cookie)
    clock.shift(TIMEOUT + 1)
    assert is_alive(later)


@pytest.mark.parametrize("before", [{}, {"absolute_timeout": 5000}])
def test_timeout_that_changes(open_browser, clock, before):
    """A new timeout counts from when the session was made."""
    browser = used(open_browser(**before))
    later = twin(open_browser(absolute_timeout=TIMEOUT), browser.cookie)
    clock.shift(TIMEOUT)
    assert is_alive(later)
    clock.shift(1)
    assert later.ask(lambda session: session.new)


# Timeouts of the session's own.


def test_new_session_has_the_timeout_of_the_application(open_browser, clock):
    """With ConfigAbsoluteMixin a session keeps the end that it was made with."""
    browser = used(open_browser(Own, absolute_timeout=TIMEOUT))
    assert row(browser).absolute_expire == row(browser).created + TIMEOUT
    later = twin(open_browser(Own, absolute_timeout=10), browser.cookie)
    assert later.ask(lambda session: session.settings.absolute_timeout) == TIMEOUT
    clock.shift(TIMEOUT)
    assert is_alive(later)
    clock.shift(1)
    assert sent(later.visit(read)).is_deletion
    assert later.application.rows() == []


def test_session_without_a_timeout_of_its_own(open_browser, clock):
    """NULL is no timeout, whatever the application has."""
    browser = used(open_browser(Own))
    assert row(browser).absolute_expire is None
    later = twin(open_browser(Own, absolute_timeout=10), browser.cookie)
    clock.shift(1000)
    assert is_alive(later)


@pytest.mark.parametrize("timeout", [0, -1])
def test_bad_end_of_its_own(open_lite_browser, timeout):
    """An end that no setting can lead to is an error that names the setting."""
    browser = used(open_lite_browser(Own))
    age(browser, absolute_expire=row(browser).created + timeout)
    with pytest.raises(InconsistentDataError, match="absolute_timeout"):
        browser.visit(read)
