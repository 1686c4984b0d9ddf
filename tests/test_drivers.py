"""What every driver says of every error, and whether a second attempt is safe.

The errors are real wherever the server can be made to raise them. Those that need a
cluster are raised by the server when it is told to, so that each driver reads them.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError

from pyramid_sqlalchemy_sessions.conflicts import (
    can_be_tried_again,
    was_lost_before_commit,
)
from pyramid_sqlalchemy_sessions.discretion import hushed
from tests.drivers import (
    DRIVERS,
    Proxy,
    open_engine,
    proxy_of,
    unwrap,
    with_any_driver,
)

#: What makes an error: a function of an engine of the driver, and one of the rival.
Provoke = Callable[[Engine, Engine], None]

_SIGNAL = "SIGNAL SQLSTATE '{}' SET MYSQL_ERRNO = {}, MESSAGE_TEXT = '{}'"


def run(connection: Connection, statement: str) -> Any:
    """Execute a statement."""
    return connection.execute(text(statement))


def add_one(connection: Connection, number: int) -> None:
    """Write to a row."""
    run(connection, f"UPDATE stock SET n = n + 1 WHERE id = {number}")


# What makes errors.


def changed_meanwhile(engine: Engine, rival: Engine) -> None:
    """Write to a row that the rival has changed since it was read."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            run(connection, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        else:
            run(connection, "SET SESSION innodb_snapshot_isolation = ON")
        run(connection, "SELECT n FROM stock").all()
        with rival.begin() as other:
            add_one(other, 1)
        add_one(connection, 1)


def deadlock(engine: Engine, rival: Engine) -> None:
    """Wait for the rival, who waits for the same transaction."""
    with (
        ThreadPoolExecutor(1) as pool,
        rival.connect() as other,
        engine.connect() as connection,
    ):
        if engine.dialect.name == "postgresql":
            # The one who looks for deadlocks is the one who gives up.
            run(connection, "SET LOCAL deadlock_timeout = '1ms'")
        add_one(connection, 1)
        # MariaDB has the one give up who has written less.
        run(other, "UPDATE stock SET n = n + 1 WHERE id > 1")
        waiting = pool.submit(add_one, other, 1)
        try:
            if engine.dialect.name == "postgresql":
                wait_until_blocked(rival)
            add_one(connection, 2)
        finally:
            waiting.result()


def wait_until_blocked(rival: Engine) -> None:
    """Return when another connection waits for a lock in this schema."""
    query = (
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE NOT granted AND query LIKE 'UPDATE stock%'"
    )
    with rival.connect() as connection:
        while not connection.scalar(text(query)):
            connection.rollback()


def lock_timeout(engine: Engine, rival: Engine) -> None:
    """Ask for a lock that the rival has."""
    with rival.connect() as other, engine.connect() as connection:
        add_one(other, 1)
        run(connection, "SELECT n FROM stock WHERE id = 1 FOR UPDATE NOWAIT")


def database_is_locked(engine: Engine, rival: Engine) -> None:
    """Write while the rival does."""
    with rival.connect() as other, engine.connect() as connection:
        add_one(other, 1)
        add_one(connection, 1)


def database_is_locked_at_commit(engine: Engine, rival: Engine) -> None:
    """Commit while the rival reads."""
    with rival.connect() as other, engine.connect() as connection:
        add_one(connection, 1)
        rows = run(other, "SELECT id FROM stock")
        rows.fetchone()
        connection.commit()


def told(state: str, number: int, message: str) -> Provoke:
    """Return what has MariaDB raise an error that takes a cluster."""

    def provoke(engine: Engine, rival: Engine) -> None:
        with engine.connect() as connection:
            run(connection, _SIGNAL.format(state, number, message))

    return provoke


def refused_second_phase(engine: Engine, rival: Engine) -> None:
    """Run into a lock timeout while committing what was prepared.

    That takes FLUSH TABLES WITH READ LOCK, which would stop all who use the server, and
    leaves the transaction prepared.
    """
    dialect = engine.dialect

    def do_commit_twophase(connection: Connection, xid: Any, is_prepared: bool) -> None:
        dialect.do_rollback_twophase(connection, xid)
        run(connection, _SIGNAL.format("HY000", 1205, "Lock wait timeout exceeded"))

    dialect.do_commit_twophase = do_commit_twophase
    with engine.connect() as connection:
        transaction = connection.begin_twophase()
        add_one(connection, 1)
        transaction.prepare()
        transaction.commit()


def duplicate(engine: Engine, rival: Engine) -> None:
    """Insert a row that is there."""
    with engine.connect() as connection:
        run(connection, "INSERT INTO stock (id, n) VALUES (1, 0)")


