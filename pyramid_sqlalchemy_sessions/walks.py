"""Walk through a table to find its expired sessions, batch by batch."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

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
    null,
    select,
    text,
)
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError
from sqlalchemy.types import UserDefinedType

from .session_config import SessionConfig
from .turns import Turn, skips_locked

__all__ = ["Gone", "Walk", "walk_of"]

#: What's reported of a deleted row: the id, the user's id, and what has ended it.
Gone = Any

_Told = tuple[Any, ...]
_Deleted = tuple[int, Sequence[Gone]]


class Walk:
    """Goes through the table in small steps.

    Each of the chunks that it yields is so small that it can be dealt with in one
    short transaction.
    """

    #: How many rows a batch has unless the user says otherwise.
    size: ClassVar[int]
    #: How long others get between two batches, in seconds.
    pause: ClassVar[float] = 0.0
    #: Whether a chunk may hold more than a batch.
    leaves_some: ClassVar[bool] = False
    #: The statement that deletes.
    _delete: Any

    def __init__(
        self, config: SessionConfig, expired: ColumnElement[bool], told: _Told
    ):
        # It isn't a join or a subquery, since the columns were found in it.
        self.table: Any = config.table.mapper.local_table
        self.expired = expired
        self._told = told
        self._number = select(func.count()).select_from(self.table).where(expired)

    def chunks(self, turn: Turn, size: int) -> Iterator[Any]:
        """Yield one part of the table after another."""
        raise NotImplementedError

    def delete(self, connection: Connection, chunk: Any, wanted: int) -> _Deleted:
        """Delete up to ``wanted`` expired rows of the chunk.

        Returns how many, and what to report of each, if anything.
        """
        raise NotImplementedError

    def _deletion(self, condition: ColumnElement[bool]) -> Any:
        statement = delete(self.table).where(condition, self.expired)
        return statement.returning(*self._told) if self._told else statement

    def _execute(self, connection: Connection, parameters: Any) -> _Deleted:
        result = connection.execute(self._delete, parameters)
        if not self._told:
            return result.rowcount, ()
        gone = result.all()
        return len(gone), gone

    def count(self, turn: Turn) -> int:
        """Return how many rows have expired."""
        return turn(_scalar, self._number) or 0


def _scalar(connection: Connection, /, statement: Any, **parameters: Any) -> Any:
    return connection.scalar(statement, parameters)


class KeyWalk(Walk):
    """Goes by primary key, the order in which MariaDB and MySQL store a table.

    Finding the keys takes no lock: MariaDB and MySQL would lock, if only for a moment,
    all rows that they look at.
    """

    size = 1_000

    def __init__(
        self,
        config: SessionConfig,
        expired: ColumnElement[bool],
        told: _Told,
        skips_locked: bool = False,
    ):
        super().__init__(config, expired, told)
        key: ColumnElement[Any] = config.table.columns["id"]
        is_one = key.in_(bindparam("keys", expanding=True, type_=key.type))
        self._is_one = is_one
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
        self._delete = self._deletion(is_one)

    def chunks(self, turn: Turn, size: int) -> Iterator[list[uuid.UUID]]:
        low = uuid.UUID(int=0)
        while keys := turn(_scalars, self._find, low=low, size=size):
            yield keys
            low = keys[-1]

    def delete(self, connection: Connection, chunk: Any, wanted: int) -> _Deleted:
        keys = chunk[:wanted]
        if self._lock is not None:
            keys = _scalars(connection, self._lock, keys=keys)
        return self._execute(connection, {"keys": keys}) if keys else (0, ())


def _scalars(connection: Connection, /, statement: Any, **parameters: Any) -> list[Any]:
    return list(connection.scalars(statement, parameters))


class LockingWalk(KeyWalk):
    """Looks before it deletes, where a DELETE can't say what it deletes: on MySQL."""

    def __init__(
        self, config: SessionConfig, expired: ColumnElement[bool], told: _Told
    ):
        super().__init__(config, expired, ())
        self._look = select(*told).where(self._is_one, expired).with_for_update()

    def delete(self, connection: Connection, chunk: Any, wanted: int) -> _Deleted:
        gone = connection.execute(self._look, {"keys": chunk[:wanted]}).all()
        keys = [row[0] for row in gone]
        number, _ = super().delete(connection, keys, wanted)
        return number, gone


