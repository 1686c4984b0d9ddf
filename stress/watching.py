"""Watches what happens in a request: commits, lines of the log, and errors."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

#: How much of a traceback is shown.
FRAMES = 15

#: The request of the thread: its ``op``.
watching = threading.local()


class _Log(logging.Handler):
    """Adds what is logged to the request that it's logged in."""

    def emit(self, record: logging.LogRecord) -> None:
        op = getattr(watching, "op", None)
        if op is not None:
            lines = op.logged if record.levelno >= logging.ERROR else op.told
            lines.append(record.getMessage().splitlines()[0][:300])


@contextmanager
def watched_log() -> Iterator[None]:
    """Note what the library logs, from INFO on."""
    log = logging.getLogger("pyramid_sqlalchemy_sessions")
    listener, level = _Log(logging.INFO), log.level
    log.addHandler(listener)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(listener)
        log.setLevel(level)


def watch_commits(engine: Engine) -> None:
    """Note when commits of writes begin."""
    event.listen(engine, "begin", _begins)
    event.listen(engine, "before_cursor_execute", _executes)
    event.listen(engine, "commit", _commits)


def _begins(connection: Any) -> None:
    watching.has_written = False


def _executes(connection: Any, cursor: Any, statement: str, *more: Any) -> None:
    if statement.lstrip()[:6].upper() in ("INSERT", "UPDATE", "DELETE"):
        watching.has_written = True


def _commits(connection: Any) -> None:
    op = getattr(watching, "op", None)
    if op is not None and getattr(watching, "has_written", False):
        op.commits.append(time.monotonic())
    watching.has_written = False


def trace_of(exc: BaseException | None) -> Iterator[str]:
    """Return where an error came from, and its causes."""
    while exc is not None:
        yield f"{type(exc).__name__}: {str(exc)[:100]}"
        for frame in traceback.extract_tb(exc.__traceback__)[-FRAMES:]:
            yield f"  {Path(frame.filename).name}:{frame.lineno} {frame.name}"
        exc = exc.__cause__ or exc.__context__
