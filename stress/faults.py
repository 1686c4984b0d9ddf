"""The scenarios: what breaks while clients write, and on which databases."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import OperationalError

from pyramid_sqlalchemy_sessions import generate_secret_key
from stress.application import Options
from stress.lab import Lab, Play, small_disk
from stress.load import Load, Outcome, make_tables, running
from stress.workers import ROOT, Gunicorn

SERVER_KINDS = ("postgresql", "mariadb")
KINDS = ("sqlite", *SERVER_KINDS)

Variants = dict[str, dict[str, Any]]

#: The variant that is known to go wrong.
UNPREPARED = "unprepared"

PRE_PING = {"engine": {"pool_pre_ping": True}}

#: Each client has a session of its own.
NO_CONFLICTS = {"sessions": 8}

#: How far the sessions' clock is off, in seconds, one after another.
JUMPS = (-3600, 3600, -86400, 0)


@dataclass(frozen=True)
class Scenario:
    """Something that breaks, on one kind of database, with some options."""

    name: str
    kind: str
    variant: str
    run: Callable[..., Outcome]
    options: dict[str, Any]

    @property
    def is_unprepared(self) -> bool:
        """Whether it shows what happens without the documentation's advice."""
        return self.variant == UNPREPARED

    def play(self, lab: Lab) -> Outcome:
        """Let it happen, and return the result."""
        return self.run(lab, self.kind, **self.options)


# Workers.


def worker_killed(lab: Lab, kind: str, **options: Any) -> Outcome:
    """Kill a worker, start it again, and do the same to the next one."""
    with lab.play(kind, load={"pause": 0.02}, **options) as play:
        for turn in range(lab.rounds):
            time.sleep(lab.seconds)
            worker = play.workers[turn % len(play.workers)]
            worker.kill()
            worker.start()
            play.load.fault_ended()
            play.load.wait_for_success()
        return play.verdict()


def forked(lab: Lab, kind: str, config: Path | None = None) -> Outcome:
    """Fork the workers from a process that has used its engine."""
    options = Options(lab.new_url(kind))
    engine = options.make_engine()
    make_tables(engine)
    worker = Gunicorn(options, config)
    with contextlib.ExitStack() as stack:
        stack.callback(engine.dispose)
        stack.callback(worker.stop)
        worker.start()
        load = Load([worker.port], new_every=2)
        with running(load):
            time.sleep(lab.rounds * lab.seconds)
        return load.audit(engine)


def crowd(lab: Lab, kind: str) -> Outcome:
    """Let eight threads of one worker answer eight clients with a session each."""
    load = {"sessions": 8, "new_every": 50, "reads": 10, "pause": 0}
    engine = {"pool_size": 9}
    with lab.play(kind, workers=1, threads=8, load=load, engine=engine) as play:
        time.sleep(3 * lab.rounds * lab.seconds)
        return play.verdict()


def two_applications(lab: Lab, kind: str) -> Outcome:
    """Have two applications in each process, whose cookies have one name."""
    mine = {"idle_timeout": 1000, "renewal_timeout": 1, "renewal_try_every": 1}
    other = {"cookie_samesite": "Strict", "secret_key": generate_secret_key()}
    with lab.play(kind, session=mine, other=other) as play:
        ports, cookie = play.load.ports, play.load.cookies[0]
        load = Load(ports, prefix="/other", cookie=cookie, first_number=10**9)
        with running(load):
            play.load.cookie = load.cookies[0]
            time.sleep(lab.rounds * lab.seconds)
        outcome = play.verdict()
        outcome.add(load.audit(play.engine))
        return outcome


def clock_jumps(lab: Lab, kind: str) -> Outcome:
    """Set the clock of the sessions back and forth, and right again.

    The day that it's behind is more than the idle timeout, but sessions from before
    stay.
    """
    clock = lab.directory / "clock"
    set_clock(clock, 0)
    session = {"idle_timeout": 7200, "renewal_timeout": 600, "renewal_try_every": 1}
    load = {"reads": 1}
    with lab.play(kind, session=session, clock=str(clock), load=load) as play:
        for _ in range(lab.rounds):
            for jump in JUMPS:
                time.sleep(lab.seconds / 2)
                set_clock(clock, jump)
        time.sleep(lab.seconds)
        return play.verdict()


