"""Read sessions from a standby of PostgreSQL, lose its primary, and see what's lost.

Run ``python -m stress.standby [SCENARIO ...]`` in the checkout. It starts the servers
by itself, with the programs of Debian's package ``postgresql``, and prints one table.
It fails if something happened that, according to the documentation, doesn't happen.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import text

from stress.load import Load, running
from stress.machines import audit, begin, clock, machines, prepare, wait
from stress.rows import Row, print_row, print_titles
from stress.sequels import LOG_IN, LOG_OUT, Sequel, play
from stress.servers import PostgreSQL
from stress.workers import ask

TRIES = 1000
CLIENTS = 6

#: How long clients write before the primary dies, in seconds.
WHILE = 3

#: Sessions that are used only at the standby, every so many seconds.
SESSIONS = 20
IDLE_TIMEOUT = 1000
PAUSE = 300

#: What a commit on the primary waits for: synchronous_standby_names and
#: synchronous_commit.
MODES = {
    "asynchronous": ("", "on"),
    "synchronous": ("*", "on"),
    "remote_apply": ("*", "remote_apply"),
}


class Standby(PostgreSQL):
    """A server that follows another one, and can be read."""

    def __init__(self, directory: Path, primary: PostgreSQL):
        self.primary = primary
        super().__init__(directory)

    def initialize(self) -> None:
        """Copy the primary."""
        self.run(
            *(str(Path(self.command[0]).with_name("pg_basebackup")), "-D"),
            *(str(self.data), "--write-recovery-conf", "--checkpoint=fast"),
            *("-h", "127.0.0.1", "-p", str(self.primary.port), "-U", "postgres"),
        )

    def promote(self) -> None:
        """Stop it from following, and let it take writes."""
        self.execute("SELECT pg_promote()")


@dataclass
class Pair:
    """A primary and its standby."""

    primary: PostgreSQL
    standby: Standby

    @property
    def url(self) -> str:
        """The URL that leads to the one of the two that takes writes."""
        hosts = "&".join(
            f"host=127.0.0.1:{each.port}" for each in (self.primary, self.standby)
        )
        attributes = "target_session_attrs=read-write"
        return f"postgresql+psycopg2://postgres@/postgres?{hosts}&{attributes}"

    def set_mode(self, mode: str) -> None:
        """Decide what a commit on the primary waits for."""
        names, commit = MODES[mode]
        self.primary.execute(
            f"ALTER SYSTEM SET synchronous_commit = {commit}",
            f"ALTER SYSTEM SET synchronous_standby_names = '{names}'",
            "SELECT pg_reload_conf()",
        )
        state = "async" if mode == "asynchronous" else "sync"
        query = "SELECT sync_state FROM pg_stat_replication"
        wait(lambda: ask_server(self.primary, query) == state, f"not {state}")

    def prepare(self) -> None:
        """Make the tables of the application, empty, and let the standby have them."""
        prepare(self.primary.url())
        position = ask_server(self.primary, "SELECT pg_current_wal_lsn()")
        query = f"SELECT pg_last_wal_replay_lsn() >= '{position}'"
        wait(lambda: ask_server(self.standby, query), "the standby is behind")

    def lose_primary(self, stall: float) -> None:
        """Let the primary die after it hasn't sent anything for a while."""
        query = "SELECT pid FROM pg_stat_replication"
        sender = ask_server(self.primary, query)
        if stall:
            os.kill(sender, signal.SIGSTOP)
            time.sleep(stall)
        self.primary.kill()
        with contextlib.suppress(ProcessLookupError):
            os.kill(sender, signal.SIGKILL)


def ask_server(server: PostgreSQL, query: str) -> Any:
    """Return the one value that the query asks for, or None if there's no row."""
    return server.administer(lambda connection: connection.scalar(text(query)))


