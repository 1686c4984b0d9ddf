"""Nodes of the cluster die, or are cut off from the others, while clients write."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from stress.galera_cluster import Cluster, waits
from stress.load import ACKNOWLEDGED, Load, Outcome, running
from stress.machines import begin, machines
from stress.rows import Row
from stress.workers import ask

CLIENTS = 6

#: How many seconds clients write before a fault, and after it.
WHILE = 3
#: How long a node is dead or alone: the others need five seconds to be sure of it.
ABSENCE = 12

#: How many sessions are used at a node that is alone, and how many crashes of all
#: nodes there are with each value of innodb_flush_log_at_trx_commit.
SESSIONS = 20
CRASHES = 3


def killed(cluster: Cluster) -> Iterator[Row]:
    """Let one node of three die, and come back."""
    for flush in (1, 0):
        cluster.execute(f"SET GLOBAL innodb_flush_log_at_trx_commit = {flush}")
        yield _kill_one(cluster, f"innodb_flush_log_at_trx_commit={flush}")
    cluster.execute("SET GLOBAL innodb_flush_log_at_trx_commit = 1")


def _kill_one(cluster: Cluster, case: str) -> Row:
    victim = cluster.nodes[2]
    cluster.prepare()
    with machines(cluster.urls, on_connect=waits(1)) as ports:
        load = Load(ports, clients=CLIENTS, sessions=3)
        with running(load):
            time.sleep(WHILE)
            victim.kill()
            died = time.monotonic()
            time.sleep(ABSENCE)
            victim.start()
            joined = victim.wait_until_synced()
            load.fault_ended()
            load.wait_for_success()
            time.sleep(WHILE)
    outcome = cluster.nodes[0].audit(load)
    return _row(
        case,
        outcome,
        f"the others pause for {_pause(load, died):.1f} s; the node is back after"
        f" {joined:.1f} s, its workers {outcome.all_succeed:.1f} s later",
    )


def all_killed(cluster: Cluster) -> Iterator[Row]:
    """Let all nodes die at once, and start again with the one that has the most."""
    for flush in (1, 2, 0):
        for number in range(1, CRASHES + 1):
            cluster.execute(f"SET GLOBAL innodb_flush_log_at_trx_commit = {flush}")
            cluster.prepare()
            with machines(cluster.urls, on_connect=waits(1)) as ports:
                load = Load(ports, clients=CLIENTS, sessions=3)
                with running(load):
                    time.sleep(WHILE)
                    cluster.kill()
                    time.sleep(1)
                    positions, seconds = _begin_again(cluster)
                    load.fault_ended()
                    load.wait_for_success()
            behind = ", ".join(str(max(positions) - each) for each in positions)
            row = _row(
                f"innodb_flush_log_at_trx_commit={flush}, crash {number}",
                cluster.nodes[0].audit(load),
                f"nodes are {behind} transactions behind; {seconds:.1f} s to begin"
                " again",
            )
            row.is_promised = flush != 0
            yield row


def _begin_again(cluster: Cluster) -> tuple[list[int], float]:
    """Start all nodes; return what each of them had, and how many seconds it took."""
    start = time.monotonic()
    positions = [node.recover()[1] for node in cluster.nodes]
    first = cluster.nodes[positions.index(max(positions))]
    first.let_bootstrap()
    cluster.start_from(first)
    return positions, time.monotonic() - start


def isolated(cluster: Cluster) -> Iterator[Row]:
    """Cut one node of three off from the others while clients write."""
    victim = cluster.nodes[2]
    cluster.prepare()
    with machines(cluster.urls, on_connect=waits(1)) as ports:
        load = Load(ports, clients=CLIENTS, sessions=3)
        with running(load):
            time.sleep(WHILE)
            victim.isolate(True)
            began = time.monotonic()
            time.sleep(ABSENCE)
            victim.isolate(False)
            joined = victim.wait_until_synced()
            load.fault_ended()
            load.wait_for_success()
            time.sleep(WHILE)
    outcome = cluster.nodes[0].audit(load)
    yield _row(
        "1 node of 3, for 12 s",
        outcome,
        f"the others pause for {_pause(load, began):.1f} s; the node is back after"
        f" {joined:.1f} s",
    )


def isolated_reads(cluster: Cluster) -> Iterator[Row]:
    """End sessions elsewhere, and use them at once at a node that is cut off."""
    victim = cluster.nodes[2]
    for sync_wait, dirty in ((1, "OFF"), (0, "OFF"), (0, "ON")):
        cluster.prepare()
        on_connect = (*waits(sync_wait), f"SET SESSION wsrep_dirty_reads = {dirty}")
        with (
            machines(cluster.urls, on_connect=on_connect) as ports,
            ThreadPoolExecutor(SESSIONS) as pool,
        ):
            cookies = [begin(ports[0]) for _ in range(SESSIONS)]
            victim.catch_up()
            victim.isolate(True)
            try:
                answers = []
                for cookie in cookies:
                    _end(ports[0], cookie)
                    answers.append(pool.submit(ask, ports[2], "/read", cookie))
                statuses = [answer.result()[0] for answer in answers]
            finally:
                victim.isolate(False)
                cluster.wait_until_complete()
        yield Row(
            f"wsrep_sync_wait={sync_wait}, wsrep_dirty_reads={dirty}",
            SESSIONS,
            statuses.count(200),
            statuses.count(500),
            is_promised=dirty == "OFF",
            may_fail=True,
        )


def _end(port: int, cookie: str) -> None:
    """End a session; the first time once the nodes have given up on the lost one."""
    status, _, body = ask(port, "/end", cookie)
    if status != 200:
        raise RuntimeError(body)


def _row(case: str, outcome: Outcome, remark: str) -> Row:
    unknown = f", {outcome.unknown} of the errors at COMMIT" if outcome.unknown else ""
    return Row(
        case,
        outcome.acknowledged,
        outcome.faults,
        outcome.errors,
        remark + unknown,
        may_fail=True,
    )


def _pause(load: Load, moment: float) -> float:
    """Return the longest time without success of the clients of the first two nodes."""
    times = [
        each.ended
        for each in load.attempts
        if each.outcome == ACKNOWLEDGED and each.client % 3 != 2
    ]
    return max(
        later - earlier for earlier, later in pairwise(sorted(times)) if later > moment
    )
