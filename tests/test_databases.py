"""The databases that the other tests run on."""

from __future__ import annotations

import secrets
import subprocess
import sys
from configparser import ConfigParser
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Column, Engine, Integer, MetaData, Table, inspect, make_url

from tests.conftest import MakeEngine
from tests.databases import KINDS, REQUIRE, SERVERS, Database
from tests.import_all import CHECKOUT


def _table() -> Table:
    return Table("thing", MetaData(), Column("id", Integer, primary_key=True))


@pytest.mark.parametrize("time", ["first", "second"])
def test_is_empty_for_every_test(engine: Engine, time: str) -> None:
    """No test finds what another one left."""
    assert inspect(engine).get_table_names() == []
    _table().create(engine)


def test_is_the_same_for_every_engine(engine: Engine, make_engine: MakeEngine) -> None:
    """A second engine of the test, with options of its own, sees the same tables."""
    _table().create(engine)
    serializable = make_engine(isolation_level="SERIALIZABLE")
    assert inspect(serializable).get_table_names() == ["thing"]


def test_can_be_entered_by_another_process(engine: Engine, database_url: str) -> None:
    """The URL alone leads there, also from an ini file."""
    _table().create(engine)
    ini = ConfigParser()
    ini.read_string(f"[app:main]\nsqlalchemy.url = {database_url}\n")
    code = (
        "import sqlalchemy as sa, sys;"
        "print(sa.inspect(sa.create_engine(sys.argv[1])).get_table_names())"
    )
    url = ini.get("app:main", "sqlalchemy.url")
    done = subprocess.run(
        [sys.executable, "-c", code, url], capture_output=True, check=True, text=True
    )
    assert done.stdout == "['thing']\n"


@pytest.mark.parametrize("database_url", ["sqlite", "mariadb"], indirect=True)
def test_can_be_chosen(engine: Engine) -> None:
    """A test may run on some kinds only."""
    assert engine.dialect.name in ("sqlite", "mysql")


def test_is_an_sqlite_file_for_most_tests(sqlite_engine: Engine) -> None:
    """One database does where the kind makes no difference."""
    assert sqlite_engine.dialect.name == "sqlite"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "sqlite"])
def test_that_does_not_answer_is_missing(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads the reason knows which variable to set, but not the password."""
    variable, default = SERVERS[kind]
    url = make_url(default).set(port=1, password="hush")
    monkeypatch.setenv(variable, url.render_as_string(hide_password=False))
    missing = Database(kind).missing
    assert missing is not None
    assert variable in missing
    assert "hush" not in missing


def test_that_is_required_fails_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Continuous integration must not pass because a server is down."""
    (tmp_path / "test_it.py").write_text("def test_it(engine): pass")
    pytest_on_it = [sys.executable, "-m", "pytest", "-p", "tests.conftest", tmp_path]
    run = partial(subprocess.run, pytest_on_it, cwd=CHECKOUT, stdout=subprocess.PIPE)
    for variable, default in SERVERS.values():
        monkeypatch.setenv(variable, str(make_url(default).set(port=1)))
    monkeypatch.delenv(REQUIRE, raising=False)
    assert b"= 1 passed, 2 skipped in" in run().stdout
    monkeypatch.setenv(REQUIRE, "1")
    assert b"= 1 passed, 2 errors in" in run().stdout


@pytest.mark.parametrize("database_url", ["postgresql", "mariadb"], indirect=True)
def test_left_by_an_interrupted_run_are_dropped_after_a_day(
    database_url: str, make_engine: MakeEngine, databases: dict[str, Database]
) -> None:
    """Old ones are dropped; those of runs that may be under way are not."""
    engine = make_engine(isolation_level="AUTOCOMMIT")
    kind = "mariadb" if engine.dialect.name == "mysql" else "postgresql"
    old = f"pss_1600000000_1_{secrets.token_hex(4)}"
    young = databases[kind].name
    word = "DATABASE" if kind == "mariadb" else "SCHEMA"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE {word} {old}")
        another = Database(kind)
        names = {young, another.name}
        left = set(inspect(connection).get_schema_names())
        another.drop()
        in_the_end = set(inspect(connection).get_schema_names())
    assert old not in left
    assert len(names & left) == 2
    assert names & in_the_end == {young}
