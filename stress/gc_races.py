"""Let an application and two collectors race for sessions; fail if a live one is lost.

Run ``python -m stress.gc_races [--database URL] [--races N] [--isolation-level LEVEL]``
in the checkout. It makes a table ``raced_session`` in the database.

Each race is about a session in its last second. The application's clock says that it's
alive: a request uses it, which extends it, no matter whether it reads or writes. The
collectors' clock is a second ahead: to them it has expired until they see the
extension. So it may go either way, but a session whose extension was committed has to
be there in the end, and a request may only fail because it has lost its session. Every
third session has expired for the application, too, and has to be gone in the end.
"""

from __future__ import annotations

import argparse
import multiprocessing
import pickle
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.synchronize import Event
from typing import Any

from pyramid.interfaces import ISessionFactory
from sqlalchemy import Engine, create_engine, event, select
from sqlalchemy.orm.exc import StaleDataError

from pyramid_sqlalchemy_sessions import BaseMixin, IdleMixin
from pyramid_sqlalchemy_sessions.collector import delete_expired
from pyramid_sqlalchemy_sessions.cookie import Ticket
from pyramid_sqlalchemy_sessions.identifiers import new_id
from pyramid_sqlalchemy_sessions.session import SessionFactory
from pyramid_sqlalchemy_sessions.session_config import SessionConfig
from tests.application import Application, Base, Browser

#: The last second of all sessions, in the application's clock.
LAST_SECOND = 2_000_000_000
TIMEOUT = 3600
#: How many sessions are made at once: some are met by collectors, some by requests.
GROUP = 4

READ, WRITE, EXPIRED = range(3)


class RacedSession(IdleMixin, BaseMixin, Base):
    """The session that is raced for."""

    __tablename__ = "raced_session"


@dataclass
class Outcome:
    """How the races ended: the ids of the sessions."""

    extended: list[uuid.UUID] = field(default_factory=list)
    lost: list[uuid.UUID] = field(default_factory=list)
    expired: list[uuid.UUID] = field(default_factory=list)
    #: How many of the lost were lost between loading and storing.
    lost_late: int = 0

    def __iadd__(self, other: Outcome) -> Outcome:
        self.extended += other.extended
        self.lost += other.lost
        self.expired += other.expired
        self.lost_late += other.lost_late
        return self


class Racer:
    """The application, and a browser that uses one session after another."""

    def __init__(self, url: str, isolation_level: str | None):
        self.engine = _engine(url, isolation_level)
        application = Application(self.engine, RacedSession, idle_timeout=TIMEOUT)
        registry = application.registry
        self.config = _at(registry.getUtility(ISessionFactory).config, LAST_SECOND)
        registry.registerUtility(SessionFactory(self.config), ISessionFactory)
        self.browser = Browser(application)
        self.is_stored = False
        event.listen(self.engine, "after_cursor_execute", self._executed)

    def _executed(
        self, connection: Any, cursor: Any, statement: str, *arguments: Any
    ) -> None:
        if statement.startswith("UPDATE") and cursor.rowcount == 1:
            self.is_stored = True

    def race(self, races: int) -> Outcome:
        """Race so many times."""
        outcome = Outcome()
        for start in range(0, races, GROUP):
            numbers = range(start, min(start + GROUP, races))
            keys = self.make_sessions([number % 3 for number in numbers])
            for number, key in zip(numbers, keys, strict=True):
                self.use(key, number % 3, outcome)
        return outcome

    def make_sessions(self, kinds: list[int]) -> list[uuid.UUID]:
        """Store one session of every kind given."""
        rows = [
            {
                "id": new_id(),
                "created": LAST_SECOND - TIMEOUT,
                "version": 1,
                "data": pickle.dumps({}, 4),
                "flash": {},
                "idle_expire": LAST_SECOND - (kind == EXPIRED),
            }
            for kind in kinds
        ]
        with self.engine.begin() as connection:
            for row in rows:
                self.config.table.insert(connection, row)
        return [row["id"] for row in rows]

    def use(self, key: uuid.UUID, kind: int, outcome: Outcome) -> None:
        """Visit the application with the session."""
        self.is_stored = False
        browser = self.browser
        browser.reset()
        browser.set_cookie("session", self.config.cookie.seal(Ticket(key)))
        found = False

        def view(request: Any) -> None:
            nonlocal found
            found = not request.session.new
            if found and kind == WRITE:
                request.session["used"] = True

        try:
            browser.visit(view)
        except StaleDataError:
            outcome.lost_late += 1
            outcome.lost.append(key)
            return
        if kind == EXPIRED:
            assert not found, "an expired session was found alive"
            outcome.expired.append(key)
        elif self.is_stored:
            outcome.extended.append(key)
        else:
            outcome.lost_late += found
            outcome.lost.append(key)


