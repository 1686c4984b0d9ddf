"""The include for retries: every conflict is retried, wherever it shows up.

The servers themselves raise the errors, so that each driver tells of them in its own
manner.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyramid_retry
import pytest
from pyramid.config import Configurator
from pyramid.interfaces import ITweens
from pyramid.response import Response
from pyramid.tweens import EXCVIEW
from sqlalchemy import Engine, Integer, create_engine, event, insert, make_url, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session, mapped_column
from sqlalchemy.orm.exc import StaleDataError

from pyramid_sqlalchemy_sessions import ConfigurationError, retry
from pyramid_sqlalchemy_sessions.conflicts import can_be_tried_again
from tests.application import Application, Base, Browser, Plain
from tests.stories.transactions import elsewhere

#: Set to 1, it makes a missing mysqlclient a failure.
REQUIRE_MYSQLCLIENT = "PSS_REQUIRE_MYSQLCLIENT"

DRIVERS = {
    "psycopg2": ("postgresql", "postgresql+psycopg2"),
    "psycopg": ("postgresql", "postgresql+psycopg"),
    "pymysql": ("mariadb", "mysql+pymysql"),
    "mysqlclient": ("mariadb", "mysql+mysqldb"),
    "sqlite3": ("sqlite", "sqlite"),
}

_SIGNAL = "SIGNAL SQLSTATE '{}' SET MYSQL_ERRNO = {}, MESSAGE_TEXT = '{}'"
_RAISE = "DO $$ BEGIN RAISE EXCEPTION 'in the way' USING ERRCODE = '{}'; END $$"

#: What the server is told to say, or to do, by kind of database.
LOST = "connection lost"
LOCKED = "database is locked"
ERRORS: dict[str, dict[str, str]] = {
    "postgresql": {
        "serialization failure": _RAISE.format("40001"),
        "deadlock": _RAISE.format("40P01"),
        "lock timeout": _RAISE.format("55P03"),
        LOST: "SELECT pg_terminate_backend({})",
    },
    "mariadb": {
        "deadlock": _SIGNAL.format("40001", 1213, "Deadlock found"),
        "lock timeout": _SIGNAL.format("HY000", 1205, "Lock wait timeout exceeded"),
        "snapshot": _SIGNAL.format("HY000", 1020, "Record has changed"),
        "certification": _SIGNAL.format("HY000", 3101, "Plugin instructed the server"),
        "Galera": _SIGNAL.format("08S01", 1047, "WSREP has not yet prepared node"),
        LOST: "KILL {}",
    },
    "sqlite": {LOCKED: "BEGIN IMMEDIATE"},
}


class Order(Base):
    """What the application itself stores."""

    __tablename__ = "order_to_retry"

    id = mapped_column(Integer, primary_key=True)


@dataclass
class Fault:
    """An error that hits the application once, at a place."""

    engine: Engine
    error: str
    place: str
    is_armed: bool = False
    _cleanups: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        dialect: Any = self.engine.dialect
        self._commit = dialect.do_commit
        dialect.do_commit = self._do_commit
        event.listen(self.engine, "do_execute", self._do_execute)

    def end(self) -> None:
        """Let go of what was in the way."""
        while self._cleanups:
            self._cleanups.pop()()

    def _do_execute(
        self, cursor: Any, statement: str, parameters: Any, context: Any
    ) -> None:
        table = {"flush": "order_to_retry", "session": "plain_session"}.get(self.place)
        words = statement.split()
        if self.is_armed and words[0] in ("INSERT", "UPDATE") and table in words:
            self._strike(cursor, context.root_connection.connection)

    def _do_commit(self, connection: Any) -> None:
        if self.is_armed and self.place == "commit":
            cursor = connection.cursor()
            self._strike(cursor, connection)
        self._commit(connection)

    def _strike(self, cursor: Any, connection: Any) -> None:
        self.is_armed = False
        what = ERRORS[self._kind][self.error]
        if self.error == LOCKED:
            self._lock(what)
        elif self.error == LOST:
            self.kill(what, connection)
        else:
            cursor.execute(what)

    @property
    def _kind(self) -> str:
        name = self.engine.dialect.name
        return "mariadb" if name == "mysql" else name

    def _lock(self, what: str) -> None:
        other = sqlite3.connect(self.engine.url.database or "", isolation_level=None)
        self._cleanups.append(other.close)
        if self.place == "commit":  # whoever reads keeps others from committing
            cursor = other.execute("SELECT 1 UNION SELECT id FROM plain_session")
            cursor.fetchone()
            self._cleanups.append(cursor.close)
        else:
            other.execute(what)

    def kill(self, what: str, connection: Any) -> None:
        driver_connection = connection.driver_connection
        if self._kind == "postgresql":
            pid = driver_connection.info.backend_pid
        else:
            pid = driver_connection.thread_id()
        with create_engine(self.engine.url).connect() as other:
            other.execute(text(what.format(pid)))
        other.engine.dispose()


def open_engine(url: str, driver: str) -> Engine:
    """Make an engine of the driver on the database."""
    if driver == "mysqlclient" and os.environ.get(REQUIRE_MYSQLCLIENT) != "1":
        pytest.importorskip("MySQLdb", reason="mysqlclient is not installed")
    connect_args = {"timeout": 0} if driver == "sqlite3" else {}
    parsed = make_url(url).set(drivername=DRIVERS[driver][1])
    return create_engine(parsed, connect_args=connect_args)


@pytest.fixture
def engine(database_url: str, driver: str) -> Iterator[Engine]:
    """An engine of the driver, on an empty database."""
    engine = open_engine(database_url, driver)
    Base.metadata.create_all(engine, tables=[Plain.__table__, Order.__table__])
    yield engine
    engine.dispose()


def make_shop(
    engine: Engine, catch_all: bool = False, delay: str | None = "0", **settings: Any
) -> Browser:
    """Return a browser, which has a session, of an application that retries."""
    if delay is not None:
        settings["retry.delay"] = delay

    def configure(config: Configurator) -> None:
        _retry(config)
        if catch_all:
            config.add_view(_apologise, context=Exception)

    shop = Browser(Application(engine, Plain, settings=settings, configure=configure))
    shop.visit(lambda request: request.session.update(orders=0))
    return shop


def _retry(config: Configurator) -> None:
    config.include("pyramid_sqlalchemy_sessions.retry")


def _apologise(error: Exception, request: Any) -> Response:
    return Response("sorry", status=500)


def order(request: Any) -> None:
    """Store an order, and count it in the session."""
    request.dbsession.add(Order())
    request.dbsession.flush()
    count(request)


def count(request: Any) -> None:
    """Count an order in the session."""
    request.session["orders"] += 1


def orders(shop: Browser) -> tuple[int, int]:
    """Return how many orders there are, and how many the session knows."""
    application = shop.application
    with Session(application.engine) as dbsession:
        stored = dbsession.query(Order).count()
    return stored, shop.ask(lambda session: session["orders"])


everything = pytest.mark.parametrize(
    ("database_url", "driver", "error"),
    [
        pytest.param(kind, driver, error, id=f"{driver}-{error}")
        for driver, (kind, _) in DRIVERS.items()
        for error in ERRORS[kind]
    ],
    indirect=["database_url"],
)
on_sqlite = pytest.mark.parametrize(
    ("database_url", "driver"), [("sqlite", "sqlite3")], indirect=["database_url"]
)
with_and_without_view = pytest.mark.parametrize(
    "catch_all", [False, True], ids=["no view", "catch-all view"]
)


@everything
@with_and_without_view
@pytest.mark.parametrize("place", ["flush", "session", "commit"])
def test_every_conflict_is_retried(engine, error, place, catch_all):
    """Whatever the driver, the error, the place, and the exception views."""
    shop = make_shop(engine, catch_all)
    fault = Fault(engine, error, place)
    attempts = []

    def view(request: Any) -> None:
        attempts.append(request.environ["retry.attempt"])
        fault.end()
        fault.is_armed = len(attempts) == 1
        # The database is locked for who writes first.
        count(request) if place == "session" else order(request)

    if (error, place) != (LOST, "commit"):
        shop.visit(view)
        assert attempts == [0, 1]
        assert orders(shop) == (place != "session", 1)
    elif catch_all:  # nobody knows what became of the commit
        assert shop.visit(view, status=500).text == "sorry"
        assert attempts == [0]
    else:
        with pytest.raises(DBAPIError):
            shop.visit(view)
        assert attempts == [0]


@on_sqlite
@with_and_without_view
def test_conflict_of_the_session_is_retried(engine, catch_all):
    """Somebody else has written to the session meanwhile."""
    shop = make_shop(engine, catch_all)
    attempts = []

    def view(request: Any) -> None:
        count(request)
        attempts.append(request.session["orders"])
        if len(attempts) == 1:
            rival = Browser(Application(engine, Plain))
            rival.set_cookie("session", shop.cookie)
            elsewhere(rival.visit, count)

    shop.visit(view)
    assert attempts == [1, 2]
    assert orders(shop) == (0, 2)


@pytest.mark.parametrize(
    ("database_url", "driver"), [("postgresql", "psycopg2")], indirect=["database_url"]
)
def test_lost_connection_to_a_standby_is_retried(engine):
    """Nobody was in the way, so no lock is taken, which a standby would refuse."""
    shop = make_shop(engine)
    read_only = {"postgresql_readonly": True, "isolation_level": "READ COMMITTED"}
    reader = Application(engine.execution_options(**read_only), Plain, configure=_retry)
    attempts = []

    def view(request: Any) -> int:
        attempts.append(1)
        if len(attempts) == 1:
            connection = request.dbsession.connection().connection
            Fault(engine, LOST, "").kill(ERRORS["postgresql"][LOST], connection)
        return request.session["orders"]

    visitor = Browser(reader)
    visitor.set_cookie("session", shop.cookie)
    assert visitor.visit(view).text == "0"
    assert len(attempts) == 2


@on_sqlite
def test_failed_commit_leaves_nothing_for_the_next_request(engine):
    """Also without retries: SQLite's transaction goes on if its commit fails."""
    shop = Browser(Application(engine, Plain))
    shop.visit(lambda request: request.session.update(orders=0))
    fault = Fault(engine, LOCKED, "commit", is_armed=True)
    with pytest.raises(OperationalError):
        shop.visit(order)
    fault.end()
    shop.visit(order)
    assert orders(shop) == (1, 1)


