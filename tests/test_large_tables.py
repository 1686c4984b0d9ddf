"""What ``docs/production.rst`` says of many sessions is true, and its samples run.

``benchmarks/updates.py`` measures what the page shows.
"""

from __future__ import annotations

import time
import uuid
from types import ModuleType

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, Engine, insert, text, update
from sqlalchemy.pool import NullPool

from benchmarks.updates import AUTOVACUUM
from tests.applications.starter import sample
from tests.conftest import MakeEngine
from tests.test_docs import load

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

#: Of sessions of 1 KB: some pages full, and one that is not.
ROWS = 60


@pytest.fixture
def samples() -> ModuleType:
    """The model that the page shows."""
    return load("large_tables")


def options(engine: Engine, relation: str = "oid") -> set[str]:
    """Return the storage parameters of the table, or of its TOAST table."""
    statement = (
        "SELECT reloptions FROM pg_class WHERE oid ="
        f" (SELECT {relation} FROM pg_class WHERE oid = 'session'::regclass)"
    )
    with engine.connect() as connection:
        return set(connection.scalar(text(statement)) or ())


def migrate(connection: Connection, step: str) -> None:
    """Do a step of the migration that the page shows."""
    with Operations.context(MigrationContext.configure(connection)):
        getattr(load("fill_factor"), step)()


def heap_only(samples: ModuleType, make_engine: MakeEngine) -> float:
    """Extend a session in each page; return the share of heap-only updates."""
    engine = make_engine(poolclass=NullPool, isolation_level="AUTOCOMMIT")
    table = samples.Session.__table__
    rows = [
        {
            "id": uuid.uuid4(),
            "created": 1,
            "version": 1,
            "data": bytes(1_000),
            "flash": {},
            "idle_expire": 1,
        }
        for _ in range(ROWS)
    ]
    # One in each page, as nobody knows when PostgreSQL cleans up after it.
    first = text("SELECT id FROM session WHERE ctid::text LIKE '%,1)' ORDER BY ctid")
    with engine.connect() as connection:
        connection.execute(insert(table), rows)
        *keys, _ = connection.scalars(first)
        for key in keys:
            extend = update(table).where(table.c.id == key)
            connection.execute(extend.values(idle_expire=2))
    # Who disconnects reports to the statistics a moment later.
    statement = text(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables"
        " WHERE relid = 'session'::regclass"
    )
    end = time.monotonic() + 30
    while True:
        with engine.connect() as connection:
            updates, hot = connection.execute(statement).one()
        if updates == len(keys):
            return hot / updates
        assert time.monotonic() < end
        time.sleep(0.01)


@on_postgresql
def test_fill_factor_leaves_room(samples, make_engine):
    """With the table of the page all idle extensions are heap-only updates."""
    engine = make_engine()
    samples.Base.metadata.create_all(engine)
    assert options(engine) == {"fillfactor=90"}
    assert heap_only(samples, make_engine) == 1


@on_postgresql
def test_full_pages_leave_no_room(samples, make_engine):
    """Without the fill factor the first extension in a page is not."""
    engine = make_engine()
    samples.Base.metadata.create_all(engine)
    with engine.begin() as connection:
        migrate(connection, "downgrade")
    assert heap_only(samples, make_engine) == 0


@on_postgresql
def test_index_on_idle_expire_prevents_heap_only_updates(samples, make_engine):
    """What the page advises against makes each extension write to the indexes."""
    engine = make_engine()
    samples.Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE INDEX ON session (idle_expire)"))
    assert heap_only(samples, make_engine) == 0


@on_postgresql
def test_alembic_does_not_see_the_fill_factor(samples, engine):
    """The migration is not undone by the one that Alembic generates next."""
    samples.Base.metadata.create_all(engine)
    for step in ("upgrade", "downgrade"):
        with engine.begin() as connection:
            migrate(connection, step)
            context = MigrationContext.configure(connection)
            assert compare_metadata(context, samples.Base.metadata) == []


@pytest.mark.parametrize("database_url", ["postgresql", "sqlite"], indirect=True)
def test_migration(samples, engine):
    """The migration sets the fill factor and takes it back, where there is one."""
    samples.Base.metadata.create_all(engine)
    found = []
    for step in ("downgrade", "upgrade"):
        with engine.begin() as connection:
            migrate(connection, step)
        if engine.dialect.name == "postgresql":
            found.append(options(engine))
    assert found in ([set(), {"fillfactor=90"}], [])


@on_postgresql
def test_vacuum_of_large_data(samples, engine):
    """The settings for large data are those of the table in which it is kept."""
    samples.Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text(sample("vacuum_large_data.sql")))
    assert options(engine, "reltoastrelid") == {
        "autovacuum_vacuum_scale_factor=0.02",
        "autovacuum_vacuum_cost_limit=1000",
    }
    shown = " ".join(sample("vacuum_large_data.sql").split())
    assert shown == f"ALTER TABLE session SET ( {AUTOVACUUM['tuned']} );"
