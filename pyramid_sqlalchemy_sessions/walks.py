"""How a table is walked through for its expired sessions, batch by batch."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Text,
    bindparam,
    cast,
    delete,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.types import UserDefinedType

from .columns import MYSQL
from .conflicts import is_conflict
from .session_config import SessionConfig

__all__ = ["Turn", "Walk", "skips_locked", "walk_of"]

#: For how many seconds a batch is tried again while others are in its way.
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
            return work(self.connection, *args, **kw)
        give_up_at = time.monotonic() + PATIENCE
        while True:
            try:
                with self.connection.begin():
                    return work(self.connection, *args, **kw)
            except DBAPIError as exc:
                if not is_conflict(exc) or time.monotonic() > give_up_at:
                    raise
            time.sleep(0.05)

    def pause(self, seconds: float) -> None:
        """Let others have their turn."""
        if self._is_own:
            time.sleep(seconds)


class Walk:
    """Goes through the table in small steps.

    Each of the chunks that it yields is so small that it can be dealt with in one
    short transaction.
    """

    #: How many rows a batch has unless the user says so.
    size: ClassVar[int]
    #: How long others get between two batches, in seconds.
    pause: ClassVar[float] = 0.0
    #: Whether a chunk may hold more than a batch.
    leaves_some: ClassVar[bool] = False

    def __init__(self, config: SessionConfig, expired: ColumnElement[bool]):
        # Not a join or a subquery: the columns were found in it.
        self.table: Any = config.table.mapper.local_table
        self.expired = expired
        self._number = select(func.count()).select_from(self.table).where(expired)

    def chunks(self, turn: Turn, size: int) -> Iterator[Any]:
        """Yield one part of the table after the other."""
        raise NotImplementedError

    def delete(self, connection: Connection, chunk: Any, wanted: int) -> int:
        """Delete up to ``wanted`` expired rows of the chunk; return how many."""
        raise NotImplementedError

    def count(self, turn: Turn) -> int:
        """Return how many rows have expired."""
        return turn(_scalar, self._number) or 0


def _scalar(connection: Connection, /, statement: Any, **parameters: Any) -> Any:
    return connection.scalar(statement, parameters)


class KeyWalk(Walk):
    """Goes by primary key, in whose order MariaDB and MySQL store a table.

    Finding the keys takes no lock: MariaDB and MySQL would lock, if only for a moment,
    all rows that they look at.
    """

    size = 1_000

    def __init__(
        self,
        config: SessionConfig,
        expired: ColumnElement[bool],
        skips_locked: bool = False,
    ):
        super().__init__(config, expired)
        key: ColumnElement[Any] = config.table.columns["id"]
        is_one = key.in_(bindparam("keys", expanding=True, type_=key.type))
        self._find = (
            select(key)
            .where(key > bindparam("low", type_=key.type), expired)
            .order_by(key)
            .limit(bindparam("size", type_=Integer))
        )
        self._lock = None
        if skips_locked:
            found = select(key).where(is_one, expired)
            self._lock = found.with_for_update(skip_locked=True)
        self._delete = delete(self.table).where(is_one, expired)

    def chunks(self, turn: Turn, size: int) -> Iterator[list[uuid.UUID]]:
        low = uuid.UUID(int=0)
        while keys := turn(_scalars, self._find, low=low, size=size):
            yield keys
            low = keys[-1]

    def delete(self, connection: Connection, chunk: Any, wanted: int) -> int:
        keys = chunk[:wanted]
        if self._lock is not None:
            keys = _scalars(connection, self._lock, keys=keys)
        if not keys:
            return 0
        return connection.execute(self._delete, {"keys": keys}).rowcount


def _scalars(connection: Connection, /, statement: Any, **parameters: Any) -> list[Any]:
    return list(connection.scalars(statement, parameters))


class RowidWalk(Walk):
    """Goes through a table of SQLite row by row, as it is stored.

    SQLite has one lock for the whole database: a batch is short, and after it others
    get the time to take the lock, for which they ask every few milliseconds. Three
    times as many rows deleted a third more in a second, and kept others waiting seven
    times as long (python -m benchmarks.gc).
    """

    size = 2_000
    pause: ClassVar[float] = 0.01

    def __init__(
        self,
        config: SessionConfig,
        expired: ColumnElement[bool],
        place: ColumnElement[int],
    ):
        super().__init__(config, expired)
        low = bindparam("low", type_=BigInteger)
        within = (place > low) & (place <= bindparam("high", type_=BigInteger))
        self._last = (
            select(place)
            .select_from(self.table)
            .where(place > low)
            .order_by(place)
            .offset(bindparam("offset", type_=Integer))
            .limit(1)
        )
        found = (
            select(place)
            .select_from(self.table)
            .where(within, expired)
            .limit(bindparam("wanted", type_=Integer))
            .correlate(None)
        )
        self._delete = delete(self.table).where(place.in_(found), expired)
        self._number_within = self._number.where(within)

    def chunks(self, turn: Turn, size: int) -> Iterator[dict[str, int]]:
        low: int | None = -(2**63)
        while low is not None:
            last: int | None = turn(_scalar, self._last, low=low, offset=size - 1)
            yield {"low": low, "high": 2**63 - 1 if last is None else last}
            low = last

    def delete(self, connection: Connection, chunk: Any, wanted: int) -> int:
        return connection.execute(self._delete, {**chunk, "wanted": wanted}).rowcount

    def count(self, turn: Turn) -> int:
        # Nobody can commit while somebody reads, unless there is a write-ahead log.
        chunks = self.chunks(turn, self.size)
        return sum(turn(_scalar, self._number_within, **chunk) for chunk in chunks)


class _Tid(UserDefinedType[str]):
    cache_ok = True

    def get_col_spec(self, **kw: Any) -> str:
        return "tid"


class CtidWalk(Walk):
    """Goes through a table of PostgreSQL page by page, as it is stored."""

    size = 10_000
    leaves_some = True

    def __init__(
        self, config: SessionConfig, expired: ColumnElement[bool], pages: int
    ) -> None:
        super().__init__(config, expired)
        self._pages = pages
        place = literal_column("ctid", _Tid())
        found = (
            select(place)
            .select_from(self.table)
            .where(
                place >= cast(bindparam("low", type_=Text), _Tid()),
                place < cast(bindparam("high", type_=Text), _Tid()),
                expired,
            )
            .limit(bindparam("wanted", type_=Integer))
            .with_for_update(skip_locked=True)
            .correlate(None)
        )
        # An array, because IN makes a join of it, which takes longer.
        is_found = place == func.any(func.array(found.scalar_subquery()))
        self._delete = delete(self.table).where(is_found, expired)

    def chunks(self, turn: Turn, size: int) -> Iterator[dict[str, str]]:
        # There are seldom more than 32 rows in a page; if so, there are more batches.
        step = max(1, size // 32)
        for page in range(0, self._pages, step):
            yield {"low": f"({page},0)", "high": f"({page + step},0)"}

    def delete(self, connection: Connection, chunk: Any, wanted: int) -> int:
        return connection.execute(self._delete, {**chunk, "wanted": wanted}).rowcount


def walk_of(turn: Turn, config: SessionConfig) -> Walk | None:
    """Return the best walk through the table; None if nothing in it can expire."""
    expired = config.expired(config.clock())
    if expired is None:
        return None
    dialect = turn.connection.dialect
    version = dialect.server_version_info or ()
    table: Any = config.table.mapper.local_table
    if dialect.name == "sqlite":
        place = _rowid_of(table)
        if turn(_has_place, table, place):
            return RowidWalk(config, expired, place)
        return KeyWalk(config, expired)
    if dialect.name == "postgresql":
        # Before 14 it reads the whole table to find a range of pages.
        pages = turn(_pages_of, table) if version >= (14,) else None
        if pages is not None:
            return CtidWalk(config, expired, pages)
    return KeyWalk(config, expired, skips_locked(dialect))


def skips_locked(dialect: Dialect) -> bool:
    """Tell whether the database knows SKIP LOCKED."""
    if dialect.name in MYSQL:
        since = (10, 6) if getattr(dialect, "is_mariadb", False) else (8, 0, 1)
        return (dialect.server_version_info or ()) >= since
    return dialect.name == "postgresql"


def _rowid_of(table: Any) -> ColumnElement[int]:
    """Return the number of the row, by a name that no column has."""
    taken = {column.name.lower() for column in table.columns}
    free = [name for name in ("rowid", "oid", "_rowid_") if name not in taken]
    return literal_column(free[0] if free else "no_rowid", BigInteger)


def _has_place(connection: Connection, table: Any, place: ColumnElement[int]) -> bool:
    try:
        connection.execute(select(place).select_from(table).limit(0))
    except OperationalError:  # it was made WITHOUT ROWID
        return False
    return True


_PAGES = text(
    "SELECT pg_relation_size(oid) / CAST(current_setting('block_size') AS integer)"
    " FROM pg_class WHERE oid = :oid AND relkind = 'r' AND NOT relhassubclass"
    " AND NOT EXISTS (SELECT 1 FROM pg_inherits WHERE inhrelid = pg_class.oid)"
)


def _pages_of(connection: Connection, table: Any) -> int | None:
    """Return how many pages the table has; None if it is in truth several tables."""
    oid = literal_column("tableoid", Integer)
    # By way of a row, so that it does not matter how SQLAlchemy finds the schema.
    parent = connection.scalar(select(oid).select_from(table).limit(1))
    if parent is None:
        return 0
    pages: int | None = connection.scalar(_PAGES, {"oid": parent})
    return pages
