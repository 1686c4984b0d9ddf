"""Renewal on everyday networks, and copied cookies: a little of what was measured.

The same each time. ``python -m stress.measure_renewals`` does it with a hundred
thousand renewals, and ``docs/renewal_figures.json`` has what came out. The page on
security tells these figures.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.applications.starter import DOCS
from tests.stories.everyday_renewals import (
    NETWORKS,
    UPLOAD,
    UPLOADS,
    EverydaySimulation,
    Terms,
    Theft,
    World,
)
from tests.test_docs import PAGES, table

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


def duration(seconds: int, longest: int) -> str:
    """Say how long that is."""
    if seconds >= longest:
        return f"over {longest // 3600} h"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def every(seconds: int) -> str:
    """Say how often that is."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def rows_of_thieves() -> list[list[str]]:
    """Return the rows of the table of thieves."""
    rows: dict[tuple[int, int], list[str]] = {}
    for each in THIEVES:
        who = (each["thief_every"], each["user_every"])
        row = rows.setdefault(who, [every(seconds) for seconds in who])
        row += [duration(each[key], each["longest"]) for key in ("median", "ninety")]
        row.append(f"{round(100 * each['ended_by_user'])} %")
    return list(rows.values())


def per_100_000(figures: dict[str, Any]) -> str:
    """Return how many users were logged out in so many renewals."""
    return f"{round(100_000 * figures['logged_out'] / figures['renewals']):,}"


def rows_of_users() -> list[list[str]]:
    """Return the rows of the table of users who were logged out."""
    rows: dict[str, list[str]] = {}
    for each in FIGURES["users"]:
        row = rows.setdefault(each["network"], [each["network"].capitalize()])
        row.append(per_100_000(each))
    return list(rows.values())


def test_table_of_thieves():
    """The page has what was measured."""
    assert table("security", "Patient: median") == rows_of_thieves()
    (thefts,) = {each["thefts"] for each in FIGURES["thieves"]}
    assert f"{thefts} thefts for each line" in PAGE


def test_thieves_without_a_grace():
    """The page compares the same thieves with and without a grace."""
    (without,) = (each for each in FIGURES["thieves"] if not each["renewal_grace"])
    same = ("thief_every", "user_every", "is_patient")
    (by_default,) = (
        each for each in THIEVES if all(each[key] == without[key] for key in same)
    )
    medians = [duration(each["median"], 1e9) for each in (by_default, without)]
    assert "of {} (10 s, 1 min) becomes {}".format(*medians) in PAGE


def test_table_of_users():
    """The page has what was measured, in as many renewals as it says."""
    assert table("security", "Grace 60 s") == rows_of_users()
    graces = [each["grace"] for each in FIGURES["users"]]
    assert graces == [60, 60, 30, 30, 10, 10, 0, 0]
    renewals = min(each["renewals"] for each in FIGURES["users"] if each["grace"] == 60)
    assert renewals >= 100_000
    assert "of 100,000 renewals for each network" in PAGE


def test_models_of_networks():
    """The page says what was assumed."""
    assert (
        f"{UPLOADS * 100:g} % of the requests are uploads that take {UPLOAD[0]} to"
        f" {UPLOAD[1]} seconds to arrive."
    ) in PAGE
    for name, each in NETWORKS.items():
        said = PAGE.partition(f'"{name.capitalize()}": ')[2]
        numbers = re.findall(r"[\d.]+(?= )", said)[:5]
        known = (1000 * each.median, 100 * each.stalls, *each.stall, 100 * each.lost)
        assert [float(number) for number in numbers] == pytest.approx(list(known))
