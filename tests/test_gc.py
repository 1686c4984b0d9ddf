"""The command pyramid_session_gc, and the deletion that it is made of."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zope.sqlalchemy
from pyramid.config import Configurator
from sqlalchemy import (
    Column,
    Engine,
    ForeignKey,
    Integer,
    MetaData,
    Table,
    Uuid,
    create_engine,
    event,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column, sessionmaker
from sqlalchemy.pool import NullPool

from pyramid_sqlalchemy_sessions import (
    AbsoluteMixin,
    AESGCMSerializer,
    BaseMixin,
    ConfigAbsoluteMixin,
    ConfigIdleMixin,
    IdleMixin,
    collector,
    command,
    gc,
    get_session_factory,
    session_factory_from_settings,
    turns,
)
from pyramid_sqlalchemy_sessions.identifiers import new_id
from stress import gc_races
from tests.application import SECRET

CHECKOUT = Path(__file__).resolve().parent.parent

only = pytest.mark.parametrize
on_sqlite = only("database_url", ["sqlite"], indirect=True)
on_postgresql = only("database_url", ["postgresql"], indirect=True)
on_servers = only("database_url", ["postgresql", "mariadb"], indirect=True)


class Base(DeclarativeBase):
    """The declarative base of the models below."""


class Plain(BaseMixin, Base):
    """Sessions that never expire."""

    __tablename__ = "gc_plain"


class Both(IdleMixin, AbsoluteMixin, BaseMixin, Base):
    """Sessions that have both timeouts."""

    __tablename__ = "gc_both"


class Own(ConfigIdleMixin, ConfigAbsoluteMixin, BaseMixin, Base):
    """Sessions that have both timeouts, each its own."""

    __tablename__ = "gc_own"


class Awkward(IdleMixin, BaseMixin, Base):
    """Sessions with columns that are named like SQLite's own."""

    __tablename__ = "gc awkward"

    rowid = mapped_column(Integer, nullable=True)
    oid = mapped_column(Integer, nullable=True)
    low = mapped_column(Integer, nullable=True)


class RowsWithoutId(IdleMixin, BaseMixin, Base):
    """Sessions in a table of SQLite that has no numbers of rows."""

    __tablename__ = "gc_without_rowid"
    __table_args__ = {"sqlite_with_rowid": False}


# What a real application has, too: rows that belong to sessions.
Cart = Table(
    "gc_cart",
    Base.metadata,
    Column("id", Integer, primary_key=True),
    Column("session_id", Uuid, ForeignKey(Both.id, ondelete="CASCADE"), nullable=True),
    Column("items", Integer, nullable=True),
)


def application(global_config: dict[str, str], **settings: Any) -> Any:
    """Make the WSGI application that the configuration of the tests is about."""
    engine = create_engine(settings["sqlalchemy.url"], poolclass=NullPool)
    make_session = sessionmaker(engine)

    def dbsession(request: Any) -> Session:
        dbsession = make_session()
        zope.sqlalchemy.register(dbsession, transaction_manager=request.tm)
        return dbsession

    with Configurator(settings=settings) as config:
        config.include("pyramid_tm")
        config.add_request_method(
            dbsession, settings.get("test.dbsession", "dbsession"), reify=True
        )
        if "session.model_class" in settings:
            config.include("pyramid_sqlalchemy_sessions")
        return config.make_wsgi_app()


CONFIGURATION = """\
[app:main]
use = call:tests.test_gc:application
tm.manager_hook = pyramid_tm.explicit_manager
sqlalchemy.url = {url}
{settings}
"""


@pytest.fixture
def configure(database_url, tmp_path):
    """Write the configuration of an application; return its URI."""

    def configure(extra: str = "", model: str = "Both", **settings: Any) -> str:
        given = {"model_class": f"tests.test_gc.{model}", "secret_key": SECRET}
        lines = [
            f"session.{name} = {value}" for name, value in {**given, **settings}.items()
        ]
        path = tmp_path / "test.ini"
        path.write_text(
            CONFIGURATION.format(url=database_url, settings="\n".join(lines)) + extra,
            encoding="utf-8",
        )
        return str(path)

    return configure


@pytest.fixture
def engine(make_engine) -> Engine:
    """An engine on a database of every kind in turn, with the tables."""
    engine = make_engine()
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _honour_foreign_keys)
    Base.metadata.create_all(engine)
    return engine


