"""Let the contenders take turns, and compare their times."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

from sqlalchemy import make_url

from .databases import places
from .worker import Costs, Worker
from .workloads import Workload

__all__ = ["FLOOR", "NOISE", "Effort", "Quartiles", "Result", "measure"]

FLOOR = "floor"
#: The floor again: how far its ratio is from 1 is how far off the measurement is.
NOISE = "floor again"


class Effort(NamedTuple):
    """How much to measure: new processes so often, so many rounds with each, and the
    seconds that a turn takes."""

    generations: int
    rounds: int
    turn: float


class Quartiles(NamedTuple):
    """Half of what was measured is between ``low`` and ``high``."""

    low: float
    median: float
    high: float


class Result:
    """What one workload cost the contenders in one database."""

    def __init__(self, workload: Workload, database: str):
        self.workload = workload
        self.database = database
        self.costs: dict[str, Costs] = {}
        self.seconds: dict[str, list[float]] = {}

    def microseconds(self, name: str) -> float:
        """Return the median time of one request."""
        return statistics.median(self.seconds[name]) * 1e6

    def ratio(self, name: str, base: str = FLOOR) -> Quartiles:
        """Return the quartiles of the ratios to ``base``, each taken in one round."""
        pairs = zip(self.seconds[name], self.seconds[base], strict=True)
        return Quartiles(
            *statistics.quantiles([mine / other for mine, other in pairs], n=4)
        )


def measure(
    database: str,
    workloads: Iterable[Workload],
    effort: Effort,
    others: Iterable[str] = (),
) -> list[Result]:
    """Measure the workloads: the contender of the row, and the ``others``.

    Rows that mean nothing in this database are left out, and so are, from each row, the
    others that can't do it.
    """
    backend = make_url(database).get_backend_name()
    results = [
        Result(each, database) for each in workloads if each.backend in (None, backend)
    ]
    names = dict.fromkeys(
        [FLOOR, NOISE, *(each.workload.contender for each in results), *others]
    )
    for _ in range(effort.generations):
        with ExitStack() as stack:
            urls = stack.enter_context(places(database, len(names)))
            workers = {}
            for name, url in zip(names, urls, strict=True):
                worker = Worker(FLOOR if name == NOISE else name, url)
                stack.callback(worker.close)
                workers[name] = worker
            for result in results:
                own = result.workload.contender
                # What another contender is measured for is a row of its own.
                rivals = others if own == "sessions" else ()
                here = dict.fromkeys([FLOOR, NOISE, own, *rivals])
                _take_turns(result, {name: workers[name] for name in here}, effort)
    return results


def _take_turns(result: Result, workers: dict[str, Worker], effort: Effort) -> None:
    workers = {
        name: worker
        for name, worker in workers.items()
        if worker.prepare(result.workload)
    }
    result.costs = {name: worker.costs() for name, worker in workers.items()}
    bodies = {name: costs.body for name, costs in result.costs.items()}
    if len(set(bodies.values())) > 1:
        raise RuntimeError(f"the contenders answer differently: {bodies}")
    numbers = {
        name: max(3, round(effort.turn / min(worker.turn(5) for _ in range(3))))
        for name, worker in workers.items()
    }
    for names in _orders(list(workers), effort.rounds):
        for name in names:
            seconds = workers[name].turn(numbers[name])
            result.seconds.setdefault(name, []).append(seconds)


def _orders(names: list[str], number: int) -> Iterator[list[str]]:
    """Yield the names in changing orders, so that none always follows the same one."""
    generator = random.Random(number)
    for _ in range(number):
        generator.shuffle(names)
        yield names
