"""Our own database servers, to be killed: PostgreSQL and MariaDB as in Debian.

Their settings are durable: what they acknowledge has been written to the disk.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from stress.workers import PATIENCE, free_port, wait_for


class Server:
    """A server with its own data directory and port."""

    #: The user that it runs as if root starts it, because both servers refuse to run as
    #: root.
    user: str

    def __init__(self, directory: Path):
        self.directory = directory
        self.port = free_port()
        self._names = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(exist_ok=True)
        if self._identity:
            shutil.chown(directory, self.user, self.user)
        self.initialize()

    @property
    def _identity(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        return {"user": self.user, "group": self.user, "extra_groups": []}

    def run(self, *command: str) -> None:
        """Run a program as the server's user, and wait for its end."""
        done = subprocess.run(
            command, cwd=self.directory, capture_output=True, **self._identity
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {done.stderr.decode()}")

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        with (self.directory.parent / f"{self.directory.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self.directory,
                stdout=log,
                stderr=log,
                **self._identity,
            )
        wait_for(self.is_ready, self._process)

    def restart(self) -> None:
        """Start the server again, and keep trying until the old one is gone."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return self.start()
            except RuntimeError:
                if time.monotonic() > end:
                    raise

    def is_ready(self) -> bool:
        """Tell whether it answers."""
        try:
            self.administer(lambda connection: None)
        except OperationalError:
            return False
        return True

    def is_running(self) -> bool:
        """Tell whether the process is running."""
        return self._process is not None and self._process.poll() is None

    def end(self, number: int) -> None:
        """Send a signal to the server, and wait for its end."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(PATIENCE)

    def kill(self) -> None:
        """End the server at once, with SIGKILL."""
        self.end(signal.SIGKILL)

    def stop(self) -> None:
        """End the server; its data isn't needed any more."""
        self.end(signal.SIGQUIT)

    def administer(self, work: Any, database: str | None = None) -> Any:
        """Call ``work`` with a connection of the administrator, in autocommit."""
        engine = create_engine(
            self.url(database),
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"connect_timeout": 5},
        )
        with engine.connect() as connection:
            return work(connection)

    def execute(self, *statements: str) -> None:
        """Execute statements as the administrator."""

        def work(connection: Connection) -> None:
            for statement in statements:
                connection.execute(text(statement))

        self.administer(work)

    def new_database(self) -> str:
        """Make a database; return its URL."""
        name = f"stress_{next(self._names)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    command: list[str]

    def initialize(self) -> None:
        """Fill the data directory."""
        raise NotImplementedError

    def url(self, database: str | None = None) -> str:
        """Return the URL of a database, or of the one that is always there."""
        raise NotImplementedError


class PostgreSQL(Server):
    """PostgreSQL: fsync and synchronous_commit are on by default."""

    user = "postgres"

    @property
    def command(self) -> list[str]:
        """What's run."""
        return [
            *(_newest("/usr/lib/postgresql/*/bin/postgres"), "-D", str(self.data)),
            *("-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.directory)),
        ]

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.directory / "data"

    def initialize(self) -> None:
        """Fill the data directory."""
        # Small files of the log, so that the server has room on a small disk.
        self.run(
            *(_newest("/usr/lib/postgresql/*/bin/initdb"), "-D", str(self.data)),
            *("-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8"),
            *("--wal-segsize=1", "--no-instructions"),
        )

    def url(self, database: str | None = None) -> str:
        """Return the URL of a database, or of the one that is always there."""
        name = database or "postgres"
        return f"postgresql+psycopg2://postgres@127.0.0.1:{self.port}/{name}"


class MariaDB(Server):
    """MariaDB: each commit is written to the disk."""

    user = "mysql"

    @property
    def command(self) -> list[str]:
        """What's run."""
        return [
            *("/usr/sbin/mariadbd", *self._place, f"--port={self.port}"),
            *("--bind-address=127.0.0.1", f"--socket={self.directory}/socket"),
            *("--innodb-flush-log-at-trx-commit=1", "--sync-binlog=1"),
            *("--innodb-log-file-size=8M", "--skip-name-resolve"),
        ]

    @property
    def _place(self) -> list[str]:
        # --no-defaults has to come first.
        return ["--no-defaults", f"--datadir={self.directory}/data"]

    def initialize(self) -> None:
        """Fill the data directory."""
        self.run(
            *("mariadb-install-db", *self._place, "--skip-test-db"),
            *("--auth-root-authentication-method=normal", "--skip-name-resolve"),
            "--innodb-log-file-size=8M",
        )

    def url(self, database: str | None = None) -> str:
        """Return the URL of a database, or of the one that is always there."""
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/{database or 'mysql'}"


def _newest(pattern: str) -> str:
    found = sorted(Path("/").glob(pattern.lstrip("/")))
    if not found:
        raise FileNotFoundError(pattern)
    return str(found[-1])
