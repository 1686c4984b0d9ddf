"""What a request costs, in counts: they are stable where times are not.

The benchmarks measure the times of the same workloads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version

import pytest

from benchmarks.contenders.base import PyramidContender
from benchmarks.contenders.floor import Floor
from benchmarks.contenders.sessions import Sessions
from benchmarks.worker import Costs, Worker
from benchmarks.workloads import WORKLOADS, Workload

#: Python functions called above those that the floor calls, with SQLAlchemy 2.1 and
#: with 2.0: what was measured last, the most with any Python and with the oldest and
#: the newest versions of the rest. Lower it when there is less; think twice before
#: raising it.
CALLS = {
    "untouched": (0, 0),
    "read": (47, 51),
    "read-20k": (47, 51),
    "userid": (47, 51),
    "write": (80, 88),
    "assign": (50, 54),
    "create": (114, 118),
    "idle": (74, 82),
    "idle-serializable": (161, 166),
    "user": (190, 195),
    "full": (58, 62),
    "tampered": (46, 46),
    "cryptography": (-157, -153),
    "listening-once": (-167, -171),
}


def ceiling(workload: Workload) -> int:
    """Return what one request may call above the floor."""
    return CALLS[workload.name][version("sqlalchemy").startswith("2.0.")]


WorkloadCosts = Callable[[Workload], tuple[Costs, Costs]]

each_workload = pytest.mark.parametrize(
    "workload",
    [pytest.param(each, id=each.name) for each in WORKLOADS if each.backend is None],
)


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkloadCosts]:
    """The costs of a workload for the contender that it names, and for the floor."""
    directory = tmp_path_factory.mktemp("costs")
    workers: dict[str, Worker] = {}
    known: dict[Workload, tuple[Costs, Costs]] = {}

    def costs_of(name: str, workload: Workload) -> Costs:
        if name not in workers:
            workers[name] = Worker(name, f"sqlite:///{directory / name}")
        assert workers[name].prepare(workload)
        return workers[name].costs()

    def costs(workload: Workload) -> tuple[Costs, Costs]:
        if workload.contender == "sessions-cryptography":
            pytest.importorskip("cryptography")
        if workload not in known:
            ours = costs_of(workload.contender, workload)
            known[workload] = ours, costs_of("floor", workload)
        return known[workload]

    yield costs
    for worker in workers.values():
        worker.close()


@each_workload
def test_database_is_asked_for_nothing_needless(
    workload: Workload, costs: WorkloadCosts
) -> None:
    """A session takes the statements and round trips that it takes by hand."""
    ours, floor = costs(workload)
    assert ours.sql == floor.sql
    assert ours.statements == workload.sql


@each_workload
def test_answer_is_that_of_the_floor(workload: Workload, costs: WorkloadCosts) -> None:
    """What is compared does the same."""
    ours, floor = costs(workload)
    assert ours.body == floor.body


@each_workload
def test_function_calls_stay_below_the_ceiling(
    workload: Workload, costs: WorkloadCosts
) -> None:
    """The session does not become slower unnoticed."""
    ours, floor = costs(workload)
    assert ours.calls - floor.calls <= ceiling(workload)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_extension_after_the_commit_costs_one_transaction(database_url: str) -> None:
    """Where an extension could fail the request, it takes two round trips more."""
    (workload,) = (each for each in WORKLOADS if each.backend == "postgresql")
    ours, floor = (
        _costs_of(name, workload, database_url) for name in ("sessions", "floor")
    )
    assert ours.body == floor.body
    assert floor.sql == ["BEGIN", "SELECT", "UPDATE", "COMMIT"]
    assert ours.sql == ["BEGIN", "SELECT", "ROLLBACK", "BEGIN", "UPDATE", "COMMIT"]
    assert ours.statements == workload.sql
    assert ours.trips - floor.trips == workload.extra_trips
    assert ours.calls - floor.calls <= ceiling(workload)


def _costs_of(name: str, workload: Workload, url: str) -> Costs:
    worker = Worker(name, url)
    try:
        assert worker.prepare(workload)
        return worker.costs()
    finally:
        worker.close()


@pytest.mark.parametrize("model", sorted({each.model for each in WORKLOADS}))
def test_rows_of_the_floor_have_the_same_shape(model: str, sqlite_url: str) -> None:
    """The floor selects the columns that the library selects."""
    workload = next(each for each in WORKLOADS if each.model == model)
    assert _columns(Floor(sqlite_url, workload)) == _columns(
        Sessions(sqlite_url, workload)
    )


def _columns(contender: PyramidContender) -> dict[str, dict[str, str]]:
    contender.close()
    return {
        name: {column.name: repr(column.type) for column in table.columns}
        for name, table in contender.metadata.tables.items()
    }
