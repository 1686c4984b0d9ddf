"""Print what sessions cost per request, relative to the floor: python -m benchmarks"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from sqlalchemy import make_url

from .contenders import CONTENDERS
from .databases import DATABASES
from .measure import FLOOR, NOISE, Effort, Result, measure
from .workloads import WORKLOADS

EFFORT = Effort(generations=3, rounds=60, turn=0.004)
QUICK = Effort(generations=1, rounds=40, turn=0.004)
PACKAGES = ("pyramid", "SQLAlchemy", "zope.sqlalchemy", "pycryptodome")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print, as the command line says."""
    options = _options(arguments)
    workloads = [
        each for each in WORKLOADS if not options.only or each.name in options.only
    ]
    effort = QUICK if options.quick else EFFORT
    print(f"Python {platform.python_version()}, " + _versions() + "\n")
    results = []
    for database in options.database or DATABASES:
        found = measure(database, workloads, effort, options.against or ())
        results += found
        _print_table(found)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump([_as_json(result) for result in results], file, indent=1)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less than a minute")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too")
    parser.add_argument(
        "--database",
        metavar="URL",
        action="append",
        help="measure in this database; may be repeated; if left out: "
        + " and ".join(DATABASES),
    )
    parser.add_argument(
        "--only",
        metavar="WORKLOAD",
        action="append",
        choices=[each.name for each in WORKLOADS],
        help="measure this row only; may be repeated",
    )
    parser.add_argument(
        "--against",
        metavar="CONTENDER",
        action="append",
        choices=list(CONTENDERS),
        help="measure this one, too; may be repeated",
    )
    return parser.parse_args(arguments)


def _versions() -> str:
    return ", ".join(f"{package} {version(package)}" for package in PACKAGES)


def _print_table(results: list[Result]) -> None:
    driver = make_url(results[0].database).get_dialect()
    print(f"{driver.name}, {driver.driver}")
    print(
        f"{'':32}{'SQL':>4}{'ratio':>7} {'(quartiles)':<13}{'target':>6}"
        f"{'calls':>8}{'us':>7}{'floor':>7}{'noise':>7}"
    )
    for result in results:
        workload = result.workload
        for name in result.seconds:
            if name not in (FLOOR, NOISE):
                print(f"{workload.title:32}{_row(result, name)}")
    print()


def _row(result: Result, name: str) -> str:
    is_ours = name == result.workload.contender
    goal = f"{result.workload.target:.2f}" if is_ours else ""
    low, ratio, high = result.ratio(name)
    costs, floor = result.costs[name], result.costs[FLOOR]
    return (
        f"{costs.statements:4}{ratio:7.2f} ({low:4.2f}-{high:4.2f}){goal:>8}"
        f"{costs.calls - floor.calls:+8}{result.microseconds(name):7.0f}"
        f"{result.microseconds(FLOOR):7.0f}{result.ratio(NOISE)[1]:7.2f}"
        + ("" if is_ours else f"  {name}")
    )


def _as_json(result: Result) -> dict[str, Any]:
    return {
        "workload": result.workload.name,
        "database": make_url(result.database).get_dialect().name,
        "contender": result.workload.contender,
        "target": result.workload.target,
        "contenders": {
            name: {
                "sql": result.costs[name].sql,
                "calls": result.costs[name].calls,
                "ratio": result.ratio(name),
                "microseconds": result.microseconds(name),
            }
            for name in result.seconds
        },
    }


if __name__ == "__main__":
    main()