def syntax_error(engine: Engine, rival: Engine) -> None:
    """Say what no database understands."""
    with engine.connect() as connection:
        run(connection, "SELECT FROM WHERE")


def killed(engine: Engine, rival: Engine) -> None:
    """Go on after an administrator has ended the connection."""
    number, kill = {
        # It returns when the connection has ended.
        "postgresql": ("pg_backend_pid()", "SELECT pg_terminate_backend({}, 5000)"),
        "mysql": ("connection_id()", "KILL {}"),
    }[rival.dialect.name]
    with engine.connect() as connection:
        name = run(connection, f"SELECT {number}").scalar()
        with rival.connect() as administrator:
            run(administrator, kill.format(name))
        add_one(connection, 1)


#: By kind of database: what happens, what makes it, and whether to try again.
ERRORS: dict[str, dict[str, tuple[Provoke, bool]]] = {
    "postgresql": {
        "serialization failure": (changed_meanwhile, True),
        "deadlock": (deadlock, True),
        "lock timeout": (lock_timeout, True),
        "duplicate": (duplicate, False),
        "syntax error": (syntax_error, False),
    },
    "mariadb": {
        "deadlock (1213)": (deadlock, True),
        "lock timeout (1205)": (lock_timeout, True),
        "snapshot (1020)": (changed_meanwhile, True),
        "certification (3101)": (
            told("40000", 3101, "Plugin instructed the server to rollback"),
            True,
        ),
        "Galera (1047)": (told("08S01", 1047, "WSREP has not yet prepared"), True),
        "second phase (1205)": (refused_second_phase, False),
        "unknown command (1047)": (told("08S01", 1047, "Unknown command"), False),
        "duplicate": (duplicate, False),
        "syntax error": (syntax_error, False),
    },
    "sqlite": {
        "locked": (database_is_locked, True),
        "locked at the commit": (database_is_locked_at_commit, True),
        "duplicate": (duplicate, False),
        "syntax error": (syntax_error, False),
    },
}


def parametrized(errors: dict[str, dict[str, Any]]) -> pytest.MarkDecorator:
    """Run the test for each driver and each error of its database."""
    cases = [
        pytest.param(known.kind, driver, *case, id=f"{driver}-{name}")
        for driver, known in DRIVERS.items()
        for name, case in errors.get(known.kind, {}).items()
    ]
    return pytest.mark.parametrize(
        ("database_url", "driver", "provoke", "expected"),
        cases,
        indirect=["database_url"],
    )


@pytest.fixture
def rival(database_url: str) -> Iterator[Engine]:
    """An engine of the usual driver, on a database with a table."""
    engine = create_engine(database_url)
    with engine.begin() as connection:
        run(connection, "CREATE TABLE stock (id INTEGER PRIMARY KEY, n INTEGER)")
        run(connection, "INSERT INTO stock (id, n) VALUES (1, 0), (2, 0), (3, 0)")
    yield engine
    engine.dispose()


@pytest.fixture
def engine(rival: Engine, database_url: str, driver: str) -> Engine:
    """An engine of the driver, on the same database."""
    return open_engine(database_url, driver)


def errors_of(
    engine: Engine, provoke: Callable[[Engine, Any], None], other: Any
) -> tuple[DBAPIError, Exception]:
    """Return what SQLAlchemy raises, and what a listener makes of the same."""
    with pytest.raises(DBAPIError) as wrapped:
        provoke(engine, other)
    event.listen(engine, "handle_error", unwrap)
    with pytest.raises(Exception) as bare:  # noqa: PT011 - it is what is tested
        provoke(engine, other)
    assert not isinstance(bare.value, DBAPIError)
    return wrapped.value, bare.value


@parametrized(ERRORS)
@with_any_driver
def test_error(engine, rival, provoke, expected):
    """Conflicts are tried again, whichever driver tells of them, and nothing else."""
    for error in errors_of(engine, provoke, rival):
        assert can_be_tried_again(error) is expected
        assert not was_lost_before_commit(error)


# Connections that are lost.


def lost(
    word: str, answers: bool = False, twophase: bool = False, prepare: bool = True
) -> Callable[[Engine, Proxy], None]:
    """Return what loses the connection when the client says the word."""

    def provoke(engine: Engine, proxy: Proxy) -> None:
        if not prepare:
            engine.dialect.do_prepare_twophase = lambda connection, xid: None
        with engine.connect() as connection:
            begin = connection.begin_twophase if twophase else connection.begin
            transaction = begin()
            add_one(connection, 1)
            proxy.hang_up_at(word, answers)
            add_one(connection, 2)
            if twophase:
                transaction.prepare()
            transaction.commit()

    return provoke


