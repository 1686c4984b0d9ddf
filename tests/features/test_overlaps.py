"""Requests of one browser overlap a renewal or a login, and it stays logged in.

What ``tests/stories/test_renewal_simulation.py`` meets by chance, told one by one.
"""

from __future__ import annotations

import pytest

from pyramid_sqlalchemy_sessions import RenewalViolationEvent
from tests.features.timed import read, sent, twin, use_cookie, visit_meanwhile, write

TIMEOUT = 100
GRACE = 10
RENEWAL = {"renewal_timeout": TIMEOUT, "renewal_grace": GRACE}
LASTING = {"idle_timeout": 1000, "cookie_max_age": 1000}


@pytest.fixture
def violations():
    """The violations that the application was told of."""
    return []


@pytest.fixture
def configure(violations):
    """Include pyramid_retry, and collect the violations."""

    def configure(config):
        config.include("pyramid_retry")
        config.add_subscriber(violations.append, RenewalViolationEvent)

    return configure


@pytest.fixture
def open_used_browser(open_browser, configure):
    """Make browsers that have a session, on each kind of database."""
    return opener(open_browser, configure)


@pytest.fixture
def open_used_lite_browser(open_lite_browser, configure):
    """Make browsers that have a session, on SQLite."""
    return opener(open_lite_browser, configure)


def opener(open_browser, configure):
    """Make browsers that have a session."""

    def open_used_browser(**settings):
        browser = open_browser(configure=configure, **settings)
        browser.visit(write)
        return browser

    return open_used_browser


def stays(browser, clock):
    """Tell whether the browser keeps its session as it goes on."""
    for _ in range(4):
        clock.shift(GRACE // 2)
        if browser.ask(lambda session: session.new):
            return False
    return True


@pytest.mark.parametrize("sent_before_due", range(GRACE))
def test_late_cookie_with_an_age(
    open_used_lite_browser, clock, violations, sent_before_due
):
    """A cookie that goes out again, and comes late, does not undo a renewal.

    The response takes less than the grace, and overtakes nothing that is older.
    """
    browser = open_used_lite_browser(**LASTING, **RENEWAL)
    clock.shift(TIMEOUT - sent_before_due)
    late = sent(twin(browser).visit(read))
    for passed in range(1, GRACE):
        clock.shift(1)
        browser.visit(read)
        if passed == GRACE - 1 and late is not None:
            use_cookie(browser, late.value)
    assert stays(browser, clock)
    assert violations == []


def test_active_browser_keeps_a_cookie_with_an_age(open_used_lite_browser, clock):
    """Though it may not go out at any time, the cookie never gets much older."""
    browser = open_used_lite_browser(**LASTING, **RENEWAL)
    latest = 0
    for _ in range(6 * TIMEOUT):
        clock.shift(1)
        latest = 0 if sent(browser.visit(read)) else latest + 1
        assert latest < LASTING["cookie_max_age"] // 10


def test_slow_read_beside_a_login(open_used_browser, clock):
    """Who read before the login, and answers after it, sends no id that is dead."""
    browser = open_used_browser(**LASTING)
    clock.shift(10)
    meanwhile = []

    def log_in(request):
        request.session.userid = 5

    def slow_read(request):
        read(request)
        meanwhile.append(sent(visit_meanwhile(browser, log_in)))

    late = sent(browser.visit(slow_read))
    assert late is None or late.id == meanwhile[0].id


@pytest.mark.parametrize("seconds", [GRACE, 10 * GRACE])
def test_slow_write_that_is_tried_again(open_used_browser, clock, violations, seconds):
    """A cookie that was good when the request came is good for its second attempt."""
    browser = open_used_browser(**RENEWAL)
    attempts = []

    def slow_write(request):
        write(request)
        attempts.append(request)
        if len(attempts) == 1:
            clock.shift(TIMEOUT + 1)
            visit_meanwhile(browser, read)  # which is lost
            clock.shift(GRACE)
            candidate = sent(visit_meanwhile(browser, read))
            visit_meanwhile(twin(browser, candidate.value), write)
            clock.shift(seconds)

    browser.visit(slow_write)
    assert len(attempts) == 2
    assert violations == []
    assert browser.application.row().renewal_previous is not None
