"""Print what parallel requests of one session cost: python -m benchmarks.hot

Run it in the checkout; the server is that of the tests, see ``tests/databases.py``. A
number of requests start at the same moment with the same cookie, each in its own
thread. Their view reads a key of the session, takes 0.1 s and writes the key: either
each has its own, or they share one counter. ``pyramid_sqlalchemy_sessions.retry`` is
included, with five attempts. PostgreSQL doesn't wait for the disk: a row can't change
hands faster than the disk writes commits, one after another. The columns:

``workers``
    the seconds that all requests take together, as a ratio to what the views alone
    take, once each. Requests that write the same key have to wait for each other,
    whatever the database does: half the number of requests is the least possible.
``wall``
    the seconds until the last request is answered, as a ratio to the views' time alone:
    that of one view for different keys, and of all, one after another, for one key.
``retries``, ``failed``
    of all requests.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from sqlalchemy import create_engine, event

from tests.application import Application, Base, Browser, Plain
from tests.databases import Database
from tests.stories.parallel import get

from .contention import do_not_wait_for_the_disk

#: How long a view takes, in seconds.
VIEW = 0.1
ATTEMPTS = 5


class Burst(NamedTuple):
    """What came of requests at the same moment."""

    workers: float
    wall: float
    retries: int
    failed: int
    lost: int


def burst(application: Application, number: int, one_key: bool) -> Burst:
    """Make so many requests at once; all write one key, or each its own."""
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(key=0))
    cookie, barrier = f"session={browser.cookie}", threading.Barrier(number + 1)
    tries: list[None] = []
    seconds: list[float] = []
    failed: list[Exception] = []
    names = threading.local()

    def view(request: Any) -> None:
        tries.append(None)
        value = request.session.get(names.key, 0)
        time.sleep(VIEW)
        request.session[names.key] = value + 1

    def run(place: int) -> None:
        names.key = "key" if one_key else f"key {place}"
        barrier.wait()
        start = time.perf_counter()
        try:
            get(application.wsgi, cookie)
        except Exception as exc:
            failed.append(exc)
        seconds.append(time.perf_counter() - start)

    application.view = view
    threads = [threading.Thread(target=run, args=(each,)) for each in range(number)]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - start
    counted = sum(browser.ask(dict).values())
    lost = number - len(failed) - counted
    return Burst(sum(seconds), wall, len(tries) - number, len(failed), lost)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print, as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hot", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, nargs="+", default=[10, 30])
    parser.add_argument(
        "--kind", choices=["postgresql", "mariadb"], default="postgresql"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as directory:
        database = Database(options.kind, Path(directory))
        if database.missing:
            raise SystemExit(database.missing)
        try:
            _measure(database.url, options.rounds, options.requests)
        finally:
            database.drop()


def _measure(url: str, rounds: int, numbers: Sequence[int]) -> None:
    print(f"{'':28}workers    wall  retries  failed  lost")
    for number in numbers:
        engine = create_engine(url, pool_size=number)
        if engine.dialect.name == "postgresql":
            event.listen(engine, "connect", do_not_wait_for_the_disk)
        Base.metadata.create_all(engine)
        application = Application(
            engine,
            Plain,
            settings={"retry.attempts": ATTEMPTS},
            configure=lambda config: config.include(
                "pyramid_sqlalchemy_sessions.retry"
            ),
        )
        burst(application, number, one_key=False)  # which makes the connections
        for one_key in (False, True):
            bursts = [burst(application, number, one_key) for _ in range(rounds)]
            total = Burst(*(median(column) for column in zip(*bursts, strict=True)))
            wall = total.wall / (VIEW * (number if one_key else 1))
            print(
                f"{number:4} requests, {'one key' if one_key else 'different keys':14}"
                f"{total.workers / (VIEW * number):7.2f}{wall:8.2f}"
                f"{total.retries:9g}{total.failed:8g}{total.lost:6g}",
                flush=True,
            )
        engine.dispose()


if __name__ == "__main__":
    main()
