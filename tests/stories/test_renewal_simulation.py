"""Renewal logs out no honest browser, and lets in no thief of an old cookie.

The same worlds each time. ``python -m stress.simulate_renewals`` goes on for a hundred
thousand renewals, in another world each time.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.stories.renewal_simulation import HOUR, Simulation, World

pytestmark = pytest.mark.slow

WORLDS = {
    "plain": World(700, 0),
    "with a max-age": World(300, 0, thefts=0.1, cookie_max_age=100 * HOUR),
    "timeout shorter than the grace": World(
        200, 0, thefts=0.1, renewal_timeout=7, way_there=0.7, way_back=0.7
    ),
    # By up to five hours, for up to one. Nobody is idle for so long as this, unless the
    # clock that is set back counted.
    "clock jumps": World(
        150, 0, browsers=3, thefts=0, jumps=True, idle_timeout=12 * HOUR
    ),
}


@pytest.fixture
def simulate(tmp_path):
    """Simulate a world."""

    def simulate(world: World, **options):
        return Simulation(replace(world, **options), tmp_path)

    return simulate


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_delays_of_less_than_the_grace(simulate, world):
    """Whatever is late or lost, no session ends; every theft is noticed."""
    result = simulate(world).run()
    for history in (*result.logged_out[:1], *result.unnoticed[:1]):
        print(history)
    assert (result.logged_out, result.unnoticed) == ([], [])
    assert result.failed == {}
    assert result.set_back == 0
    assert result.noticed == result.thefts
    # It was not for want of trying.
    assert result.renewals >= world.renewals
    assert result.in_grace > world.renewals / 20
    assert result.lost_answers > world.renewals / 10
    assert result.jumps > 0 if world.jumps else result.thefts > 0


def test_requests_that_take_longer_than_the_grace(simulate):
    """The promise ends where it says: this is what the simulation can see."""
    result = simulate(WORLDS["plain"], renewals=150, way_there=3).run()
    assert result.logged_out
