"""The include for retries: every conflict is retried, wherever it shows up.

The servers themselves raise the errors, so that each driver tells of them in its own
manner.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyramid_retry
import pytest
from pyramid.config import Configurator
from pyramid.interfaces import ITweens
from pyramid.response import Response
from pyramid.tweens import EXCVIEW
from sqlalchemy import Engine, Integer, create_engine, event, insert, text
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    OperationalError,
    PendingRollbackError,
)
from sqlalchemy.orm import Session, mapped_column
from sqlalchemy.orm.exc import StaleDataError

from pyramid_sqlalchemy_sessions import ConfigurationError, retry
from pyramid_sqlalchemy_sessions.conflicts import (
    can_be_tried_again,
    was_lost_before_commit,
)
from tests.application import Application, Base, Browser, Plain
from tests.drivers import (
    DRIVERS,
    open_engine,
    proxy_of,
    unwrap,
    with_any_driver,
)
from tests.stories.transactions import elsewhere

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
        # It returns when the connection has ended.
        LOST: "SELECT pg_terminate_backend({}, 5000)",
    },
    "mariadb": {
        "deadlock": _SIGNAL.format("40001", 1213, "Deadlock found"),
        "lock timeout": _SIGNAL.format("HY000", 1205, "Lock wait timeout exceeded"),
        "snapshot": _SIGNAL.format("HY000", 1020, "Record has changed"),
        "certification": _SIGNAL.format("40000", 3101, "Plugin instructed the server"),
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
    administrator: Engine
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
        what = ERRORS[self.kind][self.error]
        if self.error == LOCKED:
            self._lock(what)
        elif self.error == LOST:
            kill(self.administrator, cursor)
        else:
            cursor.execute(what)

    @property
    def kind(self) -> str:
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


def kill(administrator: Engine, cursor: Any) -> None:
    """End the connection of the cursor."""
    kind, number = {
        "postgresql": ("postgresql", "pg_backend_pid()"),
        "mysql": ("mariadb", "connection_id()"),
    }[administrator.dialect.name]
    cursor.execute(f"SELECT {number}")
    (name,) = cursor.fetchone()
    with administrator.connect() as other:
        other.execute(text(ERRORS[kind][LOST].format(name)))


@pytest.fixture
def administrator(database_url: str) -> Iterator[Engine]:
    """An engine of the usual driver, on a database with both tables."""
    engine = create_engine(database_url)
    Base.metadata.create_all(engine, tables=[Plain.__table__, Order.__table__])
    yield engine
    engine.dispose()


@pytest.fixture
def engine(administrator: Engine, database_url: str, driver: str) -> Iterator[Engine]:
    """An engine of the driver, on the same database."""
    engine = open_engine(database_url, driver)
    yield engine
    if not DRIVERS[driver].is_async:
        engine.dispose()


def make_shop(
    engine: Engine,
    exception_view: Callable[[Any, Any], Any] | None = None,
    delay: str | None = "0",
    twophase: bool = False,
    **settings: Any,
) -> Browser:
    """Return a browser, which has a session, of an application that retries."""
    if delay is not None:
        settings["retry.delay"] = delay

    def configure(config: Configurator) -> None:
        _retry(config)
        if exception_view is not None:
            config.add_view(exception_view, context=Exception)

    application = Application(engine, Plain, settings=settings, configure=configure)
    application.make_session.configure(twophase=twophase)
    shop = Browser(application)
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


def cases(drivers: Iterable[str]) -> pytest.MarkDecorator:
    """Run the test for each of the drivers and each error of its database."""
    return pytest.mark.parametrize(
        ("database_url", "driver", "error"),
        [
            pytest.param(DRIVERS[driver].kind, driver, error, id=f"{driver}-{error}")
            for driver in drivers
            for error in ERRORS[DRIVERS[driver].kind]
        ],
        indirect=["database_url"],
    )


on_sqlite = pytest.mark.parametrize(
    ("database_url", "driver"), [("sqlite", "sqlite3")], indirect=["database_url"]
)
with_and_without_view = pytest.mark.parametrize(
    "exception_view", [None, _apologise], ids=["no view", "catch-all view"]
)


everywhere = pytest.mark.parametrize("place", ["flush", "session", "commit"])


@cases(DRIVERS)
@everywhere
@with_any_driver
def test_every_conflict_is_retried(engine, administrator, error, place):
    """Whatever the driver, the error, and the place."""
    attempts = []
    visit = visit_with_fault(engine, administrator, error, place, attempts)
    if (error, place) == (LOST, "commit"):  # that may have succeeded
        with pytest.raises(DBAPIError):
            visit()
        assert attempts == [0]
    else:
        visit()
        assert attempts == [0, 1]


@cases(["psycopg2", "pymysql", "sqlite3"])
@everywhere
@with_any_driver
def test_every_conflict_is_retried_with_exception_view(
    engine, administrator, error, place
):
    """The same where an exception view answers every error."""
    attempts = []
    visit = visit_with_fault(
        engine, administrator, error, place, attempts, exception_view=_apologise
    )
    if (error, place) == (LOST, "commit"):
        assert visit(status=500).text == "sorry"
        assert attempts == [0]
    else:
        visit()
        assert attempts == [0, 1]


def visit_with_fault(
    engine: Engine,
    administrator: Engine,
    error: str,
    place: str,
    attempts: list[int],
    exception_view: Any = None,
) -> Callable[..., Any]:
    """Return what orders once, and checks that this was stored once if it succeeds."""
    shop = make_shop(engine, exception_view)
    fault = Fault(engine, administrator, error, place)

    def view(request: Any) -> None:
        attempts.append(request.environ["retry.attempt"])
        fault.end()
        fault.is_armed = len(attempts) == 1
        # The database is locked for the one who writes first.
        count(request) if place == "session" else order(request)

    def visit(**kw: Any) -> Any:
        response = shop.visit(view, **kw)
        if response.status_int == 200:
            assert orders(shop) == (place != "session", 1)
        return response

    return visit


@cases(["psycopg2", "pymysql", "sqlite3"])
@pytest.mark.parametrize("place", ["flush", "commit"])
@with_any_driver
def test_listener_that_raises_the_error_of_the_driver(
    engine, administrator, error, place
):
    """A conflict is retried, and a lost connection is not: it doesn't say when."""
    event.listen(engine, "handle_error", unwrap)
    attempts = []
    visit = visit_with_fault(engine, administrator, error, place, attempts)
    if error == LOST:
        with pytest.raises(Exception, match=r"closed the connection|Lost connection"):
            visit()
        assert attempts == [0]
    else:
        visit()
        assert attempts == [0, 1]


