"""Use one session in eight threads of two processes at once; count the retries.

Run ``python -m stress.parallel_reads [--bursts N] [--increments N]`` in the directory
that holds ``stress``. It needs a PostgreSQL and a MariaDB, see ``tests/databases.py``.
For each isolation level and for each thing that was due, a line says how many retries
there were for each request, how many requests failed after the last attempt and with
what error, and how many requests there were per second.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.databases import Database
from tests.stories.parallel import (
    DUE,
    LEVELS,
    Outcome,
    Plan,
    Run,
    missing,
    processes,
)

EVERYTHING = (*DUE, "increment")


def main() -> None:
    """Carry out all plans, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bursts", type=int, default=500)
    parser.add_argument("--increments", type=int, default=500, help="of each thread")
    parser.add_argument("--attempts", type=int, default=5)
    parser.add_argument("--pause", type=float, default=0, help="ms that a view takes")
    parser.add_argument(
        "--kinds", nargs="+", default=["postgresql", "mariadb"], choices=LEVELS
    )
    parser.add_argument("--levels", nargs="+", metavar="LEVEL")
    parser.add_argument("--due", nargs="+", default=EVERYTHING, choices=EVERYTHING)
    arguments = parser.parse_args()
    with processes() as run:
        for kind in arguments.kinds:
            with tempfile.TemporaryDirectory() as directory:
                database = Database(kind, Path(directory))
                try:
                    _measure(database, arguments, run)
                finally:
                    database.drop()


def _measure(database: Database, arguments: argparse.Namespace, run: Run) -> None:
    if database.missing:
        raise SystemExit(database.missing)
    for level in arguments.levels or LEVELS[database.kind]:
        reason = missing(database.url, level)
        print(f"\n{database.kind}, {level}: {reason or ''}", flush=True)
        if reason:
            continue
        for due in arguments.due:
            plan = Plan(
                database.url,
                level,
                due,
                arguments.bursts if due in DUE else arguments.increments,
                arguments.attempts,
                arguments.pause / 1000,
            )
            _print(due, run(plan))


def _print(due: str, outcome: Outcome) -> None:
    lost = f", {outcome.lost} lost" if due == "increment" else ""
    print(
        f"  {due:24} {outcome.retries:6.3f} retries,"
        f" {outcome.failed} of {outcome.requests} failed{lost},"
        f" {outcome.requests / outcome.seconds:.0f} requests/s",
        flush=True,
    )
    for what, number in (outcome.failures + outcome.wrong).items():
        print(f"      {number} x {what}")


if __name__ == "__main__":
    main()
