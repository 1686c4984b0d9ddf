"""Fixtures for the stories: whole request histories on a real database.

The tables are made once and emptied after every test, because making them takes
longer than a story does.
"""

from __future__ import annotations

import os

import pytest
from sqlalchemy import create_engine, event, inspect, text

from tests.application import Base
from tests.databases import KINDS, REQUIRE, Database

#: How long a statement waits for a lock before the test fails, in seconds.
PATIENCE = 2


def give_up_soon(engine):
    """Let whoever waits for a lock on the engine give up soon: it may be a deadlock."""
    statement = {
        "sqlite": f"PRAGMA busy_timeout = {PATIENCE * 1000}",
        "postgresql": f"SET lock_timeout = '{PATIENCE}s'",
        "mysql": f"SET innodb_lock_wait_timeout = {PATIENCE}",
    }[engine.dialect.name]

    def connected(connection, record):
        cursor = connection.cursor()
        cursor.execute(statement)
        cursor.close()
        connection.commit()

    event.listen(engine, "connect", connected)


@pytest.fixture(scope="session")
def story_engines(tmp_path_factory):
    """The engine of every kind of database that a story was told on, by kind."""
    directory = tmp_path_factory.mktemp("stories")
    databases = {kind: Database(kind, directory) for kind in KINDS}
    engines = {}

    def engine_of(kind):
        database = databases[kind]
        if database.missing and os.environ.get(REQUIRE) == "1":
            pytest.fail(database.missing, pytrace=False)
        if database.missing:
            pytest.skip(database.missing)
        if kind not in engines:
            engines[kind] = create_engine(database.url)
            give_up_soon(engines[kind])
            Base.metadata.create_all(engines[kind])
        return engines[kind]

    yield engine_of
    for engine in engines.values():
        engine.dispose()
    for database in databases.values():
        database.drop()


@pytest.fixture(params=KINDS)
def engine(request, story_engines):
    """An engine with the tables of the sessions; in the end no connection is in use."""
    engine = story_engines(request.param)
    yield engine
    leaked = engine.pool.checkedout()
    if leaked:
        engine.dispose()
    quote = engine.dialect.identifier_preparer.quote
    with engine.begin() as connection:
        for name in inspect(connection).get_table_names():
            connection.execute(text(f"DELETE FROM {quote(name)}"))
    assert leaked == 0, "a connection was left open"


@pytest.fixture
def make_story_engine(engine):
    """Make other engines on the database of ``engine``."""
    made = []

    def make(**options):
        other = create_engine(engine.url, **options)
        give_up_soon(other)
        made.append(other)
        return other

    yield make
    for other in made:
        other.dispose()
