"""Random requests of many browsers to shared sessions, judged by an oracle.

``python -m stress oracle`` does the same for longer, and with more variants.
"""

from __future__ import annotations

import pytest

from stress.oracle import VARIANTS, World, crowd, described_violations
from stress.verdicts import judge
from tests.stories.parallel import LEVELS, missing

pytestmark = pytest.mark.slow

OPERATIONS = 400
SEED = 20251127

everywhere = pytest.mark.parametrize(
    ("engine", "level"),
    [(kind, level) for kind, levels in LEVELS.items() for level in levels],
    indirect=["engine"],
)
at_default = pytest.mark.parametrize(
    ("engine", "level"),
    [
        ("sqlite", "SERIALIZABLE"),
        ("postgresql", "READ COMMITTED"),
        ("mariadb", "REPEATABLE READ"),
    ],
    indirect=["engine"],
)


@pytest.fixture(scope="module")
def play_in_processes():
    """Two processes with four threads each, in which browsers visit the application."""
    with crowd() as run:
        yield run


@pytest.fixture
def play(engine, level, play_in_processes):
    """Play a world on the database, and say what was wrong in it."""
    url = engine.url.render_as_string(hide_password=False)
    reason = missing(url, level)
    if reason:
        pytest.skip(reason)

    def play(variant: str) -> str:
        world = World(url, level, SEED, OPERATIONS, **VARIANTS[variant])
        history = play_in_processes(world)
        assert len(history.ops) >= OPERATIONS
        violations = judge(history, is_retried=world.attempts > 0)
        return described_violations(history, violations)

    return play


@everywhere
def test_with_retries(play):
    """With retries nothing is wrong at any level, and hardly anything is refused."""
    assert "nothing is wrong" in play("retried")


@at_default
@pytest.mark.parametrize("variant", [each for each in VARIANTS if each != "retried"])
def test_otherwise(play, variant):
    """Nothing is wrong without retries, with other settings, or bad connections."""
    assert "nothing is wrong" in play(variant)
