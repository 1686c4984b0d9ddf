"""Break things while clients write, and check whether anything was lost.

Run ``python -m stress [--quick] [--json FILE] [SCENARIO ...]`` in a checkout. It starts
its own servers, from the programs of Debian's packages ``postgresql`` and
``mariadb-server``. ``python -m stress oracle`` is another program: see ``oracle.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from stress import oracle
from stress.faults import SCENARIOS, Scenario
from stress.lab import Lab, Missing
from stress.load import Outcome

HEAD = """\
                                                  acknow-       dupli-  half        un- of them        of them   first     all
scenario               database   variant          ledged  lost  cated  done errors known stored reads  failed success succeed"""  # noqa: E501


def main() -> None:
    """Play the scenarios, print a row for each, and fail if anything was lost."""
    if sys.argv[1:2] == ["oracle"]:
        oracle.main(sys.argv[2:])
    names = list(dict.fromkeys(scenario.name for scenario in SCENARIOS))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="SCENARIO", help="; ".join(names))
    parser.add_argument("--quick", action="store_true", help="once, and for seconds")
    parser.add_argument("--kinds", nargs="+", help="of databases")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the rows to it"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(names):
        parser.error(f"no such scenario: {', '.join(unknown)}")
    chosen = [
        each
        for each in SCENARIOS
        if each.name in (arguments.names or names)
        and each.kind in (arguments.kinds or each.kind)
    ]
    with contextlib.ExitStack() as stack:
        rows = play(Lab(stack, arguments.quick), chosen)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    sys.exit(any(row["faults"] and not row["unprepared"] for row in rows))


def play(lab: Lab, scenarios: list[Scenario]) -> list[dict[str, Any]]:
    """Play the scenarios, print the result of each, and return the results."""
    rows = []
    print(HEAD)
    for scenario in scenarios:
        title = f"{scenario.name:22} {scenario.kind:10} {scenario.variant:15}"
        start = time.monotonic()
        try:
            outcome = scenario.play(lab)
        except Missing as exc:
            print(title, exc, flush=True)
            continue
        print(title, line(outcome), flush=True)
        for kind, number in outcome.kinds.most_common():
            print(f"    {number} x {kind[:200]}")
        if outcome.faults and not scenario.is_unprepared:
            print(f"    FAULT: {outcome}")
        rows.append(
            {
                "scenario": scenario.name,
                "database": scenario.kind,
                "variant": scenario.variant,
                "unprepared": scenario.is_unprepared,
                "faults": outcome.faults,
                "seconds": round(time.monotonic() - start, 1),
                **vars(outcome),
            }
        )
    return rows


def line(outcome: Outcome) -> str:
    """Return the figures of a row."""
    first, all_succeed = (
        "-" if seconds is None else f"{seconds:.2f}"
        for seconds in (outcome.first_success, outcome.all_succeed)
    )
    return (
        f"{outcome.acknowledged:7} {outcome.lost:5} {outcome.duplicated:6}"
        f" {outcome.half_done:5} {outcome.errors:6} {outcome.unknown:5}"
        f" {outcome.unknown_stored:6} {outcome.reads:5} {outcome.failed_reads:7}"
        f" {first:>7} {all_succeed:>7}"
    )


if __name__ == "__main__":
    main()
