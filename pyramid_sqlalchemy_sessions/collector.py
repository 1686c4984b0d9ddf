"""Delete the sessions that have expired, in small steps, beside all others."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.engine import Connection, Engine

from .session_config import SessionConfig
from .walks import Turn, walk_of

__all__ = ["can_expire", "connected", "count_expired", "delete_expired"]


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
) -> Iterator[int]:
    """Delete the sessions that have expired by now; yield the number of each batch.

    On an engine each batch has a transaction of its own, at READ COMMITTED where the
    database has that level, and is tried again for a minute while others are in its
    way. On a connection all happens in the caller's transaction.

    ``batch_size`` is the most that a batch deletes, by default what is best for the
    database; ``limit`` is the most that all batches delete. A row that somebody else
    has locked is left for the next time where the database can skip it.
    """
    with connected(bind) as turn:
        walk = walk_of(turn, config)
        if walk is None:
            return
        size = walk.size if batch_size is None else batch_size
        left = sys.maxsize if limit is None else limit
        for chunk in walk.chunks(turn, size):
            while wanted := min(size, left):
                number = turn(walk.delete, chunk, wanted)
                left -= number
                if number:
                    yield number
                    turn.pause(walk.pause)
                if number < wanted or not walk.leaves_some:
                    break
            else:
                return


@contextmanager
def connected(bind: Engine | Connection) -> Generator[Turn]:
    """Connect for transactions of one's own, or take part in the caller's."""
    if isinstance(bind, Connection):
        yield Turn(bind, False)
        return
    with bind.connect() as connection:
        raw: Any = connection.connection.dbapi_connection
        # Where a conflict would be an error, or what another transaction has
        # extended meanwhile would still look expired.
        level = "READ COMMITTED"
        if level in connection.dialect.get_isolation_level_values(raw):
            connection = connection.execution_options(isolation_level=level)
        yield Turn(connection, True)
