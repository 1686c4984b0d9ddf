"""What a request costs: statements, round trips and dumps, which are stable.

The benchmarks measure the times of the same workloads.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from benchmarks.contenders.base import PyramidContender
from benchmarks.contenders.floor import Floor
from benchmarks.contenders.sessions import Sessions
from benchmarks.worker import Costs, Worker
from benchmarks.workloads import WORKLOADS, Workload
from tests.application import Application, Base, Browser, Full

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


def _costs_of(name: str, workload: Workload, url: str) -> Costs:
    worker = Worker(name, url)
    try:
        assert worker.prepare(workload)
        return worker.costs()
    finally:
        worker.close()


@pytest.mark.parametrize("model", sorted({each.model for each in WORKLOADS}))
def test_rows_of_the_floor_have_the_same_shape(model: str, sqlite_url: str) -> None:
    """The floor has the columns that the library has, in the same order."""
    workload = next(each for each in WORKLOADS if each.model == model)
    assert _columns(Floor(sqlite_url, workload)) == _columns(
        Sessions(sqlite_url, workload)
    )


def _columns(contender: PyramidContender) -> dict[str, list[tuple[str, str, bool]]]:
    contender.close()
    return {
        name: [(each.name, repr(each.type), each.nullable) for each in table.columns]
        for name, table in contender.metadata.tables.items()
    }


#: What a request does, and how often it pickles and unpickles at most.
DUMPS: dict[str, tuple[Callable[[Any], Any], int, int]] = {
    "untouched": (lambda request: None, 0, 0),
    "new": (lambda request: request.session.new, 0, 0),
    "userid": (lambda request: request.session.userid, 0, 0),
    "token": (lambda request: request.session.get_csrf_token(), 0, 0),
    "peek": (lambda request: request.session.peek_flash(), 0, 0),
    "flash": (lambda request: request.session.flash("message"), 0, 0),
    "log in": (lambda request: setattr(request.session, "userid", 1), 0, 0),
    "rotate": (lambda request: request.session.rotate(), 0, 0),
    "invalidate": (lambda request: request.session.invalidate(), 0, 0),
    "read a key": (lambda request: request.session["n"], 0, 1),
    "read a missing key": (lambda request: request.session.get("missing"), 0, 1),
    "read all keys": (lambda request: list(request.session), 0, 1),
    "read a list": (lambda request: request.session["list"], 1, 1),
    "read everything": (lambda request: dict(request.session), 1, 1),
    "assign what's there": (lambda request: request.session.update(n=1), 0, 1),
    "write a key": (lambda request: request.session.update(n=2), 1, 1),
    "add a key": (lambda request: request.session.update(other=1), 1, 1),
    "remove a key": (lambda request: request.session.pop("n"), 1, 1),
    "clear": (lambda request: request.session.clear(), 1, 1),
    "read a list, write a key": (
        lambda request: request.session.update(n=len(request.session["list"])),
        1,
        1,
    ),
    # It differs: then each value that was handed out is compared.
    "change a list": (lambda request: request.session["list"].append(1), 3, 2),
}


@pytest.mark.parametrize(("view", "dumps", "loads"), DUMPS.values(), ids=DUMPS)
def test_nothing_is_pickled_needlessly(
    sqlite_engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    view: Callable[[Any], Any],
    dumps: int,
    loads: int,
) -> None:
    """A request doesn't decode what it doesn't use, nor encode what can't differ."""
    counted = _count_pickles(monkeypatch)
    browser = _browser(sqlite_engine)
    browser.visit(_fill)
    counted.clear()
    browser.visit(view)
    assert counted["dumps"] <= dumps
    assert counted["loads"] <= loads


def test_a_new_session_is_pickled_once(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new session is encoded when it's stored, and never decoded."""
    counted = _count_pickles(monkeypatch)
    _browser(sqlite_engine).visit(_fill)
    assert counted == {"dumps": 1}


def _browser(engine: Engine) -> Browser:
    Base.metadata.create_all(engine, tables=[Full.__table__])
    return Browser(Application(engine))


def _fill(request: Any) -> None:
    request.session.update(n=1, list=[{"id": n} for n in range(10)], dict={"a": 1})
    request.session.get_csrf_token()


def _count_pickles(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often the functions of ``pickle`` are called from now on."""
    counted: Counter[str] = Counter()

    def counting(name: str) -> Callable[..., Any]:
        function = getattr(pickle, name)

        def call(*args: Any, **kw: Any) -> Any:
            counted[name] += 1
            return function(*args, **kw)

        return call

    for name in ("dumps", "loads"):
        monkeypatch.setattr(pickle, name, counting(name))
    return counted
