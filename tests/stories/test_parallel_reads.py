"""Requests that use one session at the same moment do not get in each other's way.

``python -m stress.parallel_reads`` measures the same for longer.
"""

from __future__ import annotations

import pytest

from tests.stories.parallel import LEVELS, Outcome, Plan, missing, processes

pytestmark = pytest.mark.slow

BURSTS = 10
INCREMENTS = 10

everywhere = pytest.mark.parametrize(
    ("engine", "level"),
    [(kind, level) for kind, levels in LEVELS.items() for level in levels],
    indirect=["engine"],
)


@pytest.fixture(scope="module")
def run_in_processes():
    """Two processes with four threads each, that carry out plans."""
    with processes() as run:
        yield run


@pytest.fixture
def run(engine, level, run_in_processes):
    """Carry out a plan on the database, at the isolation level."""
    url = engine.url.render_as_string(hide_password=False)
    reason = missing(url, level)
    if reason:
        pytest.skip(reason)

    def run(due: str, times: int, **options) -> Outcome:
        outcome = run_in_processes(Plan(url, level, due, times, **options))
        assert not outcome.wrong
        return outcome

    return run


@everywhere
@pytest.mark.parametrize(
    "due",
    ["extension", "candidate", "candidate and extension", "takeover and extension"],
)
def test_reads_are_not_tried_again(run, due):
    """Of eight reads at once none is retried, none fails, and what is due is done."""
    outcome = run(due, BURSTS, pause=0.002)
    assert (outcome.retries, outcome.failures) == (0, {})
    assert outcome.cookies == (BURSTS if "candidate" in due else 0)


@everywhere
def test_no_increment_is_lost(run):
    """What was acknowledged has been counted, at every level."""
    assert run("increment", INCREMENTS).lost == 0


@pytest.mark.parametrize(
    ("engine", "level"),
    [("postgresql", "READ COMMITTED"), ("mariadb", "READ COMMITTED")],
    indirect=["engine"],
)
def test_no_increment_fails(run):
    """Whoever is tried again waits for the others, so that five attempts are enough."""
    assert run("increment", INCREMENTS).failures == {}


@everywhere
def test_no_increment_fails_with_back_off(run):
    """With the include for retries, ten attempts are enough at every level."""
    pytest.importorskip("pyramid_sqlalchemy_sessions.retry")
    assert run("increment", INCREMENTS, attempts=10).failures == {}