@pytest.mark.parametrize(
    ("database_url", "driver"),
    [("postgresql", "psycopg2"), ("postgresql", "psycopg"), ("mariadb", "pymysql")],
    indirect=["database_url"],
)
def test_exception_view_of_a_lost_commit(engine, administrator):
    """What the view itself runs into is no reason to retry what may be stored."""
    attempts = []

    def view(request: Any) -> None:
        attempts.append(1)
        fault.is_armed = True
        order(request)

    def answer(lost: Exception, request: Any) -> None:
        with engine.connect() as connection:
            connection.execute(text(ERRORS[fault.kind]["deadlock"]))

    shop = make_shop(engine, exception_view=answer)
    fault = Fault(engine, administrator, LOST, "commit")
    with pytest.raises(OperationalError) as caught:
        shop.visit(view)
    assert not caught.value.connection_invalidated
    assert attempts == [1]


@pytest.mark.parametrize(
    ("database_url", "driver"),
    [("postgresql", "psycopg2"), ("postgresql", "psycopg")],
    indirect=["database_url"],
)
def test_unknown_completion(engine, administrator, monkeypatch):
    """CockroachDB's 40003 isn't retried, although zope.sqlalchemy takes it for safe."""
    monkeypatch.setitem(ERRORS["postgresql"], "unknown", _RAISE.format("40003"))
    attempts = []
    visit = visit_with_fault(engine, administrator, "unknown", "commit", attempts)
    with pytest.raises(DBAPIError, match="in the way"):
        visit()
    assert attempts == [0]


in_two_phases = pytest.mark.parametrize(
    ("database_url", "driver"),
    [
        pytest.param(known.kind, driver, id=driver)
        for driver, known in DRIVERS.items()
        if known.kind == "mariadb"
    ],
    indirect=["database_url"],
)