def _honour_foreign_keys(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA foreign_keys = ON")


def config_of(model: type, now: int | None = None, **settings: Any) -> Any:
    """Return the config of a factory of sessions, with a clock that stands still."""
    factory = get_session_factory(AESGCMSerializer(bytes(16)), model, **settings)
    config = factory.config
    return config if now is None else replace(config, clock=lambda: now)


def store(engine: Engine, model: type, *rows: dict[str, Any]) -> list[Any]:
    """Store sessions; return their ids."""
    given = {"created": int(time.time()), "version": 1, "data": b"", "flash": {}}
    columns = {column.name for column in model.__table__.columns}
    values = [
        {**dict.fromkeys(columns), **given, "id": new_id(), **row} for row in rows
    ]
    with engine.begin() as connection:
        connection.execute(insert(model.__table__), values)
    return [row["id"] for row in values]


def left(engine: Engine, model: type) -> set[Any]:
    """Return the ids of the sessions that are there."""
    with engine.connect() as connection:
        return set(connection.scalars(select(model.__table__.c.id)))


#: A moment, in seconds since the epoch.
NOW = 2_000_000_000


def expiring(*expiries: int) -> list[dict[str, int]]:
    """Return what is special about sessions that expire at these times."""
    return [{"created": NOW - 50, "idle_expire": expire} for expire in expiries]


# What is deleted.


def test_deletes_what_is_idle(engine):
    """A session goes when the last second of its idle timeout is over, not earlier."""
    config = config_of(Both, NOW, idle_timeout=10)
    _, last, later = store(engine, Both, *expiring(NOW - 1, NOW, NOW + 1))
    assert sum(collector.delete_expired(engine, config)) == 1
    assert left(engine, Both) == {last, later}


def test_deletes_what_is_old(engine):
    """A session goes when the last second of its absolute timeout is over."""
    config = config_of(Both, NOW, absolute_timeout=10)
    _, last = store(engine, Both, {"created": NOW - 11}, {"created": NOW - 10})
    assert sum(collector.delete_expired(engine, config)) == 1
    assert left(engine, Both) == {last}


def test_deletes_what_is_idle_or_old(engine):
    """With both timeouts one that is over is enough."""
    config = config_of(Both, NOW, idle_timeout=10, absolute_timeout=100)
    _, _, alive = store(
        engine,
        Both,
        {"created": NOW - 50, "idle_expire": NOW - 1},
        {"created": NOW - 101, "idle_expire": NOW + 5},
        {"created": NOW - 100, "idle_expire": NOW + 5},
    )
    assert sum(collector.delete_expired(engine, config)) == 2
    assert left(engine, Both) == {alive}


@only("timeouts", [{}, {"idle_timeout": 10, "absolute_timeout": 100}])
def test_honours_the_timeouts_of_each_session(engine, timeouts):
    """A session's own timeouts count, whatever the global ones are."""
    config = config_of(Own, NOW, **timeouts)
    over, ahead = NOW - 1, NOW + 1
    *alive, _, _ = store(
        engine,
        Own,
        {"created": 5},
        {"idle_timeout": None, "idle_expire": over},
        {"idle_timeout": 9, "idle_expire": ahead, "absolute_expire": ahead},
        {"idle_timeout": 9, "idle_expire": over},
        {"idle_timeout": 9, "idle_expire": ahead, "absolute_expire": over},
    )
    assert collector.count_expired(engine, config) == 2
    assert sum(collector.delete_expired(engine, config)) == 2
    assert left(engine, Own) == set(alive)


def test_nothing_expires_without_a_timeout(engine):
    """A model that could have timeouts, but has none, loses nothing."""
    for model in (Plain, Both):
        config = config_of(model, NOW)
        stored = store(engine, model, {"created": 5})
        assert not collector.can_expire(config)
        assert collector.count_expired(engine, config) == 0
        assert list(collector.delete_expired(engine, config)) == []
        assert left(engine, model) == set(stored)


@only("model", [Awkward, RowsWithoutId])
def test_awkward_tables(engine, model):
    """Names with blanks, columns named like SQLite's own, tables without them."""
    config = config_of(model, NOW, idle_timeout=10)
    *_, alive = store(engine, model, *expiring(*[NOW - 1] * 5, NOW))
    assert collector.count_expired(engine, config) == 5
    assert sum(collector.delete_expired(engine, config, batch_size=2)) == 5
    assert left(engine, model) == {alive}


def test_empty_table(engine):
    """Where there is nothing, nothing is deleted."""
    config = config_of(Both, NOW, idle_timeout=10)
    assert collector.count_expired(engine, config) == 0
    assert list(collector.delete_expired(engine, config)) == []


@on_postgresql
def test_partitioned_table(make_engine):
    """A table that is several in truth, in which places are not unique, is no trap."""
    engine = make_engine()
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE gc_both (id uuid, created bigint, version int, data"
                " bytea, flash json, renewal_id uuid, rotated bigint, rotated_from"
                " uuid, sent bigint, idle_expire bigint) PARTITION BY HASH (id)"
            )
        )
        for number in range(3):
            connection.execute(
                text(
                    f"CREATE TABLE gc_both_{number} PARTITION OF gc_both FOR VALUES"
                    f" WITH (MODULUS 3, REMAINDER {number})"
                )
            )
    config = config_of(Both, NOW, idle_timeout=10)
    stored = store(engine, Both, *expiring(*[NOW - 1, NOW] * 60))
    assert sum(collector.delete_expired(engine, config, batch_size=7)) == 60
    assert left(engine, Both) == set(stored[1::2])


