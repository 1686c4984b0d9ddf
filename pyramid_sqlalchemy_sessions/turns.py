"""Turns at the database: short transactions, tried again if others are in the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.exc import DBAPIError

from .columns import MYSQL
from .conflicts import is_conflict
from .discretion import hushed

__all__ = ["Turn", "skips_locked"]

#: How many seconds a batch is tried again while others are in its way.
PATIENCE = 60.0

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Turn:
    """Takes a turn at the database: a short transaction, or a part of the caller's."""

    def __init__(self, connection: Connection, is_own: bool):
        self.connection = connection
        self._is_own = is_own

    def __call__(
        self,
        work: Callable[Concatenate[Connection, _P], _T],
        *args: _P.args,
        **kw: _P.kwargs,
    ) -> _T:
        if not self._is_own:
            with hushed():
                return work(self.connection, *args, **kw)
        give_up_at = time.monotonic() + PATIENCE
        while True:
            try:
                with hushed(), self.connection.begin():
                    return work(self.connection, *args, **kw)
            except DBAPIError as exc:
                if not is_conflict(exc) or time.monotonic() > give_up_at:
                    raise
            time.sleep(0.05)

    def pause(self, seconds: float) -> None:
        """Let others have their turn."""
        if self._is_own:
            time.sleep(seconds)


def skips_locked(dialect: Dialect) -> bool:
    """Tell whether the database knows SKIP LOCKED."""
    if dialect.name in MYSQL:
        since = (10, 6) if getattr(dialect, "is_mariadb", False) else (8, 0, 1)
        return (dialect.server_version_info or ()) >= since
    return dialect.name == "postgresql"
