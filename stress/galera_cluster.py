"""A MariaDB Galera cluster of three nodes on this machine, to be broken at will.

Each node is a ``mariadbd`` with a data directory and ports of its own; nothing of the
machine's configuration of MariaDB is read. Debian's packages ``mariadb-server``,
``galera-4``, ``rsync`` and ``lsof`` have what it needs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymysql

from stress.load import Load, Outcome
from stress.machines import audit, prepare, wait

PROVIDER = Path("/usr/lib/galera/libgalera_smm.so")
PROGRAMS = ("mariadbd", "mariadb-install-db", "rsync", "lsof")

HOST = "127.0.0.1"
NODES = 3
DATABASE = "test"


class Node:
    """One server of the cluster."""

    def __init__(self, number: int, root: Path):
        self.number = number
        self.directory = root / f"node{number}"
        self.log = root / f"node{number}.log"
        self.port = 13306 + 10 * number
        self.group_port = 14567 + 10 * number
        self.transfer_port = 14444 + 10 * number
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL that leads SQLAlchemy into the database of this node."""
        return f"mysql+pymysql://root@{HOST}:{self.port}/{DATABASE}"

    def start(self, *options: str) -> None:
        """Start the server; ``options`` come on top of those that all nodes have."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._command(), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _command(self) -> list[str]:
        members = ",".join(f"{HOST}:{14567 + 10 * each}" for each in range(NODES))
        provider_options = {
            "base_host": HOST,
            "base_port": self.group_port,
            "gmcast.listen_addr": f"tcp://{HOST}:{self.group_port}",
            "ist.recv_addr": f"{HOST}:{self.group_port + 1}",
            "gcache.size": "32M",
            "gcache.page_size": "32M",
        }
        options = {
            "datadir": self.directory,
            "socket": self.directory / "mariadbd.sock",
            "pid-file": self.directory / "mariadbd.pid",
            "bind-address": HOST,
            "port": self.port,
            "innodb-buffer-pool-size": "64M",
            "innodb-log-file-size": "16M",
            "innodb-flush-log-at-trx-commit": 1,
            "innodb-autoinc-lock-mode": 2,
            "binlog-format": "ROW",
            "wsrep-on": "ON",
            "wsrep-provider": PROVIDER,
            "wsrep-provider-options": ";".join(
                f"{name}={value}" for name, value in provider_options.items()
            ),
            "wsrep-cluster-name": "stress",
            "wsrep-cluster-address": f"gcomm://{members}",
            "wsrep-node-name": f"node{self.number}",
            "wsrep-node-address": f"{HOST}:{self.group_port}",
            "wsrep-node-incoming-address": f"{HOST}:{self.port}",
            "wsrep-sst-method": "rsync",
            "wsrep-sst-receive-address": f"{HOST}:{self.transfer_port}",
        }
        return [
            "mariadbd",
            "--no-defaults",
            *_user_option(),
            *(f"--{name}={value}" for name, value in options.items()),
        ]

    def kill(self) -> None:
        """Let the server die in the middle of its work, as in a crash."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def recover(self) -> tuple[str, int]:
        """Return the cluster's id and the last transaction in the data."""
        log = self.directory / "recovery.log"
        log.unlink(missing_ok=True)
        subprocess.run(
            [*self._command(), "--wsrep-recover", f"--log-error={log}"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        position = re.search(r"Recovered position: *(\S+):(-?\d+)", log.read_text())
        if position is None:
            raise RuntimeError(f"no position in {log}")
        return position[1], int(position[2])

    def let_bootstrap(self) -> None:
        """Declare that no other node has more than this one."""
        state = self.directory / "grastate.dat"
        content = re.sub(
            r"safe_to_bootstrap: 0", "safe_to_bootstrap: 1", state.read_text()
        )
        state.write_text(content)

    def connect(self, **options: Any) -> pymysql.Connection[Any]:
        """Open a connection to the server, in autocommit."""
        return pymysql.connect(
            host=HOST,
            port=self.port,
            user="root",
            autocommit=True,
            connect_timeout=5,
            **options,
        )

    def execute(self, statement: str) -> tuple[tuple[Any, ...], ...]:
        """Execute a statement; return the rows."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()

    def isolate(self, alone: bool) -> None:
        """Cut the node off from the others, or let it find them again."""
        option = f"gmcast.isolate={int(alone)}"
        self.execute(f"SET GLOBAL wsrep_provider_options = '{option}'")

    def audit(self, load: Load) -> Outcome:
        """Compare what the clients know with what the node has."""
        self.catch_up()
        return audit(load, self.url)

    def catch_up(self) -> None:
        """Wait until the node has applied what the others have committed so far."""
        self.execute("SET STATEMENT wsrep_sync_wait = 1 FOR SELECT 1")

    def status(self, name: str) -> str | None:
        """Return what the server says about itself, or None if it doesn't answer."""
        try:
            ((_, value),) = self.execute(f"SHOW STATUS LIKE 'wsrep_{name}'")
        except (pymysql.Error, OSError):
            return None
        return str(value)

    def is_synced(self) -> bool:
        """Tell whether the node has all that the others have, and takes requests."""
        return self.status("local_state_comment") == "Synced"

    def wait_until_synced(self) -> float:
        """Wait until the node takes requests; return how many seconds that took."""
        return wait(self.is_synced, f"node {self.number} isn't synced, see {self.log}")


class Cluster:
    """The nodes together."""

    def __init__(self, root: Path):
        self.nodes = [Node(number, root) for number in range(NODES)]
        self.urls = [node.url for node in self.nodes]

    def install(self) -> None:
        """Make the data directory of the first node; the others copy it."""
        for node in self.nodes:
            node.directory.mkdir()
            if os.geteuid() == 0:
                shutil.chown(node.directory, "mysql")
        subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                *_user_option(),
                f"--datadir={self.nodes[0].directory}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--innodb-log-file-size=16M",
            ],
            stdout=subprocess.DEVNULL,
            check=True,
        )

    def start(self, *options: str) -> None:
        """Start all nodes; the first one begins the cluster."""
        self.start_from(self.nodes[0], *options)
        self.nodes[0].execute(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")

    def start_from(self, first: Node, *options: str) -> None:
        """Start all nodes; ``first`` begins the cluster, the others join it."""
        first.start("--wsrep-new-cluster", *options)
        first.wait_until_synced()
        for node in self.nodes:
            if node is not first:
                node.start(*options)
        for node in self.nodes:
            node.wait_until_synced()
        self.wait_until_complete()

    def wait_until_complete(self) -> None:
        """Wait until every node sees all the others."""
        wait(
            lambda: all(
                node.is_synced() and node.status("cluster_size") == str(NODES)
                for node in self.nodes
            ),
            "the cluster isn't complete",
        )

    def execute(self, statement: str) -> None:
        """Execute a statement on each node."""
        for node in self.nodes:
            node.execute(statement)

    def prepare(self) -> None:
        """Make the tables of the application, empty, and let all nodes have them."""
        prepare(self.nodes[0].url)
        for node in self.nodes:
            node.catch_up()

    def kill(self) -> None:
        """Let all nodes die at once, as in a power failure."""
        for node in self.nodes:
            if node.process is not None:
                node.process.kill()
        for node in self.nodes:
            node.kill()


def waits(sync_wait: int) -> tuple[str]:
    """Make a connection wait for the other nodes: 0 never, 1 before it reads."""
    return (f"SET SESSION wsrep_sync_wait = {sync_wait}",)


def missing() -> str | None:
    """Why there can't be a cluster here, or None if there can."""
    for program in PROGRAMS:
        if shutil.which(program, path=_path()) is None:
            return f"there is no {program}"
    return None if PROVIDER.exists() else f"there is no {PROVIDER}"


@contextmanager
def cluster(*options: str) -> Iterator[Cluster]:
    """Start a cluster, and remove all of it at the end."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        root.chmod(0o755)
        made = Cluster(root)
        try:
            made.install()
            made.start(*options)
            yield made
        finally:
            made.kill()


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin"


def _user_option() -> list[str]:
    return ["--user=mysql"] if os.geteuid() == 0 else []