def test_what_belongs_to_a_session_goes_with_it(engine):
    """The database does what the foreign keys say."""
    config = config_of(Both, NOW, idle_timeout=10)
    _, alive = keys = store(engine, Both, *expiring(NOW - 1, NOW))
    with engine.begin() as connection:
        connection.execute(insert(Cart), [{"session_id": key} for key in keys])
    assert sum(collector.delete_expired(engine, config)) == 1
    with engine.connect() as connection:
        assert connection.scalars(select(Cart.c.session_id)).all() == [alive]


# Batches, limits and transactions.


@contextmanager
def transactions(engine: Engine):
    """Collect what each committed transaction deleted with how many statements."""
    collected: list[int] = []
    deleted = 0

    def executed(connection, cursor, statement, *arguments):
        nonlocal deleted
        if statement.startswith("DELETE"):
            deleted += cursor.rowcount

    def committed(connection):
        nonlocal deleted
        if deleted:
            collected.append(deleted)
        deleted = 0

    event.listen(engine, "after_cursor_execute", executed)
    event.listen(engine, "commit", committed)
    try:
        yield collected
    finally:
        event.remove(engine, "after_cursor_execute", executed)
        event.remove(engine, "commit", committed)


@only("size", [1, 2, 7, 100])
def test_batches(engine, size):
    """No transaction deletes more than a batch, and all is deleted in the end."""
    config = config_of(Both, NOW, idle_timeout=10)
    stored = store(engine, Both, *expiring(*[NOW - 1, NOW, NOW - 2] * 7))
    with transactions(engine) as collected:
        batches = list(collector.delete_expired(engine, config, batch_size=size))
    assert collected == batches
    assert max(batches) <= size
    assert sum(batches) == 14
    assert left(engine, Both) == set(stored[1::3])


@only("limit", [0, 1, 5, 14, 100])
@only("size", [None, 2, 5])
def test_limit(engine, size, limit):
    """A limit is reached, if there is enough, and never passed."""
    config = config_of(Both, NOW, idle_timeout=10)
    store(engine, Both, *expiring(*[NOW - 1, NOW] * 14))
    batches = list(collector.delete_expired(engine, config, size, limit))
    assert sum(batches) == min(14, limit)


def test_all_in_the_transaction_of_the_caller(engine):
    """On a connection nothing is committed."""
    config = config_of(Both, NOW, idle_timeout=10)
    stored = store(engine, Both, *expiring(*[NOW - 1] * 5))
    with engine.connect() as connection:
        assert list(collector.delete_expired(connection, config, batch_size=5)) == [5]
        connection.rollback()
    assert left(engine, Both) == set(stored)