@in_two_phases
@with_any_driver
def test_lost_answer_to_the_second_phase(engine, database_url, driver):
    """The order is not placed twice."""
    attempts = []
    with proxy_of(database_url) as (proxy, url):
        through = open_engine(url, driver)
        shop = make_shop(through, twophase=True)

        def view(request: Any) -> None:
            attempts.append(1)
            order(request)
            proxy.hang_up_at("XA COMMIT", answers=True)

        with pytest.raises(DBAPIError):
            shop.visit(view)
        assert attempts == [1]
        assert orders(shop) == (1, 1)
        through.dispose()


@on_sqlite
@with_and_without_view
def test_conflict_of_the_session_is_retried(engine, exception_view):
    """Somebody else has written to the session meanwhile."""
    shop = make_shop(engine, exception_view)
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
def test_lost_connection_to_a_standby_is_retried(engine, administrator):
    """Nobody was in the way, so no lock is taken, which a standby would refuse."""
    shop = make_shop(engine)
    read_only = {"postgresql_readonly": True, "isolation_level": "READ COMMITTED"}
    reader = Application(engine.execution_options(**read_only), Plain, configure=_retry)
    attempts = []

    def view(request: Any) -> int:
        attempts.append(1)
        if len(attempts) == 1:
            connection = request.dbsession.connection().connection
            kill(administrator, connection.cursor())
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
    fault = Fault(engine, engine, LOCKED, "commit", is_armed=True)
    with pytest.raises(OperationalError):
        shop.visit(order)
    fault.end()
    shop.visit(order)
    assert orders(shop) == (1, 1)


@on_sqlite
@with_and_without_view
def test_error_that_stays_is_shown_in_the_end(engine, exception_view):
    """After the last attempt an exception view, or the server, gets the error."""
    shop = make_shop(engine, exception_view, **{"retry.attempts": "4"})
    attempts = []

    def view(request: Any) -> None:
        attempts.append(1)
        raise StaleDataError

    if exception_view is not None:
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


class DatabaseError(Exception):
    """An error of a driver, which PEP 249 wants to have this name."""

    sqlstate: str | None = None
    pgcode: str | None = None


class PostgresError(Exception):
    """An error of asyncpg."""

    sqlstate = "40001"


def refusal(*args: Any, **attributes: Any) -> Any:
    """Make an error of a driver."""
    error = DatabaseError(*args)
    vars(error).update(attributes)
    return error


def wrapped(error: Exception | None, statement: str | None = "UPDATE t") -> Any:
    """Wrap the error of a driver as SQLAlchemy does."""
    return OperationalError(statement, None, error)


def lost(statement: str | None) -> Any:
    """Make SQLAlchemy's error of a connection that is lost in a statement."""
    error = OperationalError(statement, None, refusal("gone"))
    error.connection_invalidated = True
    return error


def during(other: Exception, error: Exception) -> Exception:
    """Return the error as it is if it is raised while the other one is handled."""
    error.__context__ = other
    return error


def unwrapped(error: DBAPIError) -> Any:
    """Return the error of the driver as it is after ``raise error.orig from error``."""
    assert error.orig is not None
    error.__cause__ = error.orig
    error.orig.__cause__ = error
    return error.orig


