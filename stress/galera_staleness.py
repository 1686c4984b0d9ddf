"""What a browser sees if its requests go to two nodes, one right after the other.

A node acknowledges a commit when the others have received it, not when they have
applied it. Here the first request goes to node 0, the next one at once to node 1, which
may be slow.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from stress.galera_cluster import DATABASE, Cluster, Node, waits
from stress.machines import clock, machines
from stress.rows import Row
from stress.sequels import LOG_IN, LOG_OUT, RENEW, Sequel, Tries, play

#: How many rows the transactions of the batch job change.
ROWS = 20_000


def login(cluster: Cluster) -> Iterator[Row]:
    """Begin a session at one node, and use it at the next."""
    return _play(cluster, LOG_IN)


def logout(cluster: Cluster) -> Iterator[Row]:
    """End a session at one node, and try its cookie at the next."""
    return _play(cluster, LOG_OUT)


def renewal(cluster: Cluster) -> Iterator[Row]:
    """Get a new cookie from one node, and bring it to the next."""
    return _play(cluster, RENEW)


def _play(cluster: Cluster, sequel: Sequel) -> Iterator[Row]:
    for sync_wait, name, trouble, number in CASES:
        tries = _try(cluster, sequel, sync_wait, trouble, number)
        yield Row(
            f"wsrep_sync_wait={sync_wait}, {name}",
            number,
            tries.wrong,
            tries.errors,
            tries.remark,
            is_promised=sync_wait > 0,
        )


def _try(
    cluster: Cluster, sequel: Sequel, sync_wait: int, trouble: Trouble, number: int
) -> Tries:
    first, second = cluster.nodes[:2]
    cluster.prepare()
    with clock() as time_:
        options = {"on_connect": waits(sync_wait), "clock": str(time_.path)}
        with (
            machines([first.url, second.url], session=sequel.session, **options) as two,
            trouble(first, second),
        ):
            return play(sequel, two, time_, number)


# What makes the second node slow.

Trouble = Callable[[Node, Node], AbstractContextManager[None]]


@contextmanager
def _nothing(first: Node, second: Node) -> Iterator[None]:
    """Give both nodes nothing else to do."""
    yield


@contextmanager
def _batch_job(first: Node, second: Node) -> Iterator[None]:
    """Keep changing many rows in each transaction of the first node."""
    job = f"{DATABASE}.job"
    first.execute(f"CREATE OR REPLACE TABLE {job} (id INT PRIMARY KEY, n INT)")
    rows = ", ".join(f"({number}, 0)" for number in range(ROWS))
    first.execute(f"INSERT INTO {job} VALUES {rows}")
    with _again_and_again(lambda: first.execute(f"UPDATE {job} SET n = n + 1")):
        yield


@contextmanager
def _backup(first: Node, second: Node) -> Iterator[None]:
    """Lock all tables of the second node for a moment, as backups do."""

    def work() -> None:
        with second.connect() as connection, connection.cursor() as cursor:
            cursor.execute("FLUSH TABLES WITH READ LOCK")
            time.sleep(0.2)
            cursor.execute("UNLOCK TABLES")
        time.sleep(0.5)

    with _again_and_again(work):
        yield


@contextmanager
def _again_and_again(work: Callable[[], object]) -> Iterator[None]:
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            work()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


#: Values of wsrep_sync_wait (never wait for the other nodes, wait before reading,
#: before anything), what else the nodes have to do, and the number of tries.
CASES: list[tuple[int, str, Trouble, int]] = [
    (0, "nothing else to do", _nothing, 1000),
    (0, "a batch job", _batch_job, 500),
    (0, "a backup", _backup, 500),
    (1, "nothing else to do", _nothing, 1000),
    (1, "a batch job", _batch_job, 500),
    (1, "a backup", _backup, 500),
    (7, "nothing else to do", _nothing, 500),
]