@on_servers
@only("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_isolation_level(make_engine, level):
    """Whatever the level of the application is, the collector's is READ COMMITTED."""
    engine = make_engine(isolation_level=level, pool_size=1, max_overflow=0)
    Base.metadata.create_all(engine)
    config = config_of(Both, NOW, idle_timeout=10)
    store(engine, Both, *expiring(NOW - 1))
    levels = []

    def executing(connection, cursor, statement, *arguments):
        if statement.startswith("DELETE"):
            levels.append(connection.get_isolation_level())

    event.listen(engine, "before_cursor_execute", executing)
    assert sum(collector.delete_expired(engine, config)) == 1
    assert levels == ["READ COMMITTED"]
    with engine.connect() as connection:
        assert connection.get_isolation_level() == level


# Beside others.


@on_servers
def test_what_others_have_locked_is_left(engine):
    """An expired session that somebody works on is skipped without waiting."""
    config = config_of(Both, NOW, idle_timeout=10)
    locked, _, live = store(engine, Both, *expiring(NOW - 1, NOW - 1, NOW))
    with engine.connect() as other:
        for key in (locked, live):
            row = select(Both.id).where(Both.id == key).with_for_update()
            other.execute(row).all()
        assert sum(collector.delete_expired(engine, config)) == 1
    assert left(engine, Both) == {locked, live}
    assert sum(collector.delete_expired(engine, config)) == 1
    assert left(engine, Both) == {live}


@on_servers
def test_live_sessions_are_not_locked(engine):
    """While a batch is being deleted, all live sessions can be written."""
    config = config_of(Both, NOW, idle_timeout=10)
    stored = store(engine, Both, *expiring(*[NOW - 1, NOW] * 20))
    patience = {
        "postgresql": "SET lock_timeout = '1s'",
        "mysql": "SET innodb_lock_wait_timeout = 1",
    }[engine.dialect.name]
    with engine.connect() as connection:
        connection = connection.execution_options(isolation_level="READ COMMITTED")
        assert sum(collector.delete_expired(connection, config)) == 20
        with engine.connect() as other:
            other.execute(text(patience))
            for key in stored[1::2]:
                row = update(Both.__table__).where(Both.id == key)
                assert other.execute(row.values(version=2)).rowcount == 1
            other.rollback()
        connection.commit()


@only("database_url", ["mariadb"], indirect=True)
def test_extension_while_the_expired_are_looked_for(engine, make_engine):
    """A session that is extended between finding and deleting it stays."""
    config = config_of(Both, NOW, idle_timeout=10)
    (key,) = store(engine, Both, *expiring(NOW - 1))
    other = make_engine()
    statements = []

    def executing(connection, cursor, statement, *arguments):
        statements.append(statement)
        if "FOR UPDATE" in statement:
            with other.begin() as extension:
                row = update(Both.__table__).where(Both.id == key)
                extension.execute(row.values(idle_expire=NOW))

    event.listen(engine, "before_cursor_execute", executing)
    assert list(collector.delete_expired(engine, config)) == []
    assert any("SKIP LOCKED" in statement for statement in statements)
    assert left(engine, Both) == {key}


def test_every_delete_says_what_expired_means(engine):
    """The condition stands in the DELETE, not only in what looked for the rows."""
    config = config_of(Both, NOW, idle_timeout=10)
    store(engine, Both, *expiring(NOW - 1))
    deletes = []

    def executing(connection, cursor, statement, *arguments):
        if statement.startswith("DELETE"):
            deletes.append(statement)

    event.listen(engine, "before_cursor_execute", executing)
    assert list(collector.delete_expired(engine, config)) == [1]
    (statement,) = deletes
    assert "idle_expire <" in statement.rpartition("LIMIT")[2]


#: How a connection is told to wait for others for half a second, or the least.
IMPATIENCE = {
    "sqlite": "PRAGMA busy_timeout = 500",
    "postgresql": "SET lock_timeout = 500",
    "mysql": "SET innodb_lock_wait_timeout = 1",
}


@pytest.fixture
def impatient_engine(engine, make_engine):
    """An engine whose connections do not wait for others for long."""
    impatient = make_engine()

    def connected(connection, record):
        with closing(connection.cursor()) as cursor:
            cursor.execute(IMPATIENCE[impatient.dialect.name])
        connection.commit()

    event.listen(impatient, "connect", connected)
    if impatient.dialect.name == "sqlite":
        event.listen(impatient, "connect", _honour_foreign_keys)
    return impatient


@pytest.fixture
def in_the_way(engine):
    """Lock what goes with an expired session; return a function that unlocks it."""
    (key,) = store(engine, Both, *expiring(NOW - 1))
    with engine.begin() as connection:
        connection.execute(insert(Cart).values(session_id=key))
    connection = engine.connect()
    connection.execute(update(Cart).values(items=5))
    yield connection.rollback
    connection.close()


def test_waits_for_others_and_goes_on(engine, impatient_engine, in_the_way):
    """A lock that is in the way for a while does not end the collection."""
    config = config_of(Both, NOW, idle_timeout=10)
    refused = []
    event.listen(impatient_engine, "handle_error", refused.append)
    timer = threading.Timer(1.5, in_the_way)
    timer.start()
    try:
        assert list(collector.delete_expired(impatient_engine, config)) == [1]
    finally:
        timer.join()
    assert refused
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(Cart)) == 0


