"""A session tells when it was last used, give or take a few minutes."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, update

from tests.application import Application, Browser, statements
from tests.features.timed import Traced, now, read, row, write
from tests.stories.transactions import elsewhere

DELAY = 300


@pytest.fixture
def browser(open_browser):
    """Return a browser with a session, on each kind of database."""
    return begun(open_browser(Traced))


@pytest.fixture
def lite_browser(open_lite_browser):
    """Return a browser with a session, on SQLite."""
    return begun(open_lite_browser(Traced))


def begun(browser):
    """Return the browser, which has got a session now."""
    browser.visit(write)
    return browser


def test_begins(browser):
    """A session that begins is seen."""
    assert row(browser).last_seen == now()


@pytest.mark.parametrize("view", [read, write])
def test_is_noted_after_the_delay(browser, clock, view):
    """Until the delay is over a use leaves no trace; then it does, and no version."""
    began, version = now(), row(browser).version
    clock.shift(DELAY)
    browser.visit(read)
    assert row(browser).last_seen == began
    clock.shift(1)
    browser.visit(view)
    assert row(browser).last_seen == now() == began + DELAY + 1
    assert row(browser).version == version + (view is write)


def test_takes_one_statement(browser, clock):
    """Only when it is due is there a second statement, for this one column."""
    engine = browser.application.engine
    with statements(engine) as made:
        browser.visit(read)
    assert len(made) == 1
    clock.shift(DELAY + 1)
    with statements(engine) as made:
        browser.visit(read)
    assert [each.split()[0] for each in made] == ["SELECT", "UPDATE"]
    assert made[1].startswith("UPDATE traced_session SET last_seen=")
    assert "version" not in made[1]


def test_the_delay_is_a_setting(open_lite_browser, clock):
    """The application may want to know it better."""
    browser = begun(open_lite_browser(Traced, last_seen_delay=5))
    clock.shift(6)
    browser.visit(read)
    assert row(browser).last_seen == now()


def test_never_goes_back(lite_browser, clock):
    """A clock that is set back changes nothing."""
    seen = now()
    clock.shift(-1000)
    lite_browser.visit(write)
    assert row(lite_browser).last_seen == seen


def test_rows_from_before(lite_browser):
    """A session that was stored without the mixin is seen at its next use."""
    with lite_browser.application.engine.begin() as connection:
        connection.execute(update(Traced).values(last_seen=None))
    lite_browser.visit(read)
    assert row(lite_browser).last_seen == now()


def test_is_not_noted_by_a_request_that_fails(lite_browser, clock):
    """Nothing of such a request is stored."""
    seen = now()
    clock.shift(DELAY + 1)
    lite_browser.fail(read)
    assert row(lite_browser).last_seen == seen


@pytest.mark.parametrize("view", [read, write])
def test_conflicts_with_nothing(browser, clock, view):
    """Who is overtaken by another use, due as well, goes on."""
    clock.shift(DELAY + 1)

    def overtaken(request):
        view(request)
        elsewhere(browser.visit, read)

    browser.visit(overtaken)
    assert row(browser).last_seen == now()
    assert row(browser).version == 1 + (view is write)


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_conflicts_with_nothing_when_serializable(engine, clock):
    """Where the database would make an error of two such writes, there is none."""
    strict = create_engine(engine.url, isolation_level="SERIALIZABLE")
    try:
        browser = begun(Browser(Application(strict, Traced)))
        clock.shift(DELAY + 1)

        def overtaken(request):
            read(request)
            elsewhere(browser.visit, read)

        browser.visit(overtaken)
        assert row(browser).last_seen == now()
    finally:
        strict.dispose()