@on_sqlite
@with_and_without_view
def test_error_that_stays_is_shown_in_the_end(engine, catch_all):
    """After the last attempt an exception view, or the server, gets the error."""
    shop = make_shop(engine, catch_all, **{"retry.attempts": "4"})
    attempts = []

    def view(request: Any) -> None:
        attempts.append(1)
        raise StaleDataError

    if catch_all:
        assert shop.visit(view, status=500).text == "sorry"
    else:
        with pytest.raises(StaleDataError):
            shop.visit(view)
    assert len(attempts) == 4


@on_sqlite
def test_nothing_else_is_retried(engine):
    """An error that would come again is not a conflict."""
    shop = make_shop(engine)
    attempts = []

    def view(request: Any) -> None:
        attempts.append(1)
        request.dbsession.execute(insert(Order), [{"id": 1}, {"id": 1}])

    with pytest.raises(IntegrityError):
        shop.visit(view)
    assert len(attempts) == 1


# What is a conflict.


class Refusal(Exception):
    """An error of a driver."""

    sqlstate: str | None = None
    pgcode: str | None = None


def refusal(*args: Any, statement: str | None = "UPDATE", **attributes: str) -> Any:
    """Make an error as SQLAlchemy does."""
    orig = Refusal(*args)
    vars(orig).update(attributes)
    return OperationalError(statement, None, orig)


