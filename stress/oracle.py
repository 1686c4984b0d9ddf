"""Let browsers use sessions at random and at once; judge whether anything was wrong.

Run ``python -m stress oracle [--url URL] [--level LEVEL] [--operations N] [--seed S]``
in the checkout. Without a URL it needs a PostgreSQL and a MariaDB, see
``tests/databases.py``. It fails if an invariant was broken, and shows the requests that
were involved.
"""

from __future__ import annotations

import argparse
import multiprocessing
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, make_url

from stress.deeds import WEIGHTS
from stress.histories import REFUSED, History, Op, Violation
from stress.jars import Post
from stress.notes import Models
from stress.verdicts import judge
from stress.visitors import PATIENCE, Visitors, World
from tests.databases import KINDS, Database
from tests.stories.parallel import LEVELS, missing

#: How many violations of a rule are shown with their requests.
SHOWN = 3

Run = Callable[[World], History]

_barrier: Any = None


def _enter(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def _visit(world: World, jars: Any, place: int) -> list[Op]:
    return Visitors(world, jars, place).run(lambda: _barrier.wait(PATIENCE))


@contextmanager
def crowd(processes: int = 2, threads: int = 4) -> Iterator[Run]:
    """Start the processes; play worlds in them as long as the context lasts."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes * threads)
    with (
        Post(ctx=context) as post,
        ProcessPoolExecutor(
            processes, mp_context=context, initializer=_enter, initargs=(barrier,)
        ) as pool,
    ):

        def run(world: World) -> History:
            world = replace(world, processes=processes, threads=threads)
            barrier.reset()
            _empty(world.url)
            jars: Any = post.Jars()  # type: ignore[attr-defined]
            jobs = [
                pool.submit(_visit, world, jars, place) for place in range(processes)
            ]
            ops = [op for job in jobs for op in job.result()]
            ops += Visitors(world, jars, processes).look_at_all()
            grace = 60 if world.renewal_grace is None else world.renewal_grace
            return History(ops, grace=grace, renewal=world.renewal_timeout or 60)

        yield run


def _empty(url: str) -> None:
    engine = create_engine(url)
    Models.metadata.drop_all(engine)
    Models.metadata.create_all(engine)
    engine.dispose()


#: Worlds that differ in what is set up, by name.
VARIANTS: dict[str, dict[str, Any]] = {
    "retried": {},
    "not retried": {"attempts": 0},
    "all errors answered": {"catch_all": True},
    "committed by a veto": {"veto": True},
    "as JSON": {"json": True},
    "not renewed": {"renewal_timeout": None},
    "short grace": {"renewal_grace": 2},
    "sent again": {"cookie_max_age": 20, "lost": 60, "late": 300},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Play the worlds, and print the results."""
    parser = argparse.ArgumentParser("stress oracle", description=__doc__)
    parser.add_argument("--url", help="of a database; else those of the tests are used")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--level", action="append", help="of isolation, else all")
    parser.add_argument("--variant", action="append", choices=VARIANTS)
    parser.add_argument("--operations", type=int, default=1000, help="in each world")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument(
        "--without", nargs="+", default=[], choices=WEIGHTS, help="these requests"
    )
    parser.add_argument("--browsers", type=int, default=World.browsers)
    options = parser.parse_args(arguments)
    failures = 0
    with crowd() as run, _databases(options) as databases:
        for kind, url in databases:
            for level in options.level or LEVELS[kind]:
                if reason := missing(url, level):
                    print(f"{kind}, {level}: {reason}", flush=True)
                    continue
                for variant in options.variant or ["retried", "not retried"]:
                    world = World(
                        url,
                        level,
                        options.seed,
                        options.operations,
                        browsers=options.browsers,
                        without=tuple(options.without),
                        **VARIANTS[variant],
                    )
                    failures += _report(f"{kind}, {level}, {variant}", world, run)
    raise SystemExit(failures > 0)


@contextmanager
def _databases(options: argparse.Namespace) -> Iterator[list[tuple[str, str]]]:
    if options.url:
        name = make_url(options.url).get_backend_name()
        yield [("mariadb" if name == "mysql" else name, options.url)]
        return
    with tempfile.TemporaryDirectory() as directory:
        databases = [Database(kind, Path(directory)) for kind in options.kinds]
        for database in databases:
            if database.missing:
                raise SystemExit(database.missing)
        try:
            yield [(database.kind, database.url) for database in databases]
        finally:
            for database in databases:
                database.drop()


def _report(title: str, world: World, run: Run) -> int:
    start = time.perf_counter()
    history = run(world)
    seconds = time.perf_counter() - start
    violations = judge(history, is_retried=world.attempts > 0)
    print(f"\n{title}, seed {world.seed}: {summary(history, seconds)}", flush=True)
    for (kind, error), number in refusals(history).most_common(SHOWN):
        print(f"  refused: {number} x {kind}: {error[:100]}")
    print(described_violations(history, violations), flush=True)
    return len(violations)


def summary(history: History, seconds: float) -> str:
    """Say how many requests there were with each outcome."""
    ops = [op for op in history.ops if op.kind != "final"]
    outcomes = Counter(op.status for op in ops)
    lost = sum(bool(op.logged) and op.status == "caught" for op in ops)
    facts = [
        f"{len(ops)} operations ({len(ops) / seconds:.0f}/s)",
        *(f"{number} {outcome}" for outcome, number in outcomes.most_common()),
        f"{sum(op.attempts > 1 for op in ops)} tried again",
        f"{sum(op.is_late for op in ops)} late",
        f"{sum(op.sent is not None for op in ops)} cookies",
        f"{sum(op.violation for op in ops)} thefts",
        f"{lost} logged as lost",
        f"{len(history.ends)} sessions ended",
        f"{sum(map(len, history.rotations.values()))} rotations",
    ]
    return ", ".join(facts)


def refusals(history: History) -> Counter[tuple[str, str]]:
    """Count what was refused, by what the request did and what it failed with."""
    return Counter(
        (f"{op.kind} after {op.attempts} attempts", op.error or "")
        for op in history.ops
        if op.status == REFUSED
    )


def described_violations(history: History, violations: list[Violation]) -> str:
    """Show the violations, the first ones of each rule with their requests."""
    lines = []
    for rule, number in Counter(each.rule for each in violations).most_common():
        lines.append(f"  {number} x {rule}")
        for each in [each for each in violations if each.rule == rule][:SHOWN]:
            lines.append(f"    {each.text}")
            slice_ = history.slice(*each.ops)
            lines += [f"      {line}" for line in slice_.splitlines()]
    return "\n".join(lines) or "  nothing is wrong"


if __name__ == "__main__":
    main()