def test_does_not_wait_forever(impatient_engine, in_the_way, monkeypatch):
    """Patience has an end."""
    monkeypatch.setattr(turns, "PATIENCE", 0.2)
    config = config_of(Both, NOW, idle_timeout=10)
    with pytest.raises(OperationalError):
        list(collector.delete_expired(impatient_engine, config))


def test_another_error_is_raised_at_once(engine, in_the_way):
    """What will not pass is not tried again."""
    in_the_way()
    config = config_of(Both, NOW, idle_timeout=10)
    failed = []
    event.listen(engine, "handle_error", failed.append)

    def executing(connection, cursor, statement, *arguments):
        if statement.startswith("DELETE"):
            statement = "DELETE FROM nowhere"
        return statement, arguments[0]

    event.listen(engine, "before_cursor_execute", executing, retval=True)
    with pytest.raises(Exception, match="nowhere"):
        list(collector.delete_expired(engine, config))
    assert len(failed) == 1


def test_two_collectors(engine):
    """Two at once delete everything that has expired, each row once."""
    config = config_of(Both, NOW, idle_timeout=10)
    stored = store(engine, Both, *expiring(*[NOW - 1, NOW] * 500))
    numbers = []

    def collect():
        numbers.append(sum(collector.delete_expired(engine, config, batch_size=10)))

    threads = [threading.Thread(target=collect) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # What one has locked when the other ends is deleted all the same.
    assert sum(numbers) == 500
    assert left(engine, Both) == set(stored[1::2])


def test_races(database_url):
    """No session that a request has extended is deleted, by either of two collectors.

    Nor does a request fail whose session they delete meanwhile, or that finds a
    session expired by itself.
    """
    outcome = gc_races.run(database_url, races=1002)
    assert len(outcome.extended) > 20
    assert len(outcome.lost) > 20
    assert len(outcome.expired) == 334 - 334 % 2


# The command.


def test_console_script():
    """The command is installed."""
    (script,) = entry_points(group="console_scripts", name="pyramid_session_gc")
    assert script.load() is gc.main


@pytest.fixture
def sessions(engine):
    """Two sessions that have expired, and one that is alive; return the live one."""
    now = int(time.time())
    rows = [{"idle_expire": now + each} for each in (-9, -5, 3600)]
    return store(engine, Both, *rows)[2]


def test_main(engine, configure, sessions, capsys, caplog):
    """The command deletes what has expired, and says so and logs it."""
    caplog.set_level(logging.INFO, gc.__name__)
    assert gc.main([configure(idle_timeout=1000)]) == 0
    assert left(engine, Both) == {sessions}
    (line,) = caplog.messages
    assert line.startswith("Deleted 2 expired rows of Both in 0.")
    assert capsys.readouterr() == (f"{line}\n", "")


def test_quiet(engine, configure, sessions, capsys, caplog):
    """A quiet command only logs it."""
    caplog.set_level(logging.INFO, gc.__name__)
    assert gc.main([configure(idle_timeout=1000), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert caplog.messages[0].startswith("Deleted 2 expired rows of Both in 0.")


def test_dry_run(engine, configure, sessions, capsys):
    """A dry run counts, and deletes nothing."""
    assert gc.main([configure(idle_timeout=1000), "--dry-run"]) == 0
    assert capsys.readouterr() == ("2 rows of Both have expired.\n", "")
    assert len(left(engine, Both)) == 3


def test_quiet_dry_run(configure, sessions, capsys, caplog, engine):
    """A quiet dry run says it in the log only."""
    caplog.set_level(logging.INFO, gc.__name__)
    assert gc.main([configure(idle_timeout=1000), "--dry-run", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert caplog.messages == ["2 rows of Both have expired; none were deleted."]


@on_sqlite
def test_no_timeout(engine, configure, sessions, capsys):
    """Without any timeout the command says so, and that is no failure."""
    assert gc.main([configure()]) == 0
    assert "No timeout is set, so no Both can expire." in capsys.readouterr().out
    assert len(left(engine, Both)) == 3
    assert gc.main([configure(), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_timeouts_of_each_session(engine, configure):
    """Without a global timeout those of the sessions count."""
    now = int(time.time())
    _, alive = store(
        engine,
        Own,
        {"idle_timeout": 5, "idle_expire": now - 5},
        {"idle_timeout": None, "idle_expire": now - 5},
    )
    assert gc.main([configure(model="Own")]) == 0
    assert left(engine, Own) == {alive}


@on_sqlite
def test_batch_size(engine, configure, sessions, monkeypatch):
    """The size of the batches can be chosen."""
    sizes = []
    whole = collector.delete_expired

    def delete_expired(engine, config, batch_size, report):
        sizes.append(batch_size)
        return whole(engine, config, batch_size)

    monkeypatch.setattr(gc, "delete_expired", delete_expired)
    assert gc.main([configure(idle_timeout=1000), "--batch-size", "17"]) == 0
    assert gc.main([configure(idle_timeout=1000)]) == 0
    assert sizes == [17, None]
    assert left(engine, Both) == {sessions}


@on_sqlite
def test_variables(engine, configure, sessions):
    """Variables of the configuration are key=value, before or after options."""
    uri = configure(idle_timeout="%(timeout)s")
    assert gc.main([uri, "--quiet", "timeout=1000"]) == 0
    assert left(engine, Both) == {sessions}
    assert gc.main([uri, "timeout=1000", "--quiet"]) == 0
    assert gc.main([uri]) == 1


@on_sqlite
def test_another_section(engine, configure, sessions):
    """The URI may name the section of the application."""
    extra = "\n[app:other]\nuse = main\nsession.idle_timeout = 1000\n"
    uri = configure(extra)
    assert gc.main([uri, "--quiet"]) == 0
    assert len(left(engine, Both)) == 3
    assert gc.main([f"{uri}#other"]) == 0
    assert left(engine, Both) == {sessions}


@on_sqlite
def test_prefix(engine, configure, sessions):
    """Settings with another prefix are another factory's."""
    now = int(time.time())
    _, alive = store(engine, Own, {"absolute_expire": now - 5}, {})
    uri = configure(
        "admin.model_class = tests.test_gc.Own\n"
        f"admin.secret_key = {SECRET}\n"
        "admin.dbsession_name = db\n"
        "test.dbsession = db\n",
        dbsession_name="db",
        idle_timeout=1000,
    )
    assert gc.main([uri, "--prefix", "admin."]) == 0
    assert left(engine, Own) == {alive}
    assert len(left(engine, Both)) == 3
    assert gc.main([uri]) == 0
    assert left(engine, Both) == {sessions}


@on_sqlite
def test_settings_with_the_prefix_serve_too(engine, tmp_path, database_url, sessions):
    """An application whose factory is wrapped is understood by its settings."""
    path = tmp_path / "wrapped.ini"
    path.write_text(
        CONFIGURATION.format(
            url=database_url,
            settings="session.model_class = tests.test_gc.Both\n"
            "session.idle_timeout = 1000\n"
            f"session.secret_key = {SECRET}\n",
        ).replace("test_gc:application", "test_gc:wrapping_application")
    )
    assert gc.main([str(path)]) == 0
    assert left(engine, Both) == {sessions}


def wrapping_application(global_config: dict[str, str], **settings: Any) -> Any:
    """Make an application whose session factory is a function."""
    app = application(global_config, **settings)
    config = Configurator(registry=app.registry)
    factory = session_factory_from_settings(settings, config.maybe_dotted)
    config.set_session_factory(lambda request: factory(request))
    config.commit()
    return app


# Statuses.


@on_sqlite
@only(
    "arguments",
    [
        [],
        ["--batch-size", "0"],
        ["--batch-size", "-5"],
        ["--batch-size", "many"],
        ["--unknown"],
        ["no_variable"],
    ],
)
def test_wrong_usage(configure, capsys, arguments):
    """Wrong usage has the status 2, and shows what is right."""
    uri = [configure(idle_timeout=1000)] if arguments else []
    with pytest.raises(SystemExit) as raised:
        gc.main(uri + arguments)
    assert raised.value.code == 2
    assert "usage: pyramid_session_gc" in capsys.readouterr().err


@on_sqlite
def test_interrupt(configure, capsys, monkeypatch, engine):
    """Ctrl+C ends it with one line, and a failure's status."""

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(gc, "delete_expired", interrupt)
    assert gc.main([configure(idle_timeout=1000)]) == 1
    assert capsys.readouterr() == ("", "pyramid_session_gc: interrupted\n")


@pytest.mark.parametrize("number", ["0", "-5", "many", "1.5", ""])
def test_wrong_batch_size(capsys, number):
    """A batch size that's none is named in the words of its user."""
    with pytest.raises(SystemExit):
        gc.main(["production.ini", f"--batch-size={number}"])
    assert f"{number!r} isn't a whole number above 0" in capsys.readouterr().err


def test_without_arguments(capsys):
    """Only the configuration is required; variables are not."""
    with pytest.raises(SystemExit):
        gc.main([])
    error = capsys.readouterr().err
    assert error.endswith("the following arguments are required: CONFIG_URI\n")


@only("section", ["", "#main"])
@only("scheme", ["", "file:", "file+ini://"])
def test_missing_configuration(tmp_path, capsys, scheme, section):
    """A configuration that is not there is wrong usage, and named."""
    path = tmp_path / "none.ini"
    with pytest.raises(SystemExit) as raised:
        gc.main([f"{scheme}{path}{section}"])
    assert raised.value.code == 2
    assert f"there is no file {path}\n" in capsys.readouterr().err


@only("uri", ["production", "."])
def test_no_configuration(capsys, uri):
    """What doesn't look like a configuration is wrong usage, too."""
    with pytest.raises(SystemExit) as raised:
        gc.main([uri])
    assert raised.value.code == 2
    assert f"{uri} isn't a configuration" in capsys.readouterr().err


@only(
    ("line", "said"),
    [
        ("session.secret_key = AAECAwQF%BgcICQoLDA0ODxAR", "session.secret_key in"),
        ("session.secret_key = AAECAwQFBgcICQoLDA0ODxAR%", "session.secret_key in"),
        ("session.secret_key = AAECAwQF%(BgcICQoLDA0ODxAR", "session.secret_key in"),
        ("session.secret_key = AAECAwQF%(no)sICQoLDA0ODxAR", "variable %(no)s"),
        ("session.secret_key = AAECAwQF%(me)s\nme = %(me)s", "session.secret_key in"),
        ("sqlalchemy.url = mysql://me:AAECAwQF%here", "sqlalchemy.url in"),
        ("session.secret_key =\nAAECAwQFBgcICQoLDA0ODxAR", "parsing errors"),
    ],
)
def test_key_with_a_percent_sign(tmp_path, capsys, caplog, line, said):
    """configparser's error quotes the value, which may be the key: we don't."""
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "percent.ini"
    path.write_text(f"[app:main]\nuse = call:tests.test_gc:application\n{line}\n")
    assert gc.main([str(path)]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    for secret in ("AAECAwQF", "BgcICQ", "ICQoLDA0ODxAR", "here"):
        assert secret not in error + caplog.text


def test_missing_table(make_engine, configure, capsys):
    """What the database says is passed on, in one line and without the statement."""
    assert gc.main([configure(idle_timeout=1000)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("pyramid_session_gc: ")
    assert "gc_both" in error
    assert error.count("\n") == 1
    assert "SELECT" not in error


@on_sqlite
def test_unknown_prefix(configure, capsys):
    """Without settings with the prefix the message says what to do."""
    assert gc.main([configure(), "--prefix", "sesion."]) == 1
    error = capsys.readouterr().err
    assert "there is no setting sesion.model_class" in error
    assert "--prefix" in error


@on_sqlite
def test_application_without_sessions(configure, capsys, tmp_path, database_url):
    """An application that has no sessions of this library is told so."""
    path = tmp_path / "none.ini"
    path.write_text(CONFIGURATION.format(url=database_url, settings=""))
    assert gc.main([str(path)]) == 1
    assert "doesn't come from pyramid_sqlalchemy_sessions" in capsys.readouterr().err


@on_sqlite
def test_application_without_dbsession(configure, capsys):
    """A dbsession that is missing is named."""
    assert gc.main([configure("test.dbsession = db", idle_timeout=1000)]) == 1
    assert "request.dbsession" in capsys.readouterr().err


@on_servers
def test_errors_name_no_session(engine, configure, capsys, caplog):
    """A foreign key that forbids the deletion is a failure that names no session."""
    now = int(time.time())
    (key,) = store(engine, Both, {"idle_expire": now - 5})
    strict = Table(
        "gc_strict",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("session_id", Uuid),
    )
    strict.create(engine)
    with engine.begin() as connection:
        connection.execute(
            text(
                "ALTER TABLE gc_strict ADD FOREIGN KEY (session_id)"
                " REFERENCES gc_both (id)"
            )
        )
        connection.execute(insert(strict).values(session_id=key))
    assert gc.main([configure(idle_timeout=1000)]) == 1
    error = capsys.readouterr().err
    assert "foreign key constraint" in error
    assert str(key) not in error
    assert key.hex not in error
    assert left(engine, Both) == {key}
    assert caplog.messages == []


@on_sqlite
def test_traceback_when_debugging(configure, capsys, caplog):
    """Whoever logs at DEBUG sees where it failed."""
    caplog.set_level(logging.DEBUG, command.__name__)
    assert gc.main([configure(idle_timeout=1000)]) == 1
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "Traceback" not in capsys.readouterr().err


# The engine.


def test_engine_for_writing(make_engine, sessions):
    """An application that reads elsewhere has its sessions deleted where it writes."""
    reading, writing = make_engine(), make_engine()

    class Routing(Session):
        def get_bind(self, mapper=None, *, clause=None, **kw):
            return writing if clause is not None and clause.is_dml else reading

    config = config_of(Both, idle_timeout=10)
    request = type("Request", (), {"dbsession": Routing()})()
    assert gc._engine_of(request, config) is writing


# The progress bar.


def run_on_terminal(
    *arguments: str, stderr: bool = True, without: str = "nothing"
) -> str:
    """Run the command on a terminal; return what it shows there."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 80, 0, 0))
    command = (
        f"import sys; sys.modules[{without!r}] = None;"
        "from pyramid_sqlalchemy_sessions import gc; sys.exit(gc.main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", command, *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave if stderr else subprocess.PIPE,
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "TERM": "xterm"},
    )
    os.close(slave)
    with open(master, "rb", buffering=0) as terminal:
        shown = b""
        try:
            while piece := terminal.read(1000):
                shown += piece
        except OSError:  # Linux, when nobody has the other end any more
            pass
    if process.stderr is not None:
        shown += process.stderr.read()
        process.stderr.close()
    assert process.wait(60) == 0
    return shown.decode()


def test_progress_bar_on_a_terminal(engine, configure, sessions):
    """On a terminal one sees how far it is."""
    shown = run_on_terminal(configure(idle_timeout=1000))
    assert "Expired sessions: 100%" in shown
    assert "2/2" in shown
    assert left(engine, Both) == {sessions}


def test_lines_on_a_terminal(engine, configure, sessions):
    """Without tqdm plain lines say how far it is, and the last one how it ended."""
    shown = run_on_terminal(
        configure(idle_timeout=1000), "--batch-size=1", without="tqdm"
    )
    *lines, last = shown.splitlines()
    assert lines == ["Expired sessions: 1/2", "Expired sessions: 2/2"]
    assert last.startswith("Deleted 2 expired rows of Both")
    assert left(engine, Both) == {sessions}


def test_lines_now_and_then(monkeypatch, capsys):
    """Batches that follow each other quickly make one line."""
    now = [0.0]
    monkeypatch.setattr(gc, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with gc._progress("Sessions", None, quiet=False) as show:
        for second in (0, 0.5, 1.9, 2, 3):
            now[0] = second
            show(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["Sessions: 10", "Sessions: 40", "Sessions: 50"]


@on_sqlite
@pytest.mark.parametrize("stderr", [True, False])
def test_no_lines(engine, configure, sessions, stderr):
    """Nor are there any where there would be no progress bar."""
    arguments = [configure(idle_timeout=1000), *(["--quiet"] if stderr else [])]
    shown = run_on_terminal(*arguments, stderr=stderr, without="tqdm")
    lines = shown.splitlines()
    assert [line for line in lines if not line.startswith("Deleted 2 expired")] == []
    assert len(lines) == (0 if stderr else 1)
    assert left(engine, Both) == {sessions}


@on_sqlite
def test_no_progress_bar_if_quiet(engine, configure, sessions):
    """A quiet command shows nothing, on a terminal either."""
    assert run_on_terminal(configure(idle_timeout=1000), "--quiet") == ""
    assert left(engine, Both) == {sessions}


@on_sqlite
def test_no_progress_bar_in_a_file(engine, configure, sessions):
    """Where the errors go elsewhere, there is no progress bar in them."""
    shown = run_on_terminal(configure(idle_timeout=1000), stderr=False)
    assert shown.startswith("Deleted 2 expired rows of Both")
    assert len(shown.splitlines()) == 1
    assert left(engine, Both) == {sessions}


@pytest.mark.parametrize("without", ["nothing", "tqdm"])
def test_progress_of_nothing(engine, configure, without):
    """With nothing to delete the command ends well, on a terminal, too."""
    shown = run_on_terminal(configure(idle_timeout=1000), without=without)
    assert "Traceback" not in shown
