"""Print how fast expired sessions are deleted, and how long that holds up requests.

Run ``python -m benchmarks.gc [--database URL] [--rounds N] [--rows N] [--durable]`` in
the checkout. For SQLite (a file) and for PostgreSQL, or for each URL given, it fills a
table with 400,000 sessions, half of which have expired, in random order. Then one
process deletes the expired ones, while two others call an application in-process, one
request every few milliseconds: one writes to live sessions, the other brings cookies of
expired ones. What is measured:

``rows/s``
    how many of the expired were deleted per second.
``write``
    the longest request, in milliseconds, that wrote to a live session.
``expired``
    the longest request, in milliseconds, that brought an expired cookie.

Each is measured for ``pyramid_session_gc``, for a single DELETE of everything, and, as
``nobody``, for the same requests without any deletions: the time that they take then
isn't the collector's fault. Each number is the median of the rounds, followed by the
worst. The processes, and the database, share the processors: on a machine with fewer
than four, that shows in the longest requests.

Commits don't wait for the disk, as in the other benchmarks, unless ``--durable`` is
given. PostgreSQL and MariaDB need a database ``test`` in which schemas (MariaDB:
databases) named ``benchmark_*`` can be made.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pickle
import random
import time
import uuid
from collections.abc import Sequence
from statistics import median
from typing import Any

from pyramid.interfaces import ISessionFactory
from sqlalchemy import Engine, create_engine, delete, event, insert, text
from webob import Request

from pyramid_sqlalchemy_sessions import BaseMixin, IdleMixin
from pyramid_sqlalchemy_sessions.collector import delete_expired
from pyramid_sqlalchemy_sessions.cookie import Ticket
from pyramid_sqlalchemy_sessions.identifiers import new_id
from tests.application import Application, Base

from .databases import DATABASES, do_not_wait_for_the_disk, places

ROWS = 400_000
ROUNDS = 5
TIMEOUT = 3600
#: How long to wait between two requests, in seconds.
THINK = 0.003
#: How long the requests run without any deletions, in seconds.
REST = 1.0
#: How many sessions are used, of either kind.
USED = 2_000
#: What a session holds.
DATA = pickle.dumps({"cart": list(range(20)), "name": "x" * 150}, 4)

METHODS = ("pyramid_session_gc", "one DELETE", "nobody")


class GCSession(IdleMixin, BaseMixin, Base):
    """The session that is collected."""

    __tablename__ = "gc_session"


def _engine(url: str, durable: bool) -> Engine:
    # On SQLite, a request would fail after five seconds instead of showing its wait.
    patience = {"timeout": 60} if url.startswith("sqlite") else {}
    engine = create_engine(url, connect_args=patience)
    if not durable:
        do_not_wait_for_the_disk(engine)
    elif engine.dialect.name == "postgresql":
        event.listen(engine, "connect", _wait_for_the_disk)
    return engine


def _wait_for_the_disk(connection: Any, record: Any) -> None:
    connection.cursor().execute("SET synchronous_commit = on")
    connection.commit()


def _application(engine: Engine) -> tuple[Any, Any]:
    """Return the WSGI application, and the config of its sessions."""
    application = Application(engine, GCSession, idle_timeout=TIMEOUT)

    def view(request: Any) -> None:
        if not request.session.new:
            request.session["number"] = request.session.get("number", 0) + 1

    application.view = view
    factory = application.registry.getUtility(ISessionFactory)
    return application.wsgi, factory.config


def _fill(engine: Engine, rows: int) -> tuple[list[uuid.UUID], list[uuid.UUID]]:
    """Fill the table; return the ids of some live and of some expired sessions."""
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    now = int(time.time())
    expired = [True, False] * (rows // 2)
    random.shuffle(expired)
    live_ids, expired_ids = [], []
    with engine.begin() as connection:
        for start in range(0, rows, 10_000):
            values = []
            for is_expired in expired[start : start + 10_000]:
                key = new_id()
                (expired_ids if is_expired else live_ids).append(key)
                expire = now - 10 if is_expired else now + TIMEOUT // 2
                values.append(
                    {
                        "id": key,
                        "created": now - TIMEOUT,
                        "version": 1,
                        "data": DATA,
                        "flash": {},
                        "idle_expire": expire,
                    }
                )
            connection.execute(insert(GCSession.__table__), values)
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.execute(text("VACUUM ANALYZE gc_session"))
            connection.execute(text("CHECKPOINT"))
    else:
        os.sync()
    return random.sample(live_ids, USED), random.sample(expired_ids, USED)


def visit(
    url: str, durable: bool, keys: list[uuid.UUID], ready: Any, over: Any, queue: Any
) -> None:
    """Call the application with these sessions until told to stop, in a process."""
    engine = _engine(url, durable)
    wsgi, config = _application(engine)
    longest, number = 0.0, 0

    def call(cookie: str) -> float:
        environ = Request.blank("/", headers={"Cookie": f"session={cookie}"}).environ
        started = time.perf_counter()
        for _ in wsgi(environ, lambda status, headers, exc_info=None: None):
            pass
        return time.perf_counter() - started

    cookies = [config.cookie.seal(Ticket(key)) for key in keys]
    for _ in range(20):
        call(config.cookie.seal(Ticket(new_id())))
    ready.set()
    while not over.is_set():
        longest = max(longest, call(cookies[number % len(cookies)]))
        number += 1
        time.sleep(THINK)
    queue.put((longest, number))
    engine.dispose()


def collect(url: str, durable: bool, method: str, go: Any, queue: Any) -> None:
    """Delete expired sessions, in a process; put rows and seconds into the queue."""
    engine = _engine(url, durable)
    _, config = _application(engine)
    engine.connect().close()
    queue.put("ready")
    go.wait()
    started = time.perf_counter()
    if method == "nobody":
        number = 0
        time.sleep(REST)
    elif method == "one DELETE":
        condition = GCSession.idle_expire < int(time.time())
        with engine.begin() as connection:
            statement = delete(GCSession.__table__).where(condition)
            number = connection.execute(statement).rowcount
    else:
        number = sum(delete_expired(engine, config))
    queue.put((number, time.perf_counter() - started))
    engine.dispose()


def measure(url: str, durable: bool, method: str, rows: int) -> tuple[float, ...]:
    """Return rows per second and the longest requests of one collection."""
    context = multiprocessing.get_context("spawn")
    engine = _engine(url, durable)
    chosen = _fill(engine, rows)
    engine.dispose()
    over, go = context.Event(), context.Event()
    queues = [context.Queue() for _ in chosen]
    readies = [context.Event() for _ in chosen]
    visitors = [
        context.Process(target=visit, args=(url, durable, keys, ready, over, queue))
        for keys, ready, queue in zip(chosen, readies, queues, strict=True)
    ]
    results = context.Queue()
    collector = context.Process(
        target=collect, args=(url, durable, method, go, results)
    )
    processes = [*visitors, collector]
    for process in processes:
        process.start()
    try:
        assert results.get(timeout=60) == "ready"
        for ready in readies:
            assert ready.wait(60)
        go.set()
        number, seconds = results.get(timeout=600)
        over.set()
        waits = [queue.get(timeout=60)[0] * 1000 for queue in queues]
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        for process in processes:
            process.join()
    return (number / seconds, *waits)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print, as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gc", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--database", metavar="URL", action="append")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--durable", action="store_true", help="wait for the disk")
    options = parser.parse_args(arguments)
    for database in options.database or DATABASES[:2]:
        found: dict[str, list[tuple[float, ...]]] = {method: [] for method in METHODS}
        with places(database, 1) as (url,):
            name = create_engine(url).dialect.name
            print(f"{name}, {options.rows:,} rows, {options.rounds} rounds")
            for _ in range(options.rounds):
                for method in METHODS:
                    result = measure(url, options.durable, method, options.rows)
                    found[method].append(result)
        print(f"{'':20}{'rows/s':>21}{'write, ms':>17}{'expired, ms':>17}")
        for method, results in found.items():
            rates, writes, visits = zip(*results, strict=True)
            print(
                f"{method:20}{median(rates):11,.0f}{min(rates):10,.0f}"
                f"{median(writes):9.0f}{max(writes):8.0f}"
                f"{median(visits):9.0f}{max(visits):8.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
