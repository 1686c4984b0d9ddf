"""Print what different ways of making idle extensions cost.

Run ``python -m benchmarks.contention [--quick]`` in the checkout. Eight threads of two
processes read one session at the same moment, over and over; its idle extension is due
each time. The requests run in the real application, with five attempts, at each
isolation level of PostgreSQL and MariaDB. The servers are those of the tests: see
``tests/databases.py``. The ways are:

``in line``
    an ``UPDATE`` in the request's transaction.
``guarded``
    the same, but only if the session doesn't expire that late yet.
``skip locked``
    ``guarded``, if the row can be locked at once: one statement on PostgreSQL.
``savepoint``
    ``guarded``, in a savepoint, which is rolled back if it fails.
``after commit``
    ``guarded``, in a transaction of its own after that of the request. It may fail.

Each is the library with one method of its table replaced, except for the way that the
library itself uses at that level, which is marked with a star. The columns:

``retries``
    for each request.
``failed``
    how many of a hundred requests failed after the last attempt.
``missed``
    after how many of a hundred bursts the session was not extended.
``rate``
    requests per second, as a ratio to the way with the star: the median of the rounds,
    in each of which all ways take turns.
``alone``
    the time of a request without any others, as a ratio to the way with the star: the
    median of the requests, for which all ways take turns. PostgreSQL doesn't wait for
    the disk then.
``round trips``
    what such a request sends.

The last line of a level is about eight threads that increment a counter in the session,
in the library's way, with the back-off of ``pyramid_sqlalchemy_sessions.retry``.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from pyramid.interfaces import ISessionFactory
from pyramid_retry import RetryableException
from sqlalchemy import Engine, bindparam, event, select, update
from sqlalchemy.exc import DBAPIError

from pyramid_sqlalchemy_sessions.cookie import Ticket
from pyramid_sqlalchemy_sessions.feature import Due
from tests.application import Application
from tests.databases import Database
from tests.stories.parallel import (
    DUE,
    LEVELS,
    OLD,
    SETTINGS,
    Contended,
    Outcome,
    Plan,
    Run,
    cookie_of,
    engine_of,
    get,
    missing,
    processes,
    reset,
)
from tests.stories.parallel import ID as ROW

HEAD = f"{'':18}retries  failed  missed   rate  alone  round trips"
ATTEMPTS = 5
#: How long a view takes, in seconds.
PAUSE = 0.002
#: What the library calls to extend: the connection, the id, the new value; returns
#: whether the row was extended.
Extend = Callable[[Any, Any, int], bool]
#: Lets an application make its extensions in another way.
Prepare = Callable[[Application], None]


def _in_line(table: Any) -> Extend:
    statement = update(Contended.__table__).where(Contended.id == ROW)

    def extend(connection: Any, key: Any, expire: int) -> bool:
        connection.execute(statement, {"idle_expire": expire})
        return True

    return extend


def _guarded(table: Any) -> Extend:
    def extend(connection: Any, key: Any, expire: int) -> bool:
        done: bool = keep_up(connection, key, Due({}, {}, expire))
        return done

    keep_up = table.keep_up
    return extend


def _skip_locked(table: Any) -> Extend:
    other = Contended.__table__.alias()
    expire = bindparam("expire")
    lock = select(other.c.id).where(other.c.id == ROW, other.c.idle_expire < expire)
    lock = lock.with_for_update(skip_locked=True, key_share=True)
    change = update(Contended.__table__).values(idle_expire=expire)
    at_once = change.where(Contended.id.in_(lock.scalar_subquery()))
    afterwards = change.where(Contended.id == ROW)

    def extend(connection: Any, key: Any, value: int) -> bool:
        parameters = {"expire": value}
        if connection.dialect.name == "postgresql":
            return connection.execute(at_once, parameters).rowcount == 1
        # MariaDB can't lock rows in a subquery of an UPDATE of the same rows.
        if connection.execute(lock, parameters).first() is None:
            return False
        connection.execute(afterwards, parameters)
        return True

    return extend


def _savepoint(table: Any) -> Extend:
    guarded = _guarded(table)

    def extend(connection: Any, key: Any, expire: int) -> bool:
        savepoint = connection.begin_nested()
        try:
            extended = guarded(connection, key, expire)
        except DBAPIError:
            savepoint.rollback()
            return False
        savepoint.commit()
        return extended

    return extend


WAYS: dict[str, Callable[[Any], Extend]] = {
    "in line": _in_line,
    "guarded": _guarded,
    "skip locked": _skip_locked,
    "savepoint": _savepoint,
    "after commit": _guarded,
}


def take(way: str, application: Application) -> None:
    """Have the application make its idle extensions in this way."""
    config = application.registry.getUtility(ISessionFactory).config
    is_late = way == "after commit"
    extend = WAYS[way](config.table)

    def keep_up(connection: Any, key: Any, due: Due) -> bool:
        assert due.extend_to is not None
        try:
            return extend(connection, key, due.extend_to)
        except DBAPIError as exc:
            if is_late:
                raise
            # The library doesn't let a read fail, which would hide the failures.
            raise RetryableException from exc

    config.isolation.may_conflict = lambda connection: is_late
    config.table.keep_up = keep_up


def choice(engine: Engine) -> str:
    """Return the way that the library chooses for the engine's isolation level."""
    application = Application(engine, Contended, **SETTINGS)
    isolation = application.registry.getUtility(ISessionFactory).config.isolation
    with engine.connect() as connection:
        return "after commit" if isolation.may_conflict(connection) else "guarded"


