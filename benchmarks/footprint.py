"""Print what the library costs a process: time to import it, and memory.

Run ``python -m benchmarks.footprint [--rounds N] [--requests N]`` in the checkout.

The import is timed in new processes that take turns: first what an application has
anyway, then the library. The time of all is shown as a ratio to that of
``pyramid.config`` and ``sqlalchemy.orm`` alone, and to that of all that an application
of the cookiecutter imports without the library: the medians, without the package
``cryptography`` and with it.

Memory is what ``tracemalloc`` says of an application on SQLite, in a new process for
each contender of the other benchmarks. The columns:

``peak``
    how many KB a request needs while it runs, and what that is of the floor's.
``kept``
    how many bytes more are in use after 10,000 requests of eight threads, for each
    request.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import tracemalloc
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.stories.parallel import get

from .contenders import contender_class
from .workloads import Workload

ROUNDS = 15
REQUESTS = 10_000
THREADS = 8

_PARTS = (
    "import pyramid.config, sqlalchemy.orm",
    "import pyramid_tm, transaction, zope.sqlalchemy, pyramid_retry",
    # With a key, because ciphers are imported for one.
    "from pyramid_sqlalchemy_sessions import AESGCMSerializer as it; it(bytes(32))",
)
_IMPORT = """
import sys, time
if sys.argv[1] == "without": sys.modules["cryptography"] = None
times = [time.perf_counter()]
{0}
times.append(time.perf_counter())
{1}
times.append(time.perf_counter())
{2}
times.append(time.perf_counter())
print(*(time - times[0] for time in times[1:]))
"""
_MEMORY = "from benchmarks.footprint import report; report(*{!r})"


def import_times(how: str) -> list[float]:
    """Return the seconds that the parts take until then, in a new process."""
    return [float(each) for each in _run(_IMPORT.format(*_PARTS), how).split()]


def _run(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        check=True,
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout


def report(name: str, url: str, requests: int) -> None:
    """Print, as JSON, the peaks of the contender's actions, and what is kept."""
    warnings.simplefilter("ignore")
    contender = contender_class(name)(url, Workload("", "", "", 0, 0))
    create = contender.application("create")
    cookies = [
        dict(get(create, ""))["Set-Cookie"].partition(";")[0] for _ in range(THREADS)
    ]
    cookie = cookies[0]
    actions = ("untouched", "read", "write")
    applications = [contender.application(action) for action in actions]
    for application in applications * 50:
        get(application, cookie)
    gc.collect()
    tracemalloc.start()
    peaks = {}
    for action, application in zip(actions, applications, strict=True):
        found = []
        for _ in range(20):
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            get(application, cookie)
            found.append(tracemalloc.get_traced_memory()[1] - before)
        peaks[action] = statistics.median(found)
    # The connection of each thread, and what else it needs once.
    _in_threads(applications, cookies, 100 * THREADS)
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    _in_threads(applications, cookies, requests)
    gc.collect()
    kept = (tracemalloc.get_traced_memory()[0] - before) / requests
    tracemalloc.stop()
    contender.close()
    print(json.dumps({"peaks": peaks, "kept": kept}))


def _in_threads(
    applications: Sequence[Any], cookies: Sequence[str], requests: int
) -> None:
    """Have the applications answer so many requests, in a thread for each cookie."""

    def work(cookie: str) -> None:
        for number in range(requests // THREADS):
            get(applications[number % len(applications)], cookie)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, cookies))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print, as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.footprint", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    options = parser.parse_args(arguments)
    _print_imports(options.rounds)
    _print_memory(options.requests)


def _print_imports(rounds: int) -> None:
    times: dict[str, list[list[float]]] = {"without": [], "with": []}
    for _ in range(rounds):
        for how, found in times.items():
            found.append(import_times(how))
    print("import, relative to   pyramid.config, sqlalchemy.orm   an application")
    for how, found in times.items():
        base = statistics.median(all_ / small for small, _, all_ in found)
        more = statistics.median(all_ / usual for _, usual, all_ in found)
        print(f"{how + ' cryptography':22}{base:30.2f}{more:17.2f}")


def _print_memory(requests: int) -> None:
    found: dict[str, Any] = {}
    for name in ("floor", "sessions", "sessions-cryptography"):
        with tempfile.TemporaryDirectory() as directory:
            url = f"sqlite:///{directory}/footprint.sqlite"
            found[name] = json.loads(_run(_MEMORY.format((name, url, requests))))
    floor = found["floor"]["peaks"]
    heads = "".join(f"{action:>18}" for action in floor)
    print(f"\npeak, KB (ratio)      {heads}{'kept':>10}")
    for name, result in found.items():
        cells = "".join(
            f"{peak / 1024:11.1f} ({peak / floor[action]:4.2f})"
            for action, peak in result["peaks"].items()
        )
        print(f"{name:22}{cells}{result['kept']:10.1f}")


if __name__ == "__main__":
    main()