serialization = refusal(sqlstate="40001")
reconnect = PendingRollbackError("Can't reconnect", code="8s2b")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(error, expected, id=name)
        for name, (error, expected) in {
            "40001 of psycopg": (refusal("failure", sqlstate="40001"), True),
            "40001 of psycopg2": (refusal("failure", pgcode="40001"), True),
            "40001 of pg8000": (refusal({"C": "40001", "M": "failure"}), True),
            "40001 of asyncpg": (PostgresError("failure"), True),
            "the commit may have succeeded": (refusal(sqlstate="40003"), False),
            "unique violation": (refusal("failure", sqlstate="23505"), False),
            "unique violation of pg8000": (refusal({"C": "23505"}), False),
            "fields without a code": (refusal({"M": "failure"}), False),
            "unknown command": (refusal(1047, "Unknown command"), False),
            "unknown command, Galera": (refusal("WSREP has not", errno=1047), True),
            "duplicate entry": (refusal(1062, "Duplicate entry"), False),
            "1213 by number": (refusal(1213, "Deadlock", sqlstate="40001"), True),
            "1205 of MariaDB Connector": (refusal("Lock wait", errno=1205), True),
            "table of SQLite": (refusal("database table is locked: session"), True),
            "quoted by an error": (refusal("Key (database is locked) exists"), False),
            "account of MySQL": (refusal(3118, "Account is locked."), False),
            "no message": (refusal(), False),
        }.items()
    ],
)
def test_what_is_a_conflict(error, expected):
    """Errors are judged by what the databases document, wrapped or bare."""
    assert can_be_tried_again(wrapped(error)) is expected
    assert can_be_tried_again(wrapped(error, None)) is expected
    assert can_be_tried_again(error) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(error, expected, id=name)
        for name, (error, expected) in {
            "version of the row": (StaleDataError(), True),
            "no error of the driver": (wrapped(None), False),
            "something else": (ValueError(), False),
            "something else with a number": (KeyError(1213), False),
            "something else with words": (ValueError("database is locked"), False),
            "nothing": (None, False),
            "reconnect": (reconnect, True),
            "bare, and it is known where": (unwrapped(lost("SELECT 1")), True),
            "bare, and it was the commit": (unwrapped(lost(None)), False),
            "second phase of XA": (wrapped(refusal(1205), "XA COMMIT 'x'"), False),
            "first phase of XA": (wrapped(refusal(1213), "XA PREPARE 'x'"), True),
            "conflict after a lost COMMIT": (
                during(lost(None), wrapped(serialization)),
                False,
            ),
            "version after a lost COMMIT": (
                during(lost("XA COMMIT 'x'"), StaleDataError()),
                False,
            ),
            "reconnect after a lost COMMIT": (
                during(lost(None), PendingRollbackError("", code="8s2b")),
                False,
            ),
            "bare conflict after a bare loss": (
                during(refusal("gone"), refusal(1213)),
                False,
            ),
            "conflict after a lost SELECT": (
                during(lost("SELECT 1"), wrapped(refusal(1213))),
                True,
            ),
            "conflict after something else": (
                during(ValueError(), wrapped(refusal(1213))),
                True,
            ),
        }.items()
    ],
)
def test_what_can_be_tried_again(error, expected):
    """Whatever may have to do with a commit that succeeded is not."""
    assert can_be_tried_again(error) is expected


@pytest.mark.parametrize(
    ("statement", "expected"),
    {
        "SELECT 1": True,
        " (select 1) UNION SELECT 2;\n": True,
        "/* COMMIT */ /* request: 7 */ -- here\nINSERT INTO t VALUES (1)": True,
        "WITH a AS (SELECT 1) DELETE FROM t": True,
        "SAVEPOINT a": True,
        "ROLLBACK TO SAVEPOINT a": True,
        "XA BEGIN 'x'": True,
        "XA END 'x'": True,
        "SET LOCAL app.user = '7'": True,
        "SET autocommit = 1": False,
        "SET STATEMENT max_statement_time = 1 FOR CALL order()": False,
        "UPDATE t SET a = 1; COMMIT": False,
        "SELECTED": False,
        "COMMIT": False,
        "END": False,
        "/* SELECT */ commit": False,
        "COMMIT PREPARED 'x'": False,
        "PREPARE TRANSACTION 'x'": False,
        "XA PREPARE 'x'": False,
        "XA COMMIT 'x'": False,
        "BEGIN": False,
        "CALL place_order()": False,
        "ALTER TABLE t ADD a INTEGER": False,
        "": False,
        None: False,
    }.items(),
)
def test_statements_that_never_commit(statement, expected):
    """A connection that is lost in one of them was lost before the commit."""
    assert was_lost_before_commit(lost(statement)) is expected
    assert can_be_tried_again(lost(statement)) is expected


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
    with pytest.raises(ConfigurationError, match=f"{name} = {value!r}: it must be"):
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


# A file that threads share.


def test_threads_that_share_a_file(sqlite_engine):
    """With SQLite as its driver comes, no increment of four threads fails."""
    Base.metadata.create_all(sqlite_engine)
    application = Application(
        sqlite_engine,
        configure=lambda config: config.include("pyramid_sqlalchemy_sessions.retry"),
    )
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(n=0))

    def increment(request):
        request.session["n"] += 1

    application.view = increment
    start = threading.Barrier(4)

    def write(cookie):
        other = Browser(application)
        other.set_cookie("session", cookie)
        start.wait()
        for _ in range(20):
            other.get("/")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, [browser.cookie] * 4))
    assert browser.ask(lambda session: session["n"]) == 80