@pytest.mark.parametrize(
    ("error", "expected"),
    {
        "40001 of psycopg": (refusal("failure", sqlstate="40001"), True),
        "40001 of psycopg2": (refusal("failure", pgcode="40001"), True),
        "40001 at the commit": (refusal(sqlstate="40001", statement=None), True),
        "the commit may have succeeded": (refusal(sqlstate="40003"), False),
        "unique violation": (refusal("failure", sqlstate="23505"), False),
        "unknown command": (refusal(1047, "Unknown command"), False),
        "duplicate entry": (refusal(1062, "Duplicate entry"), False),
        "1213 by number": (refusal(1213, "Deadlock found", sqlstate="40001"), True),
        "table of SQLite": (refusal("database table is locked: session"), True),
        "account of MySQL": (refusal(3118, "Account is locked."), False),
        "no message": (refusal(), False),
        "no error of the driver": (OperationalError("UPDATE", None, None), False),
        "version of the row": (StaleDataError(), True),
        "something else": (ValueError(), False),
        "nothing": (None, False),
    }.values(),
    ids=str,
)
def test_what_is_a_conflict(error, expected):
    """Errors are judged by what the databases document, not by their class."""
    assert can_be_tried_again(error) is expected


# The time between attempts.


@pytest.mark.parametrize(
    "read",
    [
        lambda request: request.POST["file"].file.read(),
        lambda request: request.body_file.read().partition(b"hello")[1],
        lambda request: request.body.partition(b"hello")[1],
    ],
    ids=["POST", "body_file", "body"],
)
def test_every_attempt_reads_the_same_body(sqlite_engine, read):
    """A file that one attempt has read is not empty in the next one."""
    answers = []

    def view(request):
        answers.append(read(request))
        if len(answers) < 3:
            raise pyramid_retry.RetryableException

    application = Application(
        sqlite_engine,
        Plain,
        configure=lambda config: config.include(retry),
        settings={"retry.delay": 0},
    )
    application.view = view
    files = [("file", "hello.txt", b"hello")]
    Browser(application).post("/", upload_files=files)
    assert answers == [b"hello"] * 3