def _engine(url: str, isolation_level: str | None = None) -> Engine:
    options = {"isolation_level": isolation_level} if isolation_level else {}
    engine = create_engine(url, **options)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _do_not_wait_for_the_disk)
    return engine


def _do_not_wait_for_the_disk(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA busy_timeout = 20000")


def _at(config: SessionConfig, now: int) -> SessionConfig:
    return replace(config, clock=lambda: now)


def race(url: str, isolation_level: str | None, races: int, queue: Any) -> None:
    """Race in a separate process; put the outcome into the queue."""
    racer = Racer(url, isolation_level)
    queue.put(racer.race(races))
    racer.engine.dispose()


def collect(url: str, over: Event, queue: Any) -> None:
    """Keep collecting until the race is over; put the number into the queue."""
    engine = _engine(url)
    config = _at(
        SessionConfig.make(_NoSerializer(), RacedSession, {"idle_timeout": TIMEOUT}),
        LAST_SECOND + 1,
    )
    number = 0
    while not over.is_set():
        number += sum(delete_expired(engine, config, batch_size=100))
        # Give the application a chance, even on SQLite.
        time.sleep(0.005)
    queue.put(number)
    engine.dispose()


class _NoSerializer:
    """A collector reads no cookie."""

    def dumps(self, value: bytes) -> bytes:
        raise NotImplementedError

    def loads(self, value: Any) -> bytes:
        raise NotImplementedError


def run(
    url: str,
    races: int,
    isolation_level: str | None = None,
    racers: int = 2,
    collectors: int = 2,
) -> Outcome:
    """Race, and check what's left; raise AssertionError if that's wrong."""
    engine = _engine(url)
    Base.metadata.create_all(engine)
    context = multiprocessing.get_context("spawn")
    over = context.Event()
    outcomes, numbers = context.Queue(), context.Queue()
    with _processes(
        [
            context.Process(target=collect, args=(url, over, numbers))
            for _ in range(collectors)
        ]
    ):
        with _processes(
            [
                context.Process(
                    target=race,
                    args=(url, isolation_level, races // racers, outcomes),
                )
                for _ in range(racers)
            ]
        ):
            outcome = Outcome()
            for _ in range(racers):
                outcome += outcomes.get(timeout=600)
        over.set()
        collected = sum(numbers.get(timeout=60) for _ in range(collectors))
    with engine.connect() as connection:
        left = set(connection.scalars(select(RacedSession.id)))
    engine.dispose()
    assert left.issuperset(outcome.extended), "a live session was deleted"
    assert left.isdisjoint(outcome.expired), "an expired session is left"
    print(
        f"{engine.dialect.name}: {len(outcome.extended)} extended, {len(outcome.lost)}"
        f" lost ({outcome.lost_late} of them after they were loaded),"
        f" {len(outcome.expired)} expired for both, {collected} collected; no live"
        " session was deleted"
    )
    return outcome


@contextmanager
def _processes(processes: list[Any]) -> Iterator[None]:
    for process in processes:
        process.start()
    try:
        yield
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        for process in processes:
            process.join(60)
            process.close()


def main() -> None:
    """Race with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", default="sqlite:///gc_races.sqlite")
    parser.add_argument("--races", type=int, default=10**4)
    parser.add_argument("--isolation-level")
    arguments = parser.parse_args()
    run(arguments.database, arguments.races, arguments.isolation_level)


if __name__ == "__main__":
    main()
