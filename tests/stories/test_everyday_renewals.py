"""Renewal on everyday networks, and copied cookies: a little of what was measured.

The same each time. ``python -m stress.measure_renewals`` does it with a hundred
thousand renewals, and ``docs/renewal_figures.json`` has what came out. The page on
security tells some of these figures.
"""

from __future__ import annotations

import json

import pytest

from tests.applications.starter import DOCS
from tests.stories.everyday_renewals import (
    NETWORKS,
    EverydaySimulation,
    Terms,
    Theft,
    World,
)
from tests.test_docs import PAGES

FIGURES = json.loads((DOCS / "renewal_figures.json").read_text(encoding="utf-8"))
PAGE = " ".join(PAGES["security"].split())
THIEVES = [each for each in FIGURES["thieves"] if each["renewal_grace"]]


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_users(tmp_path, network):
    """With the grace that's the default a user is hardly ever taken for a thief."""

    def simulate(grace):
        directory = tmp_path / str(grace)
        directory.mkdir()
        world = World(
            150, 0, renewal_timeout=600, renewal_grace=grace, browsers=20, thefts=0
        )
        return EverydaySimulation(world, directory, NETWORKS[network]).run()

    result = simulate(60)
    assert (result.logged_out, result.failed) == ([], {})
    assert result.renewals >= 150
    assert result.in_grace > 0
    assert len(simulate(0).logged_out) > 3


@pytest.mark.slow
def test_requests_that_are_not_sent(tmp_path, monkeypatch):
    """They would make no difference to anyone."""

    def simulate(name):
        directory = tmp_path / name
        directory.mkdir()
        world = World(
            60, 0, renewal_timeout=600, renewal_grace=10, browsers=10, thefts=0
        )
        result = EverydaySimulation(world, directory, NETWORKS["mobile"]).run()
        return result.renewals, result.in_grace, result.logged_out

    some = simulate("some")
    monkeypatch.setattr(EverydaySimulation, "is_of_no_effect", lambda *args: False)
    everything = simulate("all")
    assert everything[:2] == some[:2]
    assert len(everything[2]) == len(some[2]) > 0


@pytest.mark.slow
def test_thieves():
    """A thief is noticed when the user comes back; a patient one much later."""
    careless = Theft(Terms(10, 600, False), 0).run(20)
    assert careless.noticed == len(careless.times) == 20
    assert min(careless.times) < 600 < max(careless.times) < 5000
    patient = Theft(Terms(1, 60, True), 0).run(5)
    assert patient.figures()["median"] > 3 * careless.figures()["median"]


def test_a_thief_who_is_not_noticed():
    """What has not been noticed by then counts for the longest time."""
    loot = Theft(Terms(10, 600, False, longest=100), 0).run(3)
    assert (loot.times, loot.noticed) == ([100] * 3, 0)
    assert loot.figures()["noticed"] == 0


# What the page tells.


def duration(seconds: int) -> str:
    """Say how long that is."""
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def median(is_patient: bool) -> str:
    """Say after what time half of the thieves of the page were out."""
    terms = {"thief_every": 1, "user_every": 60, "is_patient": is_patient}
    (each,) = (e for e in THIEVES if terms.items() <= e.items())
    assert each["renewal_timeout"] == 600
    return duration(each["median"])


def test_thieves_of_the_page():
    """The page has what was measured."""
    said = f"out after {median(False)}, of the patient ones after {median(True)}."
    assert said in PAGE


def test_users_of_the_page():
    """The page has what was measured, in as many renewals as it says."""
    by_default, shorter = (
        next(e for e in FIGURES["users"] if (e["network"], e["grace"]) == network)
        for network in (("mobile", 60), ("mobile", 10))
    )
    of = by_default["renewals"]
    percent = round(100 * shorter["logged_out"] / shorter["renewals"])
    assert f"of {of:,} renewals on mobile networks" in PAGE
    assert f"{by_default['logged_out']} logged out a user" in PAGE
    assert f"a grace of 10 seconds, {percent} % did" in PAGE