def times(monkeypatch: pytest.MonkeyPatch, engine: Engine, **settings: str) -> Any:
    """Return the longest and the real time before each further attempt."""
    longest: list[float] = []
    slept: list[float] = []

    def uniform(least: float, most: float) -> float:
        assert least == 0
        longest.append(most)
        return most / 2

    monkeypatch.setattr("random.uniform", uniform)
    monkeypatch.setattr("time.sleep", slept.append)
    shop = make_shop(engine, delay=None, **{"retry.attempts": "6", **settings})

    def view(request: Any) -> None:
        raise StaleDataError

    with pytest.raises(StaleDataError):
        shop.visit(view)
    return longest, slept


@on_sqlite
def test_time_between_attempts_is_random_and_doubles(monkeypatch, engine):
    """So that those who conflicted do not meet again."""
    settings = {"retry.delay": "0.5", "retry.max_delay": "3"}
    longest, slept = times(monkeypatch, engine, **settings)
    assert longest == [0.5, 1, 2, 3, 3]
    assert slept == [0.25, 0.5, 1, 1.5, 1.5]


@on_sqlite
def test_time_between_attempts_is_short_by_default(monkeypatch, engine):
    """Users wait for it."""
    longest, _ = times(monkeypatch, engine)
    assert longest == [0.05, 0.1, 0.2, 0.4, 0.8]


# The include.


@pytest.mark.parametrize("name", ["retry.delay", "retry.max_delay"])
@pytest.mark.parametrize("value", ["soon", "-1", "inf", "nan", "", None])
def test_wrong_time_is_refused(name, value):
    """The error names the setting, the value and what would be valid."""
    config = Configurator(settings={name: value})
    with pytest.raises(ConfigurationError, match=f"{name} = {value!r}: valid is"):
        config.include("pyramid_sqlalchemy_sessions.retry")


def test_tween_is_around_pyramid_tm():
    """Whatever the order of the includes, it sees errors of the commit."""
    for includes in (
        ("pyramid_tm", "pyramid_sqlalchemy_sessions.retry"),
        ("pyramid_sqlalchemy_sessions.retry", "pyramid_tm"),
        ("pyramid_retry", "pyramid_sqlalchemy_sessions.retry", "pyramid_tm"),
        ("pyramid_sqlalchemy_sessions.retry", "pyramid_retry"),
    ):
        config = Configurator()
        for include in includes:
            config.include(include)
        config.make_wsgi_app()
        names = [name for name, _ in config.registry.getUtility(ITweens).implicit()]
        assert names == [
            "pyramid_sqlalchemy_sessions.retry.retry_tween_factory",
            *(["pyramid_tm.tm_tween_factory"] if "pyramid_tm" in includes else []),
            EXCVIEW,
        ]


def test_explicit_tweens_must_have_it():
    """A list of tweens that leaves it out is refused."""
    tweens = ["pyramid_tm.tm_tween_factory", EXCVIEW]
    config = Configurator(settings={"pyramid.tweens": tweens})
    with pytest.raises(ConfigurationError, match="must list pyramid_sqlalchemy_sess"):
        config.include("pyramid_sqlalchemy_sessions.retry")
    tweens = ["pyramid_sqlalchemy_sessions.retry.retry_tween_factory", *tweens]
    config = Configurator(settings={"pyramid.tweens": "\n".join(tweens)})
    config.include("pyramid_sqlalchemy_sessions.retry")


def test_without_pyramid_retry(monkeypatch):
    """The error says what to install."""
    monkeypatch.setattr(retry, "pyramid_retry", None)
    with pytest.raises(ConfigurationError, match=r"sessions\[retry\]"):
        Configurator().include("pyramid_sqlalchemy_sessions.retry")
