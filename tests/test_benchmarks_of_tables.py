"""The other commands that measure: whether they work, not what they measure."""

from __future__ import annotations

import json
import re
import time
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Engine

from benchmarks import contention, footprint, scale, updates
from tests.stories.parallel import IDLE_TIMEOUT, begin, engine_of, read

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("in line", "BEGIN SELECT UPDATE COMMIT"),
        ("guarded", "BEGIN SELECT UPDATE COMMIT"),
        ("skip locked", "BEGIN SELECT UPDATE COMMIT"),
        ("savepoint", "BEGIN SELECT SAVEPOINT UPDATE RELEASE COMMIT"),
        ("after commit", "BEGIN SELECT ROLLBACK BEGIN UPDATE COMMIT"),
    ],
)
@on_postgresql
def test_each_way_extends(database_url: str, way: str, words: str) -> None:
    """What contention compares are the round trips that its documentation names."""
    engine = engine_of(database_url, "READ COMMITTED")
    begin(engine)
    now = time.time()
    found = contention.round_trips(engine, partial(contention.take, way))
    expire = read(engine)["idle_expire"]
    engine.dispose()
    assert found == words.split()
    assert expire >= int(now) + IDLE_TIMEOUT


@on_postgresql
def test_library_chooses_by_isolation_level(database_url: str) -> None:
    """What is marked with a star is what the documentation says."""
    chosen = {}
    for level in ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"):
        engine = engine_of(database_url, level)
        chosen[level] = contention.choice(engine)
        engine.dispose()
    assert chosen == {
        "READ COMMITTED": "guarded",
        "REPEATABLE READ": "after commit",
        "SERIALIZABLE": "after commit",
    }


def test_scale(engine: Engine) -> None:
    """Tables of two sizes are filled, used, and cleared of half of their sessions."""
    tables = [scale.Table(engine, size) for size in (20, 40)]
    for action, brings in scale.ACTIONS.values():
        times = scale.measure(tables, action, brings, 2)
        assert [len(each) for each in times.values()] == [2, 2]
    assert [table.collect()[0] for table in tables] == [10, 20]


def test_footprint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The library takes some time to import, and a request some memory."""
    small, usual, everything = footprint.import_times("with")
    assert small < usual < everything
    footprint.report("sessions-cryptography", f"sqlite:///{tmp_path / 'it'}", 3)
    reported = json.loads(capsys.readouterr().out)
    assert 0 < reported["peaks"]["untouched"] < reported["peaks"]["read"]


@pytest.mark.slow
def test_updates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server starts, and counts no heap-only update of an indexed column."""
    monkeypatch.setattr(updates, "UPDATES", {"1 KB": updates.UPDATES["1 KB"]})
    monkeypatch.setattr(updates, "INDEXES", ("idle_expire",))
    monkeypatch.setattr(updates, "FILL_FACTORS", ())
    monkeypatch.setattr(updates, "AUTOVACUUM", {})
    try:
        updates.main(["--rows", "20"])
    except FileNotFoundError as exc:
        pytest.skip(f"not installed: {exc}")
    printed = capsys.readouterr().out
    assert re.search(r"^idle_expire +1 KB +0% ", printed, re.MULTILINE)