@contextlib.contextmanager
def pair() -> Iterator[Pair]:
    """Start a primary and a standby, and remove all of them at the end."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        root.chmod(0o755)
        primary = PostgreSQL(root / "primary")
        try:
            primary.start()
            standby = Standby(root / "standby", primary)
            try:
                standby.start()
                yield Pair(primary, standby)
            finally:
                standby.stop()
        finally:
            primary.stop()


def login() -> Iterator[Row]:
    """Begin a session at the primary, and read it at the standby."""
    return _play(LOG_IN)


def logout() -> Iterator[Row]:
    """End a session at the primary, and try its cookie at the standby."""
    return _play(LOG_OUT)


def _play(sequel: Sequel) -> Iterator[Row]:
    with pair() as servers:
        for mode in MODES:
            servers.set_mode(mode)
            servers.prepare()
            urls = [servers.primary.url(), servers.standby.url()]
            with clock() as time_, machines(urls) as ports:
                tries = play(sequel, ports, time_, TRIES)
            yield Row(
                mode,
                TRIES,
                tries.wrong,
                tries.errors,
                tries.remark,
                is_promised=mode == "remote_apply",
            )


def extension() -> Iterator[Row]:
    """Use sessions with an idle timeout at the standby alone, all the time."""
    with pair() as servers, clock() as time_:
        servers.prepare()
        urls = [servers.primary.url(), servers.standby.url()]
        options = {"session": {"idle_timeout": IDLE_TIMEOUT}, "clock": str(time_.path)}
        with machines(urls, **options) as (at_primary, at_standby):
            cookies = [begin(at_primary) for _ in range(SESSIONS)]
            last = cookies[-1]
            wait(lambda: ask(at_standby, "/read", last)[0] == 200, "no login")
            for passed in range(PAUSE, IDLE_TIMEOUT + PAUSE + 1, PAUSE):
                time_.push(PAUSE)
                statuses = [ask(at_standby, "/read", each)[0] for each in cookies]
                yield Row(
                    f"idle_timeout={IDLE_TIMEOUT}, in use for {passed} s",
                    SESSIONS,
                    statuses.count(410),
                    statuses.count(500),
                    is_promised=passed <= IDLE_TIMEOUT,
                )


def failover() -> Iterator[Row]:
    """Let the primary die under load, and promote the standby."""
    for mode in MODES:
        for stall in (0, 1):
            with pair() as servers:
                servers.set_mode(mode)
                servers.prepare()
                yield _fail_over(servers, mode, stall)


def _fail_over(servers: Pair, mode: str, stall: float) -> Row:
    with machines([servers.url, servers.url]) as ports:
        load = Load(ports, clients=CLIENTS, sessions=3)
        with running(load):
            time.sleep(WHILE)
            servers.lose_primary(stall)
            servers.standby.promote()
            load.fault_ended()
            load.wait_for_success()
    outcome = audit(load, servers.standby.url())
    return Row(
        f"{mode}, nothing sent for {stall} s",
        outcome.acknowledged,
        outcome.faults,
        outcome.errors,
        f"{outcome.lost} lost; all workers succeed {outcome.all_succeed:.1f} s after"
        f" the promotion;"
        f" {outcome.unknown} of the errors at COMMIT, {outcome.unknown_stored} of these"
        " stored",
        is_promised=mode != "asynchronous",
        may_fail=True,
    )


SCENARIOS: dict[str, Callable[[], Iterator[Row]]] = {
    "login": login,
    "logout": logout,
    "extension": extension,
    "failover": failover,
}


def main() -> None:
    """Play the scenarios, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO")
    arguments = parser.parse_args()
    names = arguments.scenarios or list(SCENARIOS)
    for name in names:
        if name not in SCENARIOS:
            parser.error(f"{name}: valid are {', '.join(SCENARIOS)}")
    # So that no server is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    broken = 0
    print_titles()
    for name in names:
        for row in SCENARIOS[name]():
            print_row(name, row)
            broken += row.breaks_promise
    parser.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
