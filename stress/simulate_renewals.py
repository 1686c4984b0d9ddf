"""Let browsers and thieves live through a hundred thousand renewals of their cookies.

Run ``python -m stress.simulate_renewals [--renewals N] [--seed N] [...]`` in the
directory that holds ``stress``. See ``tests/stories/renewal_simulation.py``. It fails
if an honest browser was logged out, or a stolen old cookie was let in after the grace,
and shows what happened before, once for each.
"""

from __future__ import annotations

import argparse
import secrets
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from pathlib import Path

from tests.stories.renewal_simulation import Result, Simulation, World


def simulate(world: World) -> Result:
    """Simulate a world."""
    with tempfile.TemporaryDirectory() as directory:
        return Simulation(world, Path(directory)).run()


def main() -> None:
    """Simulate a world in each process, and print what happened in all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--jumps", action="store_true")
    parser.set_defaults(renewals=100_000, seed=secrets.randbits(32))
    for each in fields(World):
        if each.name != "jumps":
            kind = float if each.type == "float" else int
            default = parser.get_default(each.name) or each.default
            option = "--" + each.name.replace("_", "-")
            parser.add_argument(option, type=kind, default=default)
    arguments = vars(parser.parse_args())
    processes = arguments.pop("processes")
    print(f"seed {arguments['seed']}", flush=True)
    arguments["renewals"] //= processes
    worlds = []
    for _ in range(processes):
        worlds.append(World(**arguments))
        arguments["seed"] += 1
    total = Result()
    start = time.perf_counter()
    with ProcessPoolExecutor(processes) as pool:
        for result in pool.map(simulate, worlds):
            total.add(result)
    seconds = time.perf_counter() - start
    for name, value in vars(total).items():
        shown = len(value) if isinstance(value, list) else value
        print(f"{name.replace('_', ' '):16} {shown}")
    print(f"{'requests/s':16} {total.requests / seconds:.0f}")
    for history in (*total.logged_out[:1], *total.unnoticed[:1]):
        print(f"\n{history}")
    if total.logged_out or total.unnoticed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
