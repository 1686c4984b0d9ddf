"""What the command prints and writes."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sqlalchemy import create_engine, make_url

from .contenders import CONTENDERS
from .measure import FLOOR, NOISE, Result
from .workloads import RIVALRIES, Rivalry

__all__ = ["as_json", "server_of", "tables", "versions"]

_PACKAGES = (
    "pyramid",
    "SQLAlchemy",
    "zope.sqlalchemy",
    "pycryptodome",
    "cryptography",
    "psycopg2-binary",
    "pyramid_session_redis",
    "redis",
    "Django",
    "Flask-Session",
    "Flask-SQLAlchemy",
    "litestar",
    "advanced-alchemy",
    "aiosqlite",
    "asyncpg",
    "uvloop",
)
_OURS, _OURS_FAST = "sessions", "sessions-cryptography"

#: A ratio and its target for each of the two, if there are any.
_Pairs = list[tuple[float | None, float | None]]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages."""
    found = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def server_of(database: str) -> str:
    """Return the kind and version of the database, and the driver."""
    engine = create_engine(database)
    with engine.connect():
        dialect = engine.dialect
        number = ".".join(map(str, dialect.server_version_info or ()))
    engine.dispose()
    return f"{dialect.name} {number}, {dialect.driver}"


def tables(results: Sequence[Result], others: Iterable[str]) -> Iterator[str]:
    """Yield the lines with what was measured in one database."""
    yield from _of_all(results, others)
    yield ""
    yield from _of_ours(results)
    rivalries = list(_rivalries(results))
    if rivalries:
        yield ""
        yield from _of_rivals(rivalries)


def _of_all(results: Sequence[Result], others: Iterable[str]) -> Iterator[str]:
    names = [_OURS, *others]
    labels = "".join(f"{CONTENDERS[name].label:>10}" for name in names)
    yield f"{'ratio, statements/round trips':30}{labels}"
    for result in results:
        if result.workload.contender == _OURS:  # else it is in a column
            cells = "".join(f"{_cell(result, name):>10}" for name in names)
            yield f"{result.workload.title:30}{cells}"


def _cell(result: Result, name: str) -> str:
    if name not in result.seconds:
        return "-"
    costs = result.costs[name]
    return f"{result.ratio(name).median:.2f} {costs.statements}/{costs.trips}"


def _of_ours(results: Iterable[Result]) -> Iterator[str]:
    yield (
        f"{'ours':30}{'SQL':>4}{'ratio':>7} {'(quartiles)':<13}{'target':>6}"
        f"{'calls':>8}{'us':>7}{'floor':>7}{'noise':>7}"
    )
    for result in results:
        name, costs = result.workload.contender, result.costs
        low, ratio, high = result.ratio(name)
        yield (
            f"{result.workload.title:30}{costs[name].statements:4}{ratio:7.2f}"
            f" ({low:4.2f}-{high:4.2f}){result.workload.target:8.2f}"
            f"{costs[name].calls - costs[FLOOR].calls:+8}"
            f"{result.microseconds(name):7.0f}{result.microseconds(FLOOR):7.0f}"
            f"{result.ratio(NOISE).median:7.2f}"
        )


def _rivalries(
    results: Iterable[Result],
) -> Iterator[tuple[Rivalry, Result, _Pairs]]:
    """Yield the promises, where they were measured, and the results."""
    by_name = {result.workload.name: result for result in results}
    for rivalry in RIVALRIES:
        result = by_name.get(rivalry.workload)
        if result is not None and rivalry.rival in result.seconds:
            ratios = [
                result.ratio(name, rivalry.rival).median
                if name in result.seconds
                else None
                for name in (_OURS, _OURS_FAST)
            ]
            goals = (rivalry.target, rivalry.fast_target)
            yield rivalry, result, list(zip(ratios, goals, strict=True))


def _of_rivals(
    rivalries: Iterable[tuple[Rivalry, Result, _Pairs]],
) -> Iterator[str]:
    heads = "".join(
        f"{CONTENDERS[name].label:>12}{'target':>8}" for name in (_OURS, _OURS_FAST)
    )
    yield f"{'ours : theirs':44}{heads}"
    for rivalry, result, pairs in rivalries:
        cells = "".join(f"{_number(one):>12}{_number(goal):>8}" for one, goal in pairs)
        rival = CONTENDERS[rivalry.rival].label
        yield f"{result.workload.title:31}{rival:13}{cells}"


def _number(number: float | None) -> str:
    return "" if number is None else f"{number:.2f}"


def as_json(results: Sequence[Result]) -> dict[str, Any]:
    """Return all that was measured in one database."""
    return {
        "workloads": [_result_as_json(result) for result in results],
        "rivalries": [
            {
                "workload": rivalry.workload,
                "rival": rivalry.rival,
                **{
                    name: {"ratio": ratio, "target": target}
                    for name, (ratio, target) in zip(
                        (_OURS, _OURS_FAST), pairs, strict=True
                    )
                },
            }
            for rivalry, _, pairs in _rivalries(results)
        ],
    }


def _result_as_json(result: Result) -> dict[str, Any]:
    return {
        "workload": result.workload.name,
        "title": result.workload.title,
        "database": make_url(result.database).get_backend_name(),
        "contender": result.workload.contender,
        "target": result.workload.target,
        "contenders": {
            name: {
                "sql": result.costs[name].sql,
                "statements": result.costs[name].statements,
                "trips": result.costs[name].trips,
                "calls": result.costs[name].calls,
                "ratio": result.ratio(name)._asdict(),
                "microseconds": result.microseconds(name),
            }
            for name in result.seconds
        },
    }