class RowidWalk(Walk):
    """Goes through a table of SQLite row by row, as it's stored.

    SQLite has one lock for the whole database: a batch is short, and after it others
    get the time to take the lock, which they ask for every few milliseconds. Three
    times as many rows deleted a third more in a second, and kept others waiting seven
    times as long (python -m benchmarks.gc).
    """

    size = 2_000
    pause: ClassVar[float] = 0.01

    def __init__(
        self,
        config: SessionConfig,
        expired: ColumnElement[bool],
        told: _Told,
        place: ColumnElement[int],
    ):
        super().__init__(config, expired, told)
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
        self._delete = self._deletion(place.in_(found))
        self._number_within = self._number.where(within)

    def chunks(self, turn: Turn, size: int) -> Iterator[dict[str, int]]:
        low: int | None = -(2**63)
        while low is not None:
            last: int | None = turn(_scalar, self._last, low=low, offset=size - 1)
            yield {"low": low, "high": 2**63 - 1 if last is None else last}
            low = last

    def delete(self, connection: Connection, chunk: Any, wanted: int) -> _Deleted:
        return self._execute(connection, {**chunk, "wanted": wanted})

    def count(self, turn: Turn) -> int:
        # Without a write-ahead log, reading keeps others from committing.
        chunks = self.chunks(turn, self.size)
        return sum(turn(_scalar, self._number_within, **chunk) for chunk in chunks)


class _Tid(UserDefinedType[str]):
    cache_ok = True

    def get_col_spec(self, **kw: Any) -> str:
        return "tid"


class CtidWalk(Walk):
    """Goes through a table of PostgreSQL page by page, as it's stored."""

    size = 10_000
    leaves_some = True

    def __init__(
        self,
        config: SessionConfig,
        expired: ColumnElement[bool],
        told: _Told,
        pages: int,
    ) -> None:
        super().__init__(config, expired, told)
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
        self._delete = self._deletion(is_found)

    def chunks(self, turn: Turn, size: int) -> Iterator[dict[str, str]]:
        # There are seldom more than 32 rows in a page; if so, there are more batches.
        step = max(1, size // 32)
        for page in range(0, self._pages, step):
            yield {"low": f"({page},0)", "high": f"({page + step},0)"}

    def delete(self, connection: Connection, chunk: Any, wanted: int) -> _Deleted:
        return self._execute(connection, {**chunk, "wanted": wanted})


def walk_of(turn: Turn, config: SessionConfig, tells: bool = False) -> Walk | None:
    """Return the best walk through the table; None if nothing in it can expire.

    ``tells`` says whether each row that's deleted is reported.
    """
    now = config.clock()
    expired = config.expired(now)
    if expired is None:
        return None
    dialect = turn.connection.dialect
    told: _Told = ()
    if tells:
        columns = config.table.columns
        told = (columns["id"], columns.get("userid", null()), config.cause(now))
        if not dialect.delete_returning:
            return LockingWalk(config, expired, told)
    version = dialect.server_version_info or ()
    table: Any = config.table.mapper.local_table
    if dialect.name == "sqlite":
        place = _rowid_of(table)
        if turn(_has_place, table, place):
            return RowidWalk(config, expired, told, place)
        return KeyWalk(config, expired, told)
    if dialect.name == "postgresql":
        # Before 14 it reads the whole table to find a range of pages.
        pages = turn(_pages_of, table) if version >= (14,) else None
        if pages is not None:
            return CtidWalk(config, expired, told, pages)
    return KeyWalk(config, expired, told, skips_locked(dialect))


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
    """Return how many pages the table has, or None if it's really several tables."""
    oid = literal_column("tableoid", Integer)
    # It goes by a row, so that it doesn't matter how SQLAlchemy finds the schema.
    parent = connection.scalar(select(oid).select_from(table).limit(1))
    if parent is None:
        return 0
    pages: int | None = connection.scalar(_PAGES, {"oid": parent})
    return pages
