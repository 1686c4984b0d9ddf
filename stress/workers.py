"""Web servers in separate processes, to be killed."""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from stress.application import Options

ROOT = Path(__file__).resolve().parent.parent

#: How long a process may take to start, in seconds.
PATIENCE = 60

APPLICATION = "stress.application:from_environment"


class Worker:
    """A process with waitress, and the application in some threads."""

    def __init__(self, options: Options, threads: int = 4):
        self.options = options
        self.threads = threads
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        """What is run."""
        return [
            *(sys.executable, "-m", "waitress", "--call", f"--threads={self.threads}"),
            *(f"--listen=127.0.0.1:{self.port}", APPLICATION),
        ]

    def start(self) -> None:
        """Start the process, and wait until it answers."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start the process."""
        self._process = subprocess.Popen(
            self.command,
            cwd=ROOT,
            env=self.options.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def wait(self) -> None:
        """Wait until the process answers."""
        assert self._process is not None
        wait_for(self.is_ready, self._process)

    def is_ready(self) -> bool:
        """Tell whether it answers."""
        return ask(self.port, "/alive")[0] == 200

    def kill(self) -> None:
        """End the process with SIGKILL, in the middle of whatever it does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End the process."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()


class Gunicorn(Worker):
    """The same with gunicorn: processes that are forked from the one that loads.

    ``config`` is the path of its configuration file, if it has one.
    """

    def __init__(self, options: Options, config: Path | None):
        super().__init__(options)
        self.config = config or Path("/dev/null")

    @property
    def command(self) -> list[str]:
        """What is run."""
        return [
            *(sys.executable, "-m", "gunicorn", "--preload"),
            *("--config", f"file:{self.config}", "--log-level", "critical"),
            *("--workers", "2", "--threads", str(self.threads)),
            *("--bind", f"127.0.0.1:{self.port}", "--no-control-socket"),
            f"{APPLICATION}()",
        ]


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def ask(
    port: int, path: str, cookie: str | None = None, timeout: float = 30
) -> tuple[int, http.client.HTTPMessage, str]:
    """Make one request on its own connection; return status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    with contextlib.closing(connection):
        headers = {"Connection": "close"}
        if cookie is not None:
            headers["Cookie"] = cookie
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()


def wait_for(is_ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until what a process does is ready."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"ended with {process.returncode}: {process.args}")
        try:
            if is_ready():
                return
        except OSError:
            pass
        time.sleep(0.02)
    raise RuntimeError(f"not ready after {PATIENCE} s: {process.args}")
