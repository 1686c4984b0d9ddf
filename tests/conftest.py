"""Fixtures for all tests: a database of every kind, empty for every test."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from sqlalchemy import Engine, create_engine

from tests.databases import KINDS, REQUIRE, Database

# The same examples each time, unless --hypothesis-profile=other asks for others. How
# long one takes says nothing on a machine that others use too.
settings.register_profile("other", settings(), deadline=None, derandomize=False)
settings.register_profile("same", settings(), deadline=None, derandomize=True)
settings.load_profile("same")

MakeEngine = Callable[..., Engine]


def pytest_report_header() -> list[str]:
    """Say which databases are there before the first test runs."""
    return [f"databases: {', '.join(Database(k).missing or k for k in KINDS)}"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why tests were skipped, in one line for each reason, also with -q."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2] for report in skipped)
    for reason, number in reasons.items():
        terminalreporter.write_line(f"{number} x {reason}")


@pytest.fixture(scope="session")
def databases(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Database]]:
    """The databases of this test session, by kind, whether they are there or not."""
    directory = tmp_path_factory.mktemp("databases")
    databases = {kind: Database(kind, directory) for kind in KINDS}
    yield databases
    for database in databases.values():
        database.drop()


def _enter(database: Database) -> Iterator[str]:
    if database.missing and os.environ.get(REQUIRE) == "1":
        pytest.fail(database.missing, pytrace=False)
    if database.missing:
        pytest.skip(database.missing)
    yield database.url
    database.clear()


@pytest.fixture(params=KINDS)
def database_url(
    request: pytest.FixtureRequest, databases: dict[str, Database]
) -> Iterator[str]:
    """The URL of an empty database of every kind in turn, for subprocesses as well.

    A test that is about some kinds only says
    ``@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)``.
    """
    yield from _enter(databases[request.param])


@pytest.fixture
def make_engine(database_url: str) -> Iterator[MakeEngine]:
    """Make engines on the test's database, with the options of ``create_engine``."""
    yield from _engines(database_url)


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    """An engine on an empty database, of every kind in turn."""
    return make_engine()


@pytest.fixture
def sqlite_url(databases: dict[str, Database]) -> Iterator[str]:
    """The URL of an empty SQLite file, for tests that need just one database."""
    yield from _enter(databases["sqlite"])


@pytest.fixture
def sqlite_engine(sqlite_url: str) -> Iterator[Engine]:
    """An engine on an empty SQLite file, for tests that need just one database."""
    for make_engine in _engines(sqlite_url):
        yield make_engine()


def _engines(url: str) -> Iterator[MakeEngine]:
    made: list[Engine] = []

    def make_engine(**options: Any) -> Engine:
        made.append(create_engine(url, **options))
        return made[-1]

    yield make_engine
    for engine in made:
        engine.dispose()
