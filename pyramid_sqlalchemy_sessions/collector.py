"""Delete expired sessions in small steps, while others are in use."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from pyramid.threadlocal import get_current_registry, get_current_request
from sqlalchemy.engine import Connection, Engine

from .after_commit import is_heard
from .events import SessionExpiredEvent, SessionsCollectedEvent
from .session_config import SessionConfig
from .turns import Turn
from .walks import Gone, walk_of

__all__ = ["Report", "can_expire", "connected", "count_expired", "delete_expired"]


class Report:
    """Tells the subscribers of the application what was collected."""

    def __init__(self, config: SessionConfig, send: Callable[[Any, Any], None]):
        self._config = config
        registry = get_current_registry()
        self._send = partial(send, registry)
        self._tells_each = is_heard(registry, SessionExpiredEvent)
        self._counts: Counter[str] = Counter()

    @classmethod
    def wanted(
        cls, config: SessionConfig, send: Callable[[Any, Any], None]
    ) -> Report | None:
        """Return a report, or None if there are no subscribers.

        ``send`` gets the registry and an event.
        """
        registry = get_current_registry()
        kinds = (SessionExpiredEvent, SessionsCollectedEvent)
        wanted = any(is_heard(registry, kind) for kind in kinds)
        return cls(config, send) if wanted else None

    def add(self, gone: Sequence[Gone]) -> None:
        """Count the sessions, and send an event for each if there are subscribers."""
        request = get_current_request()
        for key, userid, cause in gone:
            self._counts[cause] += 1
            if self._tells_each:
                fingerprint = self._config.cookie.fingerprint(key)
                self._send(SessionExpiredEvent(request, fingerprint, userid, cause))

    def end(self) -> None:
        """Send the numbers, if there were any sessions."""
        if self._counts:
            counts = dict(self._counts)
            self._send(SessionsCollectedEvent(get_current_request(), counts))


def can_expire(config: SessionConfig) -> bool:
    """Tell whether there is any timeout that ends sessions."""
    return config.expired(0) is not None


def count_expired(bind: Engine | Connection, config: SessionConfig) -> int:
    """Return how many sessions have expired by now."""
    with connected(bind) as turn:
        walk = walk_of(turn, config)
        return 0 if walk is None else walk.count(turn)


def delete_expired(
    bind: Engine | Connection,
    config: SessionConfig,
    batch_size: int | None = None,
    limit: int | None = None,
    report: Report | None = None,
) -> Iterator[int]:
    """Delete the sessions that have expired by now; yield the number of each batch.

    On an engine each batch has a transaction of its own, at READ COMMITTED where the
    database has that level, and is tried again for a minute while other transactions
    are in its way. On a connection, everything happens in the caller's transaction.

    ``batch_size`` is the most that a batch deletes, by default what's best for the
    database; ``limit`` is the most that all batches delete. If the database can skip
    rows that are locked, they're left for the next time. ``report`` is told of each
    batch.
    """
    try:
        yield from _batches(bind, config, batch_size, limit, report)
    finally:
        if report is not None:
            report.end()


def _batches(
    bind: Engine | Connection,
    config: SessionConfig,
    batch_size: int | None,
    limit: int | None,
    report: Report | None,
) -> Iterator[int]:
    with connected(bind) as turn:
        walk = walk_of(turn, config, report is not None)
        if walk is None:
            return
        size = walk.size if batch_size is None else batch_size
        left = sys.maxsize if limit is None else limit
        for chunk in walk.chunks(turn, size):
            while wanted := min(size, left):
                number, gone = turn(walk.delete, chunk, wanted)
                left -= number
                if number:
                    if report is not None:
                        report.add(gone)
                    yield number
                    turn.pause(walk.pause)
                if number < wanted or not walk.leaves_some:
                    break
            else:
                return


@contextmanager
def connected(bind: Engine | Connection) -> Generator[Turn]:
    """Connect to an engine, or take part in a connection's transaction."""
    if isinstance(bind, Connection):
        yield Turn(bind, False)
        return
    with bind.connect() as connection:
        raw: Any = connection.connection.dbapi_connection
        # At higher levels a conflict would be an error, or a session that another
        # transaction has just extended would still look expired.
        level = "READ COMMITTED"
        if level in connection.dialect.get_isolation_level_values(raw):
            connection = connection.execution_options(isolation_level=level)
        yield Turn(connection, True)