LOST: dict[str, dict[str, Any]] = {
    "postgresql": {
        "UPDATE": (lost("UPDATE stock"), True),
        "UPDATE, answered": (lost("UPDATE stock", True), True),
        "COMMIT": (lost("COMMIT"), False),
        "COMMIT, answered": (lost("COMMIT", True), False),
        "PREPARE": (lost("PREPARE TRANSACTION", twophase=True), False),
        # Most servers prepare no transactions. What counts is how the second phase
        # fails, which is the same without the first one.
        "second phase": (lost("COMMIT", twophase=True, prepare=False), False),
    },
    "mariadb": {
        "UPDATE": (lost("UPDATE stock"), True),
        "UPDATE, answered": (lost("UPDATE stock", True), True),
        "COMMIT": (lost("COMMIT"), False),
        "COMMIT, answered": (lost("COMMIT", True), False),
        "XA END": (lost("XA END", twophase=True), True),
        # Without an answer: what was prepared would hold its locks forever.
        "XA PREPARE": (lost("XA PREPARE", twophase=True), False),
        "XA COMMIT, answered": (lost("XA COMMIT", True, twophase=True), False),
    },
}


@parametrized(LOST)
@with_any_driver
def test_lost_connection(engine, database_url, driver, provoke, expected):
    """It is tried again if that was before the commit, and if the error says so."""
    with proxy_of(database_url) as (proxy, url):
        through = open_engine(url, driver)
        wrapped, bare = errors_of(through, provoke, proxy)
        through.dispose()
    assert can_be_tried_again(wrapped) is expected
    assert was_lost_before_commit(wrapped) is expected
    assert not can_be_tried_again(bare)


@parametrized({kind: {"killed": (killed, True)} for kind in ("postgresql", "mariadb")})
@with_any_driver
def test_killed_connection(engine, rival, provoke, expected):
    """A connection that an administrator ends before the commit is lost as well."""
    wrapped, bare = errors_of(engine, provoke, rival)
    assert was_lost_before_commit(wrapped) is expected
    assert not can_be_tried_again(bare)


# What servers quote.

MARKER = "MaRkEr 'for key' MaRkEr"

#: Statements that fail, and what the error says all the same.
TALKATIVE: dict[str, dict[str, tuple[str, str]]] = {
    "postgresql": {
        "duplicate": ("VALUES (:m, 'x', 1), (:m, 'y', 2)", "duplicate key value"),
        "not null": ("VALUES (:m, NULL, 1)", "null value in column"),
        "number": ("VALUES ('a', 'b', :m)", "invalid input"),
        "syntax": ("VALUES (:m, 'b', 1) garbage", "syntax error"),
    },
    "mariadb": {
        "duplicate": ("VALUES (:m, 'x', 1), (:m, 'y', 2)", "for key 'PRIMARY'"),
        "number": ("VALUES ('a', 'b', :m)", "Incorrect integer value: '...' for col"),
        "syntax": ("VALUES ('a', 'b', 1) garbage :m", "near '...' at line 1"),
    },
    "sqlite": {"duplicate": ("VALUES (:m, 'x', 1), (:m, 'y', 2)", "UNIQUE constraint")},
}


@parametrized(TALKATIVE)
@with_any_driver
def test_errors_quote_nothing(engine, rival, provoke, expected):
    """Neither the error nor what it was made from shows what was to be stored."""
    with rival.begin() as connection:
        columns = "name VARCHAR(40) PRIMARY KEY, word VARCHAR(9) NOT NULL, n INTEGER"
        run(connection, f"CREATE TABLE talk ({columns})")

    def talk(engine: Engine, rival: Engine) -> None:
        with engine.connect() as connection, hushed():
            connection.execute(text(f"INSERT INTO talk {provoke}"), {"m": MARKER})

    wrapped, bare = errors_of(engine, talk, rival)
    for error in (wrapped, bare):
        shown = "".join(traceback.format_exception(error)) + repr((error, wrapped.orig))
        assert expected in shown
        assert "MaRkEr" not in shown
    assert str(wrapped.orig) in str(wrapped)


def test_errors_of_the_application_stay_as_they_are(sqlite_engine: Engine) -> None:
    """An error that is being handled meanwhile is not touched."""
    own = ValueError("Duplicate entry 'a' for key b\nDETAIL: c")

    def fail(connection: Connection) -> None:
        try:
            raise own
        except ValueError:
            with hushed():
                run(connection, "SELECT FROM WHERE")

    with sqlite_engine.connect() as connection, pytest.raises(DBAPIError) as info:
        fail(connection)
    assert info.value.orig.__context__ is own
    assert own.args == ("Duplicate entry 'a' for key b\nDETAIL: c",)
