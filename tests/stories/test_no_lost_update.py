"""Several processes write to one session, and nothing that was acknowledged is lost."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.application import Application, Browser
from tests.stories.crowd import Job, ready, work

PROCESSES = 3
VISITS = 30

LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")

everywhere = pytest.mark.parametrize(
    ("engine", "isolation_level"),
    [
        ("sqlite", None),
        *(("postgresql", level) for level in LEVELS),
        *(("mariadb", level) for level in LEVELS),
    ],
    indirect=["engine"],
    ids=lambda value: str(value or "default").lower().replace(" ", "-"),
)
at_default = pytest.mark.parametrize("isolation_level", [None], ids=["default"])


@pytest.fixture(scope="module")
def processes():
    """Processes that do jobs at the same time."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        list(pool.map(ready, range(PROCESSES)))
        yield pool


@pytest.fixture
def send_out(engine, processes, isolation_level):
    """Let every process visit one new session, and return who visited it."""

    def send_out(*deeds, visits=VISITS):
        browser = Browser(Application(engine))
        browser.visit(lambda request: request.session.update(n=0, list=[]))
        url = engine.url.render_as_string(hide_password=False)
        jobs = [
            Job(url, isolation_level, browser.cookie, deed, str(place), visits)
            for place, deed in enumerate(deeds)
        ]
        return browser, list(processes.map(work, jobs))

    return send_out


def names(acknowledged) -> list[str]:
    """Return what those who were acknowledged have left behind."""
    return sorted(
        f"{place}-{number}"
        for place, numbers in enumerate(acknowledged)
        for number in numbers
    )


def count(acknowledged) -> int:
    """Return how many visits were acknowledged, which must be most of them."""
    number = sum(map(len, acknowledged))
    assert number >= PROCESSES * VISITS // 2
    return number


@everywhere
def test_no_increment_is_lost(send_out):
    """A counter in the session is as high as the number of acknowledged increments."""
    browser, acknowledged = send_out(*["increment"] * PROCESSES)
    assert browser.ask(lambda session: session["n"]) == count(acknowledged)


@everywhere
def test_no_message_is_lost(send_out):
    """Every acknowledged message is there, once."""
    browser, acknowledged = send_out(*["flash"] * PROCESSES)
    assert count(acknowledged)
    messages = browser.ask(lambda session: session.pop_flash())
    assert sorted(messages) == names(acknowledged)


@at_default
def test_no_item_is_lost(send_out):
    """Every item that was acknowledged is in the list, once."""
    browser, acknowledged = send_out(*["append"] * PROCESSES)
    assert count(acknowledged)
    assert sorted(browser.ask(lambda session: session["list"])) == names(acknowledged)


@at_default
def test_different_writes_do_not_overwrite_each_other(send_out):
    """A counter, messages and a list of one session keep all that was acknowledged."""
    browser, acknowledged = send_out("increment", "flash", "append")
    assert count(acknowledged)
    everything = browser.ask(
        lambda session: [session["n"], session.peek_flash(), session["list"]]
    )
    assert everything == [
        len(acknowledged[0]),
        [f"1-{number}" for number in acknowledged[1]],
        [f"2-{number}" for number in acknowledged[2]],
    ]


@at_default
@pytest.mark.parametrize("end", ["end", "log_in"])
def test_what_has_ended_stays_dead(send_out, end):
    """An old cookie leads nowhere once the session ended, or somebody logged in."""
    browser, acknowledged = send_out(
        end, "write_if_alive", "write_if_alive", visits=VISITS // 2
    )
    assert acknowledged[0][-1] == VISITS // 2 - 1
    rows = browser.application.rows()
    assert browser.ask(lambda session: (session.new, session.is_late)) == (
        True,
        end == "log_in",
    )
    assert len(rows) == (end == "log_in")
    if rows:
        assert rows[0].userid == 5
