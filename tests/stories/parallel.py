"""Eight browsers' tabs that use one session at the same moment, in two processes.

``test_parallel_reads`` lets them do it for a few seconds, ``stress/parallel_reads.py``
for as long as wanted. Each process runs the real application in four threads, on the
database of the URL, with pyramid_retry. What counts is how often requests are tried.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, create_engine, event, select, text, update

from pyramid_sqlalchemy_sessions import BaseMixin, IdleMixin, RenewalMixin
from pyramid_sqlalchemy_sessions.cookie import SessionCookie, Ticket
from pyramid_sqlalchemy_sessions.serializer import AESGCMSerializer
from tests.application import Application, Base, Browser, environ_of_get

PROCESSES = 2
THREADS = 4

#: Beyond this a burst is not slow, but stuck.
PATIENCE = 60

#: How requests are kept apart, by kind of database: isolation levels, and what
#: databases call them besides.
BEGIN = "SERIALIZABLE, WITH BEGIN"
SNAPSHOT = "REPEATABLE READ, WITH SNAPSHOTS"
LEVELS = {
    "sqlite": ("SERIALIZABLE", BEGIN),
    "postgresql": ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"),
    "mariadb": ("READ COMMITTED", "REPEATABLE READ", SNAPSHOT, "SERIALIZABLE"),
}

IDLE_TIMEOUT = 1000
SETTINGS = {"idle_timeout": IDLE_TIMEOUT, "renewal_timeout": 100}

ID = uuid.UUID(int=1)
OLD, NEW = uuid.UUID(int=2), uuid.UUID(int=3)


class Contended(RenewalMixin, IdleMixin, BaseMixin, Base):
    """A session of which much can be due at once."""

    __tablename__ = "contended_session"


#: What can be due in a burst: the row before it, the cookie, and whether the row
#: after it is as it must be.
Row = dict[str, Any]
_RESTING = {
    "renewal_id": OLD,
    "renewal_next": None,
    "renewal_previous": None,
    "renewal_tried": None,
}
DUE: dict[str, tuple[Callable[[int], Row], uuid.UUID, Callable[[int, Row], bool]]] = {
    "nothing": (
        lambda now: {"idle_expire": now + 2 * IDLE_TIMEOUT, "renewed": now},
        OLD,
        lambda now, row: row["idle_expire"] == now + 2 * IDLE_TIMEOUT,
    ),
    "extension": (
        lambda now: {"idle_expire": now + 100, "renewed": now},
        OLD,
        lambda now, row: row["idle_expire"] >= now + IDLE_TIMEOUT,
    ),
    "candidate": (
        lambda now: {"idle_expire": now + 2 * IDLE_TIMEOUT, "renewed": now - 200},
        OLD,
        lambda now, row: row["renewal_next"] is not None,
    ),
    "takeover": (
        lambda now: {
            "idle_expire": now + 2 * IDLE_TIMEOUT,
            "renewed": now - 200,
            "renewal_next": NEW,
            "renewal_tried": now,
        },
        NEW,
        lambda now, row: (row["renewal_id"], row["renewal_previous"]) == (NEW, OLD),
    ),
    "candidate and extension": (
        lambda now: {"idle_expire": now + 100, "renewed": now - 200},
        OLD,
        lambda now, row: (
            row["renewal_next"] is not None and row["idle_expire"] >= now + IDLE_TIMEOUT
        ),
    ),
    "takeover and extension": (
        lambda now: {
            "idle_expire": now + 100,
            "renewed": now - 200,
            "renewal_next": NEW,
            "renewal_tried": now,
        },
        NEW,
        lambda now, row: (
            row["renewal_id"] == NEW and row["idle_expire"] >= now + IDLE_TIMEOUT
        ),
    ),
}


@dataclass(frozen=True)
class Plan:
    """What eight threads do ``times`` times: a read with something due, or a write.

    ``due`` is a key of ``DUE``, or "increment". The view takes ``pause`` seconds.
    ``prepare`` is a function of a module, which each application is changed with.
    """

    url: str
    level: str
    due: str
    times: int
    attempts: int = 5
    pause: float = 0.0
    prepare: Callable[[Application], None] | None = None


@dataclass
class Outcome:
    """What came of a plan."""

    requests: int = 0
    #: How often the view ran.
    tries: int = 0
    #: What the requests failed with that failed after the last attempt.
    failures: Counter[str] = field(default_factory=Counter)
    #: What is wrong besides, in words.
    wrong: Counter[str] = field(default_factory=Counter)
    cookies: int = 0
    #: What the counter in the session says in the end.
    counted: int = 0
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        """How many requests failed."""
        return self.failures.total()

    @property
    def retries(self) -> float:
        """How many retries there were for each request."""
        return (self.tries - self.requests) / self.requests

    @property
    def lost(self) -> int:
        """How many increments were acknowledged and are not there."""
        return self.requests - self.failed - self.counted

    def add(self, other: Outcome) -> None:
        """Take in what another process or thread did."""
        self.requests += other.requests
        self.tries += other.tries
        self.failures.update(other.failures)
        self.wrong.update(other.wrong)
        self.cookies += other.cookies
        self.counted += other.counted
        self.seconds = max(self.seconds, other.seconds)


_barrier: Any = None


def _enter(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


class _Process:
    """One process's application and its threads."""

    def __init__(self, plan: Plan, place: int):
        self.plan = plan
        self.place = place
        self.engine = engine_of(plan.url, plan.level)
        self.application = Application(
            self.engine,
            Contended,
            settings={"retry.attempts": plan.attempts},
            configure=_configure,
            **SETTINGS,
        )
        if plan.prepare is not None:
            plan.prepare(self.application)
        self.application.view = self._view
        self._outcomes = threading.local()
        renewal_id = OLD if plan.due == "increment" else DUE[plan.due][1]
        self._cookie = f"session={cookie_of(Ticket(ID, renewal_id))}"

    def _view(self, request: Any) -> None:
        self._outcomes.own.tries += 1
        if self.plan.due == "increment":
            request.session["n"] += 1
        else:
            request.session["n"]
        if self.plan.pause:
            time.sleep(self.plan.pause)

    def run(self) -> Outcome:
        outcomes = [Outcome() for _ in range(THREADS)]
        threads = [
            threading.Thread(target=self._run_thread, args=(place, outcome))
            for place, outcome in enumerate(outcomes)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.engine.dispose()
        total = Outcome()
        for outcome in outcomes:
            total.add(outcome)
        return total

    def _run_thread(self, place: int, outcome: Outcome) -> None:
        self._outcomes.own = outcome
        is_leader = (self.place, place) == (0, 0)
        try:
            if self.plan.due == "increment":
                self._increment(outcome)
            else:
                self._read_in_bursts(outcome, is_leader)
        except BaseException:
            _barrier.abort()
            outcome.wrong[traceback.format_exc()] += 1

    def _increment(self, outcome: Outcome) -> None:
        _barrier.wait(PATIENCE)
        start = time.perf_counter()
        for _ in range(self.plan.times):
            self._visit(outcome)
        outcome.seconds = time.perf_counter() - start

    def _read_in_bursts(self, outcome: Outcome, is_leader: bool) -> None:
        before, _, is_right = DUE[self.plan.due]
        now = 0
        for _ in range(self.plan.times):
            if is_leader:
                now = int(time.time())
                reset(self.engine, before(now))
            _barrier.wait(PATIENCE)
            start = time.perf_counter()
            self._visit(outcome)
            outcome.seconds += time.perf_counter() - start
            _barrier.wait(PATIENCE)
            if is_leader and not is_right(now, read(self.engine)):
                outcome.wrong["not done, though it was due"] += 1

    def _visit(self, outcome: Outcome) -> None:
        outcome.requests += 1
        try:
            headers = get(self.application.wsgi, self._cookie)
        except Exception as exc:
            outcome.failures[f"{type(exc).__name__}: {exc}".splitlines()[0]] += 1
        else:
            outcome.cookies += any(name == "Set-Cookie" for name, _ in headers)


def engine_of(url: str, level: str) -> Engine:
    """Make an engine that keeps requests apart as the level says."""
    connect_args = {}
    if level == SNAPSHOT:  # the default of MariaDB from 11.6.2 on
        connect_args["init_command"] = "SET innodb_snapshot_isolation = ON"
    engine = create_engine(
        url,
        isolation_level=level.partition(",")[0],
        connect_args=connect_args,
        pool_size=THREADS + 1,
        max_overflow=0,
    )
    if level == BEGIN:  # as SQLAlchemy's documentation of pysqlite says
        event.listen(engine, "connect", _begin_nothing)
        event.listen(engine, "begin", _begin)
    return engine


def _begin_nothing(connection: Any, record: Any) -> None:
    connection.isolation_level = None


def _begin(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN")


def missing(url: str, level: str) -> str | None:
    """Why there is no such level in the database; None when there is one."""
    if level == SNAPSHOT:
        engine = create_engine(url)
        with engine.connect() as connection:
            found = connection.execute(
                text("SHOW VARIABLES LIKE 'innodb_snapshot_isolation'")
            ).all()
        engine.dispose()
        return None if found else "no innodb_snapshot_isolation in this server"
    return None


def _configure(config: Any) -> None:
    config.include("pyramid_retry")
    if importlib.util.find_spec("pyramid_sqlalchemy_sessions.retry"):
        config.include("pyramid_sqlalchemy_sessions.retry")


def cookie_of(ticket: Ticket) -> str:
    """Return the value of the cookie that carries the ticket."""
    return SessionCookie("session", AESGCMSerializer(bytes(range(32)))).seal(ticket)


def get(wsgi: Any, cookie: str) -> list[tuple[str, str]]:
    """Make one GET request; return the headers of the response, which must be good."""
    answer: list[Any] = []
    environ = environ_of_get(cookie)
    wsgi(environ, lambda status, headers, exc=None: answer.extend((status, headers)))
    status, headers = answer
    if not status.startswith("200 "):
        raise AssertionError(status)
    return headers


def begin(engine: Engine) -> Browser:
    """Begin the session that all requests have, and return a browser."""
    Contended.__table__.create(engine, checkfirst=True)
    application = Application(engine, Contended, **SETTINGS)
    application.clear()
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(n=0))
    reset(engine, {"id": ID, **DUE["nothing"][0](int(time.time()))})
    return browser


def reset(engine: Engine, values: Row) -> None:
    """Make the row what it is to be before a burst."""
    with engine.begin() as connection:
        connection.execute(update(Contended), {**_RESTING, **values})


def read(engine: Engine) -> Row:
    """Return the row."""
    with engine.connect() as connection:
        return dict(connection.execute(select(Contended.__table__)).mappings().one())


def _work(plan: Plan, place: int) -> Outcome:
    return _Process(plan, place).run()


Run = Callable[[Plan], Outcome]


@contextmanager
def processes() -> Iterator[Run]:
    """Start the processes; carry out plans in them as long as the context lasts."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES * THREADS)
    with ProcessPoolExecutor(
        PROCESSES, mp_context=context, initializer=_enter, initargs=(barrier,)
    ) as pool:

        def run(plan: Plan) -> Outcome:
            barrier.reset()
            engine = engine_of(plan.url, plan.level)
            browser = begin(engine)
            total = Outcome()
            jobs = [pool.submit(_work, plan, place) for place in range(PROCESSES)]
            for job in jobs:
                total.add(job.result())
            if plan.due == "increment":
                browser.set_cookie("session", cookie_of(Ticket(ID, OLD)))
                total.counted = browser.ask(lambda session: session["n"])
            engine.dispose()
            return total

        yield run