def round_trips(engine: Engine, prepare: Prepare | None) -> list[str]:
    """Return the first words of what one request sends."""
    application = Application(engine, Contended, **SETTINGS)
    if prepare is not None:
        prepare(application)
    application.view = lambda request: request.session["n"]
    words: list[str] = []
    cookie = f"session={cookie_of(Ticket(ROW, OLD))}"

    def note(word: str) -> Callable[..., None]:
        return lambda *arguments: words.append(word)

    def note_statement(
        connection: Any, cursor: Any, statement: str, *arguments: Any
    ) -> None:
        words.append(statement.split()[0])

    get(application.wsgi, cookie)  # what's queried only once
    reset(engine, DUE["extension"][0](int(time.time())))
    event.listen(engine, "before_cursor_execute", note_statement)
    event.listen(engine, "commit", note("COMMIT"))
    event.listen(engine, "rollback", note("ROLLBACK"))
    if engine.dialect.name == "postgresql":  # PyMySQL's transactions begin unasked
        event.listen(engine, "begin", note("BEGIN"))
    get(application.wsgi, cookie)
    return words.copy()


def alone(
    url: str, level: str, prepared: dict[str, Prepare | None], requests: int
) -> dict[str, float]:
    """Return the median time of a request in each way, as a ratio to the first one."""
    engine = engine_of(url, level)
    if engine.dialect.name == "postgresql":
        event.listen(engine, "connect", do_not_wait_for_the_disk)
    applications = {way: Application(engine, Contended, **SETTINGS) for way in prepared}
    for way, prepare in prepared.items():
        applications[way].view = lambda request: request.session["n"]
        if prepare is not None:
            prepare(applications[way])
    cookie = f"session={cookie_of(Ticket(ROW, OLD))}"
    times: dict[str, list[float]] = {way: [] for way in prepared}
    ways = list(prepared)
    for _ in range(requests):
        random.shuffle(ways)
        for way in ways:
            reset(engine, DUE["extension"][0](int(time.time())))
            start = time.perf_counter()
            get(applications[way].wsgi, cookie)
            times[way].append(time.perf_counter() - start)
    engine.dispose()
    first, *_ = times.values()
    return {
        way: median(mine / theirs for mine, theirs in zip(found, first, strict=True))
        for way, found in times.items()
    }


def do_not_wait_for_the_disk(connection: Any, record: Any) -> None:
    """Have commits to PostgreSQL return before they're on the disk."""
    connection.cursor().execute("SET synchronous_commit = off")
    connection.commit()


def measure(url: str, level: str, rounds: int, bursts: int, run: Run) -> None:
    """Measure all ways at an isolation level, and print a line for each."""
    engine = engine_of(url, level)
    shipped = choice(engine)
    engine.dispose()
    prepared: dict[str, Prepare | None] = {
        way: None if way == shipped else partial(take, way)
        for way in sorted(WAYS, key=lambda way: way != shipped)
    }
    totals = {way: Outcome() for way in prepared}
    rates: dict[str, list[float]] = {way: [] for way in prepared}
    ways = list(prepared)
    for _ in range(rounds):
        for way in ways:
            plan = Plan(url, level, "extension", bursts, ATTEMPTS, PAUSE, prepared[way])
            outcome = run(plan)
            totals[way].add(outcome)
            rates[way].append(outcome.requests / outcome.seconds)
        ways = ways[1:] + ways[:1]
    times = alone(url, level, prepared, 2 * rounds * bursts)
    for way, prepare in prepared.items():
        engine = engine_of(url, level)
        words = round_trips(engine, prepare)
        engine.dispose()
        pairs = zip(rates[way], rates[shipped], strict=True)
        rate = median(mine / theirs for mine, theirs in pairs)
        total, number = totals[way], rounds * bursts
        print(
            f"  {way + ' *' * (way == shipped):16}{total.retries:8.3f}"
            f"{100 * total.failed / total.requests:8.1f}"
            f"{100 * total.wrong.total() / number:8.1f}{rate:7.2f}{times[way]:7.2f}"
            f"{len(words):4} {' '.join(words)}",
            flush=True,
        )


def count(url: str, level: str, times: int, run: Run) -> None:
    """Print what happens to increments of one counter."""
    outcome = run(Plan(url, level, "increment", times, ATTEMPTS))
    print(
        f"  increments      {outcome.retries:8.3f}"
        f"{100 * outcome.failed / outcome.requests:8.1f}"
        f"  {outcome.lost} of {outcome.requests} lost",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print, as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.contention", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="less than a minute")
    parser.add_argument("--rounds", type=int, help="3, or 1 with --quick")
    parser.add_argument("--bursts", type=int, help="in a round: 30, or 10 with --quick")
    parser.add_argument(
        "--kinds", nargs="+", default=["postgresql", "mariadb"], choices=LEVELS
    )
    options = parser.parse_args(arguments)
    rounds = options.rounds or (1 if options.quick else 3)
    bursts = options.bursts or (10 if options.quick else 30)
    with processes() as run, tempfile.TemporaryDirectory() as directory:
        for kind in options.kinds:
            database = Database(kind, Path(directory))
            if database.missing:
                raise SystemExit(database.missing)
            try:
                for level in LEVELS[kind]:
                    reason = missing(database.url, level)
                    print(f"\n{kind}, {level}: {reason or ''}")
                    if reason is None:
                        print(HEAD)
                        measure(database.url, level, rounds, bursts, run)
                        count(database.url, level, bursts, run)
            finally:
                database.drop()


if __name__ == "__main__":
    main()