def set_clock(path: Path, wrong: int) -> None:
    """Set the clock wrong by so many seconds."""
    new = path.with_suffix(".new")
    new.write_text(str(wrong))
    new.replace(path)


# Connections and servers.


def idle_connections_ended(lab: Lab, kind: str, **options: Any) -> Outcome:
    """End all connections while they're idle."""
    with lab.play(kind, load=NO_CONFLICTS, **options) as play:
        for _ in range(lab.rounds):
            time.sleep(lab.seconds)
            play.load.rest()
            end_connections(lab, play)
            play.load.fault_ended()
            play.load.go()
            play.load.wait_for_success()
        return play.verdict()


def busy_connections_ended(lab: Lab, kind: str, **options: Any) -> Outcome:
    """End all connections in the middle of requests."""
    load = {"pause": 0.02, **NO_CONFLICTS}
    with lab.play(kind, load=load, **options) as play:
        for _ in range(3 * lab.rounds):
            time.sleep(lab.seconds / 2)
            end_connections(lab, play)
            play.load.fault_ended()
            play.load.wait_for_success()
        return play.verdict()


def end_connections(lab: Lab, play: Play) -> None:
    """End the connections to the database of a play."""
    ends = {
        "postgresql": (
            "SELECT pid FROM pg_stat_activity WHERE datname = :name",
            "SELECT pg_terminate_backend({})",
        ),
        "mariadb": (
            "SELECT id FROM information_schema.processlist WHERE db = :name",
            "KILL CONNECTION {}",
        ),
    }
    find, end = ends[play.kind]
    name = make_url(play.options.url).database

    def work(connection: Connection) -> None:
        for number in connection.scalars(text(find), {"name": name}).all():
            # It may have ended by itself.
            with contextlib.suppress(OperationalError):
                connection.execute(text(end.format(number)))

    lab.server(play.kind).administer(work)


def server_killed(lab: Lab, kind: str, number: int, **options: Any) -> Outcome:
    """End the server with a signal, and start it again."""
    server = lab.server(kind)
    with lab.play(kind, **options) as play:
        for _ in range(lab.rounds):
            time.sleep(lab.seconds)
            server.end(number)
            time.sleep(0.2)
            server.restart()
            play.load.fault_ended()
            play.load.wait_for_success()
        return play.verdict()


# Databases that can't be written to.


def read_only(lab: Lab, kind: str) -> Outcome:
    """Make the database read-only for a while: reading must still work."""
    url = lab.new_url(kind)
    if kind == "mariadb":
        url = unprivileged(lab, url)
    # With these an extension and a renewal are due each second.
    session = {"idle_timeout": 1000, "renewal_timeout": 1, "renewal_try_every": 1}
    with lab.play(kind, url=url, session=session, load={"reads": 5}) as play:
        for _ in range(lab.rounds):
            time.sleep(lab.seconds)
            play.load.rest()
            with READ_ONLY[kind](lab, play):
                play.load.go()
                time.sleep(max(lab.seconds, 2))
                play.load.rest()
            play.load.fault_ended()
            play.load.go()
            play.load.wait_for_success()
        outcome = play.verdict()
    if outcome.failed_reads:
        outcome.broken = "a session could not be read"
    return outcome


@contextlib.contextmanager
def read_only_file(lab: Lab, play: Play) -> Iterator[None]:
    """Have the workers open SQLite's file read-only."""
    path = make_url(play.options.url).database
    play.restart_workers(url=f"sqlite:///file:{path}?mode=ro&uri=true")
    yield
    play.restart_workers(url=play.options.url)


@contextlib.contextmanager
def read_only_postgresql(lab: Lab, play: Play) -> Iterator[None]:
    """Make all transactions of the server read-only, as on a standby."""
    server = lab.server("postgresql")
    setting = "default_transaction_read_only"
    server.execute(f"ALTER SYSTEM SET {setting} = on", "SELECT pg_reload_conf()")
    yield
    server.execute(f"ALTER SYSTEM RESET {setting}", "SELECT pg_reload_conf()")


