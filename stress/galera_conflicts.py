"""One session that is used through several nodes at the same moment."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from stress.galera_cluster import Cluster, waits
from stress.load import Load, running
from stress.machines import Clock, begin, clock, machines
from stress.rows import Row
from stress.workers import ask

#: How long clients write, in seconds.
DURATION = 10
CLIENTS = 6

#: Nodes, attempts of pyramid_retry, wsrep_sync_wait.
CASES = [(1, 10, 1), (2, 10, 1), (3, 10, 1), (2, 20, 1), (3, 20, 1), (3, 10, 0)]

#: How often something is due in a session that's read by several at once, and how many
#: requests there are through each node.
BURSTS = 100
READERS = 3

#: After so many seconds everything is due.
A_WHILE = 20


def conflicts(cluster: Cluster) -> Iterator[Row]:
    """Write to one session through one node, two and three."""
    for nodes, attempts, sync_wait in CASES:
        cluster.prepare()
        options = {"on_connect": waits(sync_wait), "attempts": attempts}
        with machines(cluster.urls[:nodes], **options) as ports:
            load = Load(ports, clients=CLIENTS, sessions=1, new_every=10**9)
            with running(load):
                time.sleep(DURATION)
        outcome = cluster.nodes[0].audit(load)
        share = outcome.errors / (outcome.acknowledged + outcome.errors)
        yield Row(
            f"nodes: {nodes}, attempts: {attempts}, wsrep_sync_wait={sync_wait}",
            outcome.acknowledged,
            outcome.faults,
            outcome.errors,
            f"{outcome.acknowledged / DURATION:.0f} writes/s, {share:.1%} fail",
            # A row can't be locked across nodes, so chance decides.
            may_fail=nodes > 1 and attempts < 20,
            # A client's first request may find no session at its node.
            is_promised=sync_wait > 0,
        )


def reads(cluster: Cluster) -> Iterator[Row]:
    """Read one session through all nodes at once while something is due."""
    for name, settings in DUE.items():
        outcome = _Bursts(cluster, settings).run()
        yield Row(name, outcome.requests, outcome.gone, outcome.errors, outcome.remark)


DUE = {
    "idle extension": {"idle_timeout": 1000},
    "renewal": {"renewal_timeout": 1},
    "both": {"idle_timeout": 1000, "renewal_timeout": 1},
}


@dataclass
class _Reads:
    """The results of the reads."""

    requests: int = 0
    gone: int = 0
    errors: int = 0
    cookies: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def remark(self) -> str:
        """What else the row of the table says."""
        said = f"{self.cookies} cookies renewed" if self.cookies else ""
        return " ".join([said, *map(str, self.kinds.items())])


class _Bursts:
    """Reads that start at the same moment, without a second attempt."""

    def __init__(self, cluster: Cluster, settings: dict[str, int]):
        self.cluster = cluster
        self.settings = settings
        self.outcome = _Reads()
        self._lock = threading.Lock()
        self._cookie = ""

    def run(self) -> _Reads:
        """Make all bursts."""
        self.cluster.prepare()
        with clock() as time_:
            options = {"session": self.settings, "clock": str(time_.path)}
            options |= {"on_connect": waits(1), "attempts": 1}
            with machines(self.cluster.urls, **options) as ports:
                self._cookie = begin(ports[0])
                for _ in range(BURSTS):
                    self._burst(ports, time_)
        return self.outcome

    def _burst(self, ports: list[int], time_: Clock) -> None:
        time_.push(A_WHILE)
        barrier = threading.Barrier(len(ports) * READERS)
        threads = [
            threading.Thread(target=self._read, args=(port, self._cookie, barrier))
            for port in ports
            for _ in range(READERS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _read(self, port: int, cookie: str, barrier: threading.Barrier) -> None:
        barrier.wait()
        status, headers, body = ask(port, "/read", cookie)
        outcome = self.outcome
        with self._lock:
            outcome.requests += 1
            if "Set-Cookie" in headers:
                outcome.cookies += 1
                self._cookie = headers["Set-Cookie"].partition(";")[0]
            if status == 410:
                outcome.gone += 1
            elif status != 200:
                outcome.errors += 1
                outcome.kinds[body.partition("\n")[0]] += 1
