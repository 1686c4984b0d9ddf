"""Print what sessions cost in tables of a thousand to a million of them.

Run ``python -m benchmarks.scale [--quick] [--database URL]`` in the checkout. For
SQLite (a file) and for PostgreSQL, or for each URL given, it fills four tables with
sessions of 1 KB, of which half have expired. Then an application in this process is
called for each table, as in the other benchmarks. The applications take turns of some
milliseconds, in changing order; each round of turns gives ratios to the smallest table,
and the medians are printed. The last column has the first and third quartiles of the
largest table.

The requests read or write sessions that are alive: all of the smaller tables, and
20,000 of the larger ones, in random order. Those that create a session make the tables
a little larger. At the end the expired sessions are deleted, with
``pyramid_session_gc``'s function, without any other requests.

Commits don't wait for the disk. PostgreSQL and MariaDB need a database ``test`` in
which schemas (MariaDB: databases) named ``benchmark_*`` can be made.
"""

from __future__ import annotations

import argparse
import gc
import pickle
import random
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

from pyramid.interfaces import ISessionFactory
from sqlalchemy import Engine, create_engine, func, select, text
from sqlalchemy.orm import DeclarativeBase

from pyramid_sqlalchemy_sessions import BaseMixin, IdleMixin, create_session_model
from pyramid_sqlalchemy_sessions.collector import delete_expired
from pyramid_sqlalchemy_sessions.columns import MYSQL
from pyramid_sqlalchemy_sessions.cookie import Ticket
from tests.application import Application
from tests.stories.parallel import cookie_of, get

from .databases import DATABASES, do_not_wait_for_the_disk, places
from .workloads import payload

SIZES = (1_000, 10_000, 100_000, 1_000_000)
QUICK = (1_000, 10_000, 100_000)
ROUNDS = 150
#: How many sessions of a table are used at most.
USED = 20_000
#: How long a turn takes, in seconds.
TURN = 0.006
TIMEOUT = 100_000
#: How to make rows in the database: the id of one, and a table of numbers.
_ID = {
    "sqlite": "lower(hex(randomblob(16)))",
    "postgresql": "gen_random_uuid()",
    # Not every id is possible: see new_id().
    "mysql": "INSERT(INSERT(MD5(CONCAT(RAND(), value)), 13, 1, '4'), 17, 1, '8')",
}
_NUMBERS = {
    "sqlite": "(WITH RECURSIVE numbers(value) AS (SELECT 1 UNION ALL"
    " SELECT value + 1 FROM numbers WHERE value < {0}) SELECT value FROM numbers)",
    "postgresql": "generate_series(1, {0}) AS numbers(value)",
    "mysql": "(SELECT seq AS value FROM seq_1_to_{0}) AS numbers",
}


class Table:
    """A table with so many sessions, and an application that uses them."""

    def __init__(self, engine: Engine, size: int):
        class Base(DeclarativeBase):
            pass

        self.size = size
        self.engine = engine
        self.model = create_session_model(
            Base, IdleMixin, BaseMixin, table_name=f"session_{size}"
        )
        self.model.__table__.create(engine)
        self._fill()
        self._application = Application(
            engine, self.model, idle_timeout=TIMEOUT, extension_delay=30_000
        )
        self._cookies = cycle(self._choose())

    def _fill(self) -> None:
        dialect = self.engine.dialect.name
        kind = "mysql" if dialect in MYSQL else dialect
        table = self.model.__tablename__
        with self.engine.begin() as connection:
            connection.execute(
                text(
                    f"INSERT INTO {table} (id, created, version, data, flash,"
                    f" idle_expire) SELECT {_ID[kind]}, :now, 1, :data, '{{}}',"
                    " :now + CASE WHEN value % 2 = 0 THEN -10 ELSE :timeout END"
                    f" FROM {_NUMBERS[kind].format(self.size)}"
                ),
                {
                    "now": int(time.time()),
                    "data": pickle.dumps(payload(1_000), 4),
                    "timeout": TIMEOUT,
                },
            )
        if kind == "postgresql":
            with self.engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT").execute(
                    text(f"VACUUM ANALYZE {table}")
                )

    def _choose(self) -> list[str]:
        is_mysql = self.engine.dialect.name in MYSQL
        by_chance = func.rand() if is_mysql else func.random()
        statement = (
            select(self.model.id)
            .where(self.model.idle_expire > time.time())
            .order_by(by_chance)
            .limit(USED)
        )
        with self.engine.connect() as connection:
            keys = connection.scalars(statement).all()
        return [f"session={cookie_of(Ticket(key))}" for key in keys]

    def turn(self, action: Callable[[Any], Any], number: int, brings: bool) -> float:
        """Make so many requests, and return the seconds of one."""
        self._application.view = action
        cookies = [next(self._cookies) if brings else "" for _ in range(number + 2)]
        wsgi = self._application.wsgi
        for cookie in cookies[:2]:
            get(wsgi, cookie)
        start = time.perf_counter()
        for cookie in cookies[2:]:
            get(wsgi, cookie)
        return (time.perf_counter() - start) / number

    def collect(self) -> tuple[int, float]:
        """Delete the expired sessions; return how many, and the seconds."""
        config = self._application.registry.getUtility(ISessionFactory).config
        start = time.perf_counter()
        number = sum(delete_expired(self.engine, config))
        return number, time.perf_counter() - start


def _read(request: Any) -> Any:
    return request.session["key"]


def _write(request: Any) -> None:
    session = request.session
    session["counter"] += 1


def _create(request: Any) -> None:
    request.session.update(payload(1_000))


#: What a request does, and whether it brings a cookie.
ACTIONS = {"read": (_read, True), "write": (_write, True), "create": (_create, False)}


def measure(
    tables: Sequence[Table], action: Callable[[Any], Any], brings: bool, rounds: int
) -> dict[int, list[float]]:
    """Have the tables take turns; return their times in each round."""
    once = min(table.turn(action, 5, brings) for table in tables)
    number = max(3, round(TURN / once))
    times: dict[int, list[float]] = {table.size: [] for table in tables}
    order = list(tables)
    gc.collect()
    gc.freeze()
    for _ in range(rounds):
        random.shuffle(order)
        for table in order:
            times[table.size].append(table.turn(action, number, brings))
    gc.unfreeze()
    return times


def _print(name: str, times: dict[int, list[float]]) -> None:
    base, *_ = times.values()
    ratios = {
        size: [mine / small for mine, small in zip(found, base, strict=True)]
        for size, found in times.items()
    }
    line = "".join(f"{statistics.median(found):12.3f}" for found in ratios.values())
    low, _, high = statistics.quantiles([*ratios.values()][-1], n=4)
    print(f"{name:10}{line}   ({low:.2f}-{high:.2f})", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print, as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="up to 100,000 sessions")
    parser.add_argument("--database", metavar="URL", action="append")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    sizes = QUICK if options.quick else SIZES
    for database in options.database or DATABASES:
        with places(database, 1) as (url,):
            engine = create_engine(url)
            do_not_wait_for_the_disk(engine)
            print(f"{engine.dialect.name}\n{'sessions':10}", end="")
            print("".join(f"{size:12,}" for size in sizes))
            tables = [Table(engine, size) for size in sizes]
            for name, (action, brings) in ACTIONS.items():
                _print(name, measure(tables, action, brings, options.rounds))
            rates = [number / seconds for number, seconds in map(Table.collect, tables)]
            print("deleted/s " + "".join(f"{rate:12,.0f}" for rate in rates) + "\n")
            engine.dispose()


if __name__ == "__main__":
    main()
