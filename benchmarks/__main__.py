"""Print what sessions cost per request, relative to the floor: python -m benchmarks"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

from .contenders import OTHERS, why_not
from .databases import DATABASES
from .measure import Effort, measure
from .report import as_json, server_of, tables, versions
from .workloads import WORKLOADS

EFFORT = Effort(generations=3, rounds=60, turn=0.004)
QUICK = Effort(generations=1, rounds=20, turn=0.004)


def main(arguments: Sequence[str] | None = None, effort: Effort | None = None) -> None:
    """Measure and print, as the command line says."""
    start = time.monotonic()
    options = _options(arguments)
    if effort is None:
        effort = QUICK if options.quick else EFFORT
    others = [] if options.alone else _there(options.against or OTHERS)
    workloads = [
        each
        for each in WORKLOADS
        if (not options.only or each.name in options.only)
        and why_not(each.contender) is None
    ]
    print(", ".join(f"{name} {number}" for name, number in versions().items()))
    measured = {}
    for database in options.database or DATABASES:
        server = server_of(database)
        print(f"\n{server}", flush=True)
        results = measure(database, workloads, effort, others)
        for line in tables(results, others):
            print(line)
        measured[server] = as_json(results)
    seconds = round(time.monotonic() - start)
    print(f"\nmeasured for {seconds} s")
    if options.json:
        everything = {
            "versions": versions(),
            "effort": effort._asdict(),
            "seconds": seconds,
            "databases": measured,
        }
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(everything, file, indent=1)


def _there(names: Sequence[str]) -> list[str]:
    """Return those that can take part, and say why the others can't."""
    there = []
    for name in names:
        reason = why_not(name)
        if reason is None:
            there.append(name)
        else:
            print(f"without {name}: {reason}")
    return there


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less than two minutes")
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
    others = parser.add_mutually_exclusive_group()
    others.add_argument(
        "--against",
        metavar="CONTENDER",
        action="append",
        choices=OTHERS,
        help="compare with this one only; may be repeated; one of " + ", ".join(OTHERS),
    )
    others.add_argument(
        "--alone", action="store_true", help="compare with the floor only"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
