"""Workers on several machines: each uses its own database server."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pyramid.response import Response
from sqlalchemy import create_engine

from stress import application
from stress.application import Options
from stress.load import Load, Outcome, make_tables
from stress.workers import Worker, ask

#: The longest that anything may take, in seconds.
PATIENCE = 90

_numbers = itertools.count(1)


def _end(request: Any) -> Response:
    """End the session, as a logout does."""
    if request.session.new:
        return Response("the session is gone", status=410)
    request.session.invalidate()
    return Response("ended")


def from_environment() -> Any:
    """Make the WSGI application of a worker."""
    application.VIEWS["/end"] = _end
    return application.from_environment()


class Machine(Worker):
    """A worker that can also end sessions."""

    @property
    def command(self) -> list[str]:
        """What is run."""
        return [*super().command[:-1], f"{__name__}:from_environment"]


@contextmanager
def machines(urls: Sequence[str], **options: Any) -> Iterator[list[int]]:
    """Start a worker for each database, and return their ports."""
    engine = {"pool_pre_ping": True, "pool_size": 8}
    with ExitStack() as stack:
        started = []
        for url in urls:
            worker = Machine(Options(url, engine=engine, **options))
            stack.callback(worker.stop)
            worker.start()
            started.append(worker.port)
        yield started


class Clock:
    """The clock of the sessions on all machines, which can be pushed forward."""

    def __init__(self, path: Path):
        self.path = path
        self._offset = 0
        self.push(0)

    def push(self, seconds: int) -> None:
        """Let so many seconds pass."""
        self._offset += seconds
        # It's renamed, so that a half-written file is never read.
        written = self.path.with_suffix(".new")
        written.write_text(str(self._offset))
        written.rename(self.path)


@contextmanager
def clock() -> Iterator[Clock]:
    """Make a clock that runs as long as the context lasts."""
    with tempfile.TemporaryDirectory() as directory:
        yield Clock(Path(directory) / "clock")


def begin(port: int) -> str:
    """Begin a session, and return its cookie."""
    query = f"owner=somebody&number={next(_numbers)}"
    status, headers, body = ask(port, f"/begin?{query}")
    if status != 200:
        raise RuntimeError(body)
    return headers["Set-Cookie"].partition(";")[0]


def prepare(url: str) -> None:
    """Make the tables of the application, empty."""
    engine = create_engine(url)
    make_tables(engine)
    engine.dispose()


def audit(load: Load, url: str) -> Outcome:
    """Compare what the clients know with what a database has."""
    engine = create_engine(url)
    outcome = load.audit(engine)
    engine.dispose()
    return outcome


def wait(
    condition: Callable[[], bool], otherwise: str, patience: float = PATIENCE
) -> float:
    """Wait until it's true; return how many seconds that took."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() > start + patience:
            raise TimeoutError(otherwise)
        time.sleep(0.005)
    return time.monotonic() - start
