"""Fixtures for the features: a clock to push, and browsers of sessions with timeouts.

The tables are made once and emptied after every test.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import time_machine
from sqlalchemy import Engine, create_engine, delete

from tests.application import Application, Browser
from tests.databases import KINDS, REQUIRE, Database
from tests.features.timed import Models, Timed
from tests.stories.conftest import give_up_soon

EngineOf = Callable[[str], Engine]
OpenBrowser = Callable[..., Browser]


@pytest.fixture(scope="session")
def feature_engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineOf]:
    """An engine for every kind of database, with the tables of the sessions."""
    directory = tmp_path_factory.mktemp("features")
    databases = {kind: Database(kind, directory) for kind in KINDS}
    engines: dict[str, Engine] = {}

    def engine_of(kind: str) -> Engine:
        database = databases[kind]
        if database.missing and os.environ.get(REQUIRE) == "1":
            pytest.fail(database.missing, pytrace=False)
        if database.missing:
            pytest.skip(database.missing)
        if kind not in engines:
            engines[kind] = create_engine(database.url)
            give_up_soon(engines[kind])
            Models.metadata.create_all(engines[kind])
        return engines[kind]

    yield engine_of
    for engine in engines.values():
        engine.dispose()
    for database in databases.values():
        database.drop()


def _emptied(engine: Engine) -> Iterator[Engine]:
    yield engine
    assert engine.pool.checkedout() == 0, "a connection was left open"
    with engine.begin() as connection:
        for table in Models.metadata.tables.values():
            connection.execute(delete(table))


@pytest.fixture(params=KINDS)
def engine(
    request: pytest.FixtureRequest, feature_engines: EngineOf
) -> Iterator[Engine]:
    """An engine on empty tables, of every kind in turn."""
    yield from _emptied(feature_engines(request.param))


@pytest.fixture
def sqlite_engine(feature_engines: EngineOf) -> Iterator[Engine]:
    """An engine on empty tables of SQLite, for tests that need just one database."""
    yield from _emptied(feature_engines("sqlite"))


@pytest.fixture
def clock() -> Iterator[Any]:
    """A clock that stands still until the test pushes it."""
    with time_machine.travel(int(time.time()), tick=False) as clock:
        yield clock


@pytest.fixture
def open_browser(engine: Engine, clock: Any) -> OpenBrowser:
    """Make browsers of new applications on each kind of database."""

    def open_browser(model: type = Timed, **kw: Any) -> Browser:
        return Browser(Application(engine, model, **kw))

    return open_browser


@pytest.fixture
def open_lite_browser(sqlite_engine: Engine, clock: Any) -> OpenBrowser:
    """Make browsers of new applications on SQLite."""

    def open_browser(model: type = Timed, **kw: Any) -> Browser:
        return Browser(Application(sqlite_engine, model, **kw))

    return open_browser
