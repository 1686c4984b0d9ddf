"""Seal rows again in small steps, while the application is running."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import (
    LargeBinary,
    bindparam,
    func,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.engine import Connection, Engine

from .collector import connected
from .exceptions import ConfigurationError, InconsistentDataError
from .sealing import DOCUMENTS, HEADER, Seal
from .session_config import SessionConfig
from .turns import skips_locked

__all__ = ["Census", "census_of", "reseal"]

#: How many rows are looked at, and locked, at a time, unless the user says otherwise.
_SIZE = 200
#: How many seconds others get for their turn after a batch.
_PAUSE = 0.01
#: How many rounds are made, for rows that others had locked.
_ROUNDS = 5


class Census(NamedTuple):
    """How many rows the first key hasn't sealed, judged by how their values start.

    ``stale`` is all of them. ``plain`` are those with a value that isn't sealed,
    ``lost`` those with a value sealed by a key that's missing, and ``sealed`` those
    with a value that's sealed by any key.
    """

    stale: int
    plain: int
    lost: int
    sealed: int


def census_of(bind: Engine | Connection, config: SessionConfig) -> Census:
    """Count the rows without opening anything."""
    seal, starts = _seal_of(config), _starts(config)
    # The database can't look into the application's own column types.
    is_ours = all(isinstance(each.type, LargeBinary) for each in starts)
    number = func.count() if is_ours else literal_column("1")
    statement = select(*starts, number).select_from(config.table.mapper.local_table)
    if is_ours:
        statement = statement.group_by(*starts)

    def work(connection: Connection) -> Census:
        stale = plain = lost = sealed = 0
        for *values, rows in connection.execute(statement):
            stale += rows * any(map(seal.is_stale, values))
            plain += rows * any(map(seal.is_plain, values))
            lost += rows * any(map(seal.is_lost, values))
            sealed += rows * any(map(seal.is_sealed, values))
        return Census(stale, plain, lost, sealed)

    with connected(bind) as turn:
        turn.connection.execution_options(yield_per=1_000)
        return turn(work)


def reseal(
    bind: Engine | Connection,
    config: SessionConfig,
    batch_size: int | None = None,
    plain: bool = False,
) -> Iterator[int]:
    """Seal the rows with the first key, or unseal them if ``plain``; yield the numbers.

    What the sessions hold doesn't change, and neither do their versions: a request that
    has read a row before can still write it. A row that a request has written since it
    was read here isn't touched. Rows that can't be opened are left as they are, and so
    are those that others keep locked. Raises ConfigurationError without
    EncryptedDataMixin, or if the application couldn't read what's unsealed.
    """
    size = _SIZE if batch_size is None else batch_size
    work = _Work(config, plain)
    with connected(bind) as turn:
        for _ in range(_ROUNDS):
            low, left = uuid.UUID(int=0), 0
            while rows := turn(work.look, low, size):
                low = rows[-1][0]
                keys = [key for key, *each in rows if any(map(work.is_due, each))]
                number = turn(work.store, keys) if keys else 0
                left += len(keys) - number
                if number:
                    yield number
                    turn.pause(_PAUSE)
            if not left:
                break


class _Work:
    """What is done to the rows of one batch."""

    def __init__(self, config: SessionConfig, plain: bool):
        seal = self._seal = _seal_of(config)
        self._plain = plain
        if plain and not seal.accepts_plain:
            raise ConfigurationError(
                "encrypted_accept_plain must be true before sessions are unsealed:"
                " otherwise the application can't read them"
            )
        self.is_due = seal.is_sealed if plain else seal.is_stale
        columns = config.table.columns
        key, version = columns["id"], columns["version"]
        documents = [columns[name] for name in DOCUMENTS]
        # It isn't a join or a subquery, since the columns were found in it.
        table: Any = config.table.mapper.local_table
        self._find = (
            select(key, *_starts(config))
            .where(key > bindparam("low", type_=key.type))
            .order_by(key)
        )
        self._load = select(key, version, *documents).where(
            key.in_(bindparam("keys", expanding=True, type_=key.type))
        )
        self._store = (
            update(table)
            .where(
                key == bindparam("reseal_id", type_=key.type),
                version == bindparam("reseal_version"),
            )
            .values({each: bindparam(f"reseal_{each.key}") for each in documents})
        )
        self._names = [f"reseal_{each.key}" for each in documents]

    def look(self, connection: Connection, low: uuid.UUID, size: int) -> Any:
        """Return the ids of the next rows, with the first bytes of their values."""
        return connection.execute(self._find.limit(size), {"low": low}).all()

    def store(self, connection: Connection, keys: list[uuid.UUID]) -> int:
        """Seal the rows with these ids again; return how many."""
        load, done = self._load, list[dict[str, Any]]()
        locks = skips_locked(connection.dialect)
        if locks:
            load = load.with_for_update(skip_locked=True)
        for key, version, *values in connection.execute(load, {"keys": keys}).all():
            try:
                anew = map(self._anew, [key] * len(values), DOCUMENTS, values)
                row = dict(zip(self._names, anew, strict=True))
            except InconsistentDataError:
                continue
            done.append({"reseal_id": key, "reseal_version": version, **row})
        if not locks:  # then some may have been written meanwhile: one at a time tells
            return sum(connection.execute(self._store, row).rowcount for row in done)
        if done:
            connection.execute(self._store, done)
        return len(done)

    def _anew(self, key: uuid.UUID, name: str, value: Any) -> Any:
        if not self.is_due(value):
            return value
        plain = self._seal.open(key, name, value)
        return plain if self._plain else self._seal.seal(key, name, plain)


def _seal_of(config: SessionConfig) -> Seal:
    seal = config.table.seal
    if seal is None:
        name = config.table.model_class.__qualname__
        raise ConfigurationError(
            f"the model {name} lacks EncryptedDataMixin: there's nothing to seal"
        )
    return seal


def _starts(config: SessionConfig) -> list[Any]:
    """Return the SQL for the first bytes of the sealed columns, or for all of them."""
    columns = (config.table.columns[name] for name in DOCUMENTS)
    return [
        func.substr(column, text("1"), text(str(HEADER)), type_=LargeBinary())
        if isinstance(column.type, LargeBinary)
        else column
        for column in columns
    ]
