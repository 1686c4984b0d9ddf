"""Measure how often renewal takes a user for a thief, and how long a thief stays.

Run ``python -m stress.measure_renewals [--renewals N] [--thefts N] [--output FILE]`` in
the directory that holds ``stress``. The models of networks, users and thieves are in
``tests/stories/everyday_renewals.py``. The page on security has some of the
figures, and a test compares it with ``docs/renewal_figures.json``, which this writes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tests.stories.everyday_renewals import (
    NETWORKS,
    EverydaySimulation,
    Terms,
    Theft,
    World,
)

FIGURES = Path(__file__).resolve().parent.parent / "docs" / "renewal_figures.json"

#: Shorter grace periods, with a tenth of the renewals.
GRACES = (60, 30, 10, 0)
#: Seconds between two requests of the thief, and of the user, and who is patient.
TERMS = [
    Terms(thief, user, is_patient)
    for thief, user in (
        *((1, 60), (10, 60), (60, 60), (600, 60)),
        *((10, 600), (60, 600), (600, 600)),
        *((10, 3600), (600, 3600), (60, 8 * 3600)),
    )
    for is_patient in (False, True)
]
TERMS.append(Terms(10, 60, False, renewal_grace=0))


def measure_network(name: str, grace: int, renewals: int) -> dict[str, Any]:
    """Count the users who were taken for thieves."""
    world = World(
        renewals,
        seed=1,
        renewal_timeout=600,
        renewal_grace=grace,
        browsers=400,
        thefts=0,
    )
    with tempfile.TemporaryDirectory() as directory:
        network = NETWORKS[name]
        result = EverydaySimulation(world, Path(directory), network).run()
    return {
        "network": name,
        "grace": grace,
        "renewals": result.renewals,
        "requests": result.requests,
        "in_grace": result.in_grace,
        "logged_out": len(result.logged_out),
        "failed": sum(result.failed.values()),
        "histories": result.logged_out[:3],
    }


def measure_thief(terms: Terms, thefts: int) -> dict[str, Any]:
    """Measure how long thieves stay."""
    figures = Theft(terms, seed=1).run(thefts).figures()
    return {**vars(terms), "thefts": thefts, **figures}


def main() -> None:
    """Run all simulations, print what comes out, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--renewals", type=int, default=100_000)
    parser.add_argument("--thefts", type=int, default=500)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=FIGURES)
    arguments = parser.parse_args()
    start = time.perf_counter()
    with ProcessPoolExecutor(arguments.processes) as pool:
        users = [
            pool.submit(
                measure_network,
                name,
                grace,
                arguments.renewals // (1 if grace == GRACES[0] else 10),
            )
            for grace in GRACES
            for name in NETWORKS
        ]
        thieves = [pool.submit(measure_thief, each, arguments.thefts) for each in TERMS]
        figures: dict[str, list[dict[str, Any]]] = {"users": [], "thieves": []}
        for kind, futures in (("users", users), ("thieves", thieves)):
            for future in futures:
                found = future.result()
                for history in found.pop("histories", ()):
                    print(f"{history}\n")
                print(found, flush=True)
                figures[kind].append(found)
    arguments.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
