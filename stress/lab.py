"""Gives scenarios their servers, databases and workers, and ends them all."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from sqlalchemy import Engine

from stress.application import Options
from stress.load import Load, Outcome, make_tables, running
from stress.servers import MariaDB, PostgreSQL, Server
from stress.workers import Worker

SERVERS: dict[str, type[Server]] = {"postgresql": PostgreSQL, "mariadb": MariaDB}


class Missing(Exception):
    """Raised if a scenario can't be played, with the reason."""


@dataclass
class Play:
    """A scenario in progress: its workers, its clients, and how to get a verdict."""

    kind: str
    options: Options
    workers: list[Worker]
    load: Load
    engine: Engine

    def verdict(self) -> Outcome:
        """Let the clients finish; compare what was acknowledged with what's stored."""
        self.load.rest()
        return self.load.audit(self.engine)

    def restart_workers(self, **changes: Any) -> None:
        """Start the workers again with other options."""
        for worker in self.workers:
            worker.stop()
            worker.options = replace(worker.options, **changes)
            worker.start()


class Lab:
    """Makes what scenarios need; ``seconds`` and ``rounds`` say how long they go on."""

    def __init__(self, stack: contextlib.ExitStack, quick: bool):
        self.directory = Path(stack.enter_context(TemporaryDirectory()))
        # The servers are run by other users.
        self.directory.chmod(0o755)
        self.seconds = 0.5 if quick else 1.5
        self.rounds = 1 if quick else 3
        self._stack = stack
        self._servers: dict[str, Server] = {}

    def server(self, kind: str) -> Server:
        """Return the running server of a kind."""
        if kind not in self._servers:
            self._servers[kind] = self.new_server(kind, self.directory / kind)
        return self._servers[kind]

    def new_server(self, kind: str, directory: Path) -> Server:
        """Start another server, which stops when the lab closes."""
        try:
            server = SERVERS[kind](directory)
        except FileNotFoundError as exc:
            raise Missing(f"not installed: {exc}") from exc
        self._stack.callback(server.stop)
        server.start()
        return server

    def new_url(self, kind: str) -> str:
        """Make an empty database; return its URL."""
        if kind == "sqlite":
            return f"sqlite:///{mkdtemp(dir=self.directory)}/stress.sqlite"
        return self.server(kind).new_database()

    @contextlib.contextmanager
    def play(
        self,
        kind: str,
        *,
        workers: int = 2,
        threads: int = 4,
        url: str | None = None,
        load: dict[str, Any] | None = None,
        **options: Any,
    ) -> Iterator[Play]:
        """Let clients write to an application on a database of this kind."""
        made = Options(url or self.new_url(kind), **options)
        engine = made.make_engine(pool_pre_ping=True)
        make_tables(engine)
        with contextlib.ExitStack() as stack:
            stack.callback(engine.dispose)
            started = [Worker(made, threads) for _ in range(workers)]
            for worker in started:
                stack.callback(worker.stop)
                worker.launch()
            for worker in started:
                worker.wait()
            clients = Load([worker.port for worker in started], **(load or {}))
            play = Play(kind, made, started, clients, engine)
            with running(clients):
                yield play


@contextlib.contextmanager
def small_disk(directory: Path, megabytes: int) -> Iterator[Path]:
    """Mount a disk of that size on a new directory."""
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", directory]
    mounted = subprocess.run(command, capture_output=True)
    if mounted.returncode:
        raise Missing(f"no disk can be mounted: {mounted.stderr.decode().strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)
        directory.rmdir()