@contextlib.contextmanager
def read_only_mariadb(lab: Lab, play: Play) -> Iterator[None]:
    """Set the server to read_only, which applies to all but administrators."""
    server = lab.server("mariadb")
    server.execute("SET GLOBAL read_only = 1")
    yield
    server.execute("SET GLOBAL read_only = 0")


READ_ONLY = {
    "sqlite": read_only_file,
    "postgresql": read_only_postgresql,
    "mariadb": read_only_mariadb,
}


def unprivileged(lab: Lab, url: str) -> str:
    """Return the URL for a user who may use the database, but not administer it."""
    lab.server("mariadb").execute(
        "CREATE OR REPLACE USER app@'127.0.0.1'",
        f"GRANT ALL ON {make_url(url).database}.* TO app@'127.0.0.1'",
    )
    return make_url(url).set(username="app").render_as_string(hide_password=False)


#: The size of the small disk, in MB, by kind of database.
DISK_SIZES = {"sqlite": 16, "postgresql": 96, "mariadb": 200}


def disk_full(lab: Lab, kind: str) -> Outcome:
    """Fill the disk of the database, and make room again."""
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(small_disk(lab.directory / "disk", DISK_SIZES[kind]))
        url, server = f"sqlite:///{disk}/stress.sqlite", None
        if kind != "sqlite":
            server = lab.new_server(kind, disk / "server")
            stack.callback(server.stop)
            url = server.new_database()
        play = stack.enter_context(
            lab.play(
                kind,
                url=url,
                load={"padding": 5000, "reads": 2},
                session={"idle_timeout": 1000},
                **PRE_PING,
            )
        )
        for _ in range(lab.rounds):
            time.sleep(lab.seconds)
            ballast = fill(disk)
            time.sleep(2 * lab.seconds)
            ballast.unlink()
            if server is not None and not server.is_running():
                server.restart()
            play.load.fault_ended()
            play.load.wait_for_success()
        return play.verdict()


def fill(disk: Path) -> Path:
    """Fill a disk with a file, and return the file."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            os.write(file.fileno(), bytes(4096))
    return ballast


WAL = ("PRAGMA journal_mode = WAL", "PRAGMA busy_timeout = 30000")
NO_RETRY = {"attempts": 1}
RECIPE = ROOT / "docs/examples/gunicorn.conf.py"

#: Scenarios by name, with what they do, the kinds of databases, and the variants.
_SCENARIOS: dict[str, tuple[Callable[..., Outcome], Sequence[str], Variants]] = {
    "worker killed": (worker_killed, KINDS, {"": {}}),
    "file shared": (
        worker_killed,
        ["sqlite"],
        {
            "as it comes": {"workers": 4},
            "WAL": {"workers": 4, "on_connect": WAL},
            "recipe": {"workers": 4, "sqlite_recipe": True},
        },
    ),
    "idle connections ended": (
        idle_connections_ended,
        SERVER_KINDS,
        {
            "retry, pre-ping": PRE_PING,
            "retry": {},
            "pre-ping": {**NO_RETRY, **PRE_PING},
            "neither": NO_RETRY,
        },
    ),
    "busy connections ended": (
        busy_connections_ended,
        SERVER_KINDS,
        {"retry, pre-ping": PRE_PING, "retry": {}, "neither": NO_RETRY},
    ),
    "server stopped": (
        server_killed,
        SERVER_KINDS,
        {
            "SIGQUIT": {"number": signal.SIGQUIT, **PRE_PING},
            "SIGKILL": {"number": signal.SIGKILL, **PRE_PING},
        },
    ),
    "read-only": (read_only, KINDS, {"": {}}),
    "disk full": (disk_full, KINDS, {"": {}}),
    "clock jumps": (clock_jumps, KINDS, {"": {}}),
    "two applications": (two_applications, KINDS, {"": {}}),
    "crowd": (crowd, KINDS, {"": {}}),
    "forked": (
        forked,
        SERVER_KINDS,
        {UNPREPARED: {}, "recipe": {"config": RECIPE}},
    ),
}

SCENARIOS = tuple(
    Scenario(name, kind, variant, run, options)
    for name, (run, kinds, variants) in _SCENARIOS.items()
    for kind in kinds
    for variant, options in variants.items()
)
