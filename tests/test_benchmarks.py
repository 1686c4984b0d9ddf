"""The command that measures: whether it works, not what it measures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine

from benchmarks import contenders
from benchmarks.__main__ import main
from benchmarks.hot import burst
from benchmarks.measure import Effort
from benchmarks.workloads import RIVALRIES, WORKLOADS
from tests.application import Application, Base, Plain

TINY = Effort(generations=1, rounds=3, turn=0.0)


def test_command_prints_and_writes_what_it_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One row on SQLite, against a contender that needs nothing else."""
    file = tmp_path / "results.json"
    arguments = ["--only", "read", "--database", "sqlite://", "--json", str(file)]
    main([*arguments, "--against", "signed-cookie"], TINY)
    printed = capsys.readouterr().out
    assert "read one key, 1 KB" in printed
    assert "1/3" in printed
    (measured,) = json.loads(file.read_text("utf-8"))["databases"].values()
    (row,) = measured["workloads"]
    ours, cookie = (row["contenders"][name] for name in ("sessions", "signed-cookie"))
    assert ours["sql"] == ["BEGIN", "SELECT", "ROLLBACK"]
    assert ours["ratio"]["median"] > 0
    assert cookie["sql"] == []


def test_who_is_not_installed_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line says who is missing, and what."""
    monkeypatch.setattr(contenders, "find_spec", lambda name: None)
    arguments = ["--only", "untouched", "--database", "sqlite://"]
    main([*arguments, "--against", "django"], TINY)
    printed = capsys.readouterr().out
    assert "without django: not installed: django\n" in printed
    assert "session not touched" in printed


def test_row_of_cryptography_is_left_out_without_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing else is measured in its place."""
    monkeypatch.setattr(contenders, "find_spec", lambda name: None)
    arguments = ["--only", "untouched", "--only", "cryptography", "--alone"]
    main([*arguments, "--database", "sqlite://"], TINY)
    printed = capsys.readouterr().out
    assert "session not touched" in printed
    assert "with cryptography" not in printed


def test_who_lacks_a_server_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Redis there is no session in it."""
    name = "pyramid_session_redis"
    entry = contenders.CONTENDERS[name]._replace(
        needs=(), server=("Redis", lambda: False)
    )
    monkeypatch.setitem(contenders.CONTENDERS, name, entry)
    assert contenders.why_not(name) == "no Redis answers"


def test_what_is_promised_about_others_is_measured() -> None:
    """Each promise names a row and a contender."""
    rows = {each.name for each in WORKLOADS if each.contender == "sessions"}
    assert {each.workload for each in RIVALRIES} <= rows
    assert {each.rival for each in RIVALRIES} <= set(contenders.OTHERS)


@pytest.mark.parametrize("one_key", [True, False])
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_burst_of_requests_is_counted(engine: Engine, one_key: bool) -> None:
    """None fails or is lost, and only writes of one key are tried again."""
    Base.metadata.create_all(engine)
    application = Application(
        engine,
        Plain,
        settings={"retry.attempts": 5},
        configure=lambda config: config.include("pyramid_sqlalchemy_sessions.retry"),
    )
    found = burst(application, 4, one_key)
    assert (found.failed, found.lost) == (0, 0)
    assert bool(found.retries) is one_key
    assert found.workers >= found.wall > 0
