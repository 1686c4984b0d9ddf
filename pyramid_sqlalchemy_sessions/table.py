"""The table of a model: its columns, and the statements, built once."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    and_,
    bindparam,
    case,
    delete,
    false,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.orm import Mapper, Session

from .codec import JSON_CODEC, JSON_TEXT_CODEC, PICKLE_CODEC, Codec
from .columns import (
    MYSQL,
    Limit,
    cannot_be_read,
    check_row,
    is_unreadable,
    limits_of,
    refuse_excess,
    refuse_packet,
    rules_of,
)
from .discretion import hush, run
from .exceptions import ConfigurationError
from .feature import Due
from .mapping import column_of, mapper_of, python_type, refuse_json
from .sealing import DOCUMENTS, Seal

__all__ = ["Row", "Table"]

#: The library's columns of one row, by name.
Row = dict[str, Any]


class Table:
    """What the library reads from and writes to the table of one model.

    Rows go in and out as plain dicts, from the names of the library's columns to
    their values: no mapped object is made, and no code of the user's runs, unless the
    model has relationships that are loaded eagerly by a join. Then the mapped object is
    loaded, so that they arrive in the same statement.
    """

    def __init__(
        self,
        model_class: type,
        names: Iterable[str],
        data_is_json: bool,
        seal: Seal | None,
        expired: Callable[
            [Mapping[str, Any], ColumnElement[int]], ColumnElement[bool] | None
        ],
    ):
        mapper = mapper_of(model_class)
        names = tuple(names)
        columns = {name: column_of(mapper, name) for name in names}
        self.model_class: type[Any] = model_class
        self.mapper: Mapper[Any] = mapper
        self.scalars: tuple[str, ...] = tuple(
            name for name in names if name not in DOCUMENTS
        )
        if python_type(columns["id"]) is not uuid.UUID:
            raise ConfigurationError(
                f"the column 'id' of the model {model_class.__qualname__} must be of"
                " the type Uuid, as BaseMixin makes it"
            )
        self.seal: Seal | None = seal
        json_codec = JSON_CODEC if seal is None else JSON_TEXT_CODEC
        self.codec: Codec = json_codec if data_is_json else PICKLE_CODEC
        if seal is not None:
            for name in DOCUMENTS:
                remedy = "with EncryptedDataMixin it holds bytes, as LargeBinary does"
                refuse_json(model_class, columns[name], remedy)
        elif not data_is_json:
            remedy = "the model must have JSONDataMixin among its bases"
            refuse_json(model_class, columns["data"], remedy)
        self._names = names
        self._rules = rules_of(columns)
        self._limits: dict[str, tuple[Limit, ...]] = {}  # by the name of the dialect
        # Names for parameters that no column of the table has.
        prefix = "_"
        while any(column.key.startswith(prefix) for column in mapper.columns):
            prefix += "_"
        self._id, self._version = prefix + "id", prefix + "version"
        self._expire, self._now = prefix + "expire", prefix + "now"
        self._timeout = prefix + "timeout"
        self._keys = {name: column.key for name, column in columns.items()}
        # It isn't a join or a subquery, since each column was found in it.
        table: Any = mapper.local_table
        self._table = table
        is_row = columns["id"] == bindparam(self._id, type_=columns["id"].type)
        is_same = is_row & (columns["version"] == bindparam(self._version))
        self._select = select(*columns.values()).where(is_row)
        self._select_instance: Select[Any] = (
            select(model_class).where(is_row).execution_options(autoflush=False)
        )
        self._select_instance_locked: Select[Any] = (
            self._select_instance.with_for_update(of=model_class)
        )
        self._select_locked = self._select.with_for_update(of=table)
        version = columns["version"]
        # SQLite has no FOR UPDATE. But if a transaction's first statement writes, it
        # waits for others instead of failing.
        self._take_write_lock = (
            update(table).where(is_row).values({version.key: version})
        )
        self.columns = columns
        self._is_row = is_row
        self._for_reading: dict[str, Any] = {"mapper": mapper, "clause": self._select}
        self._insert = insert(table)
        self._update = update(table).where(is_same)
        self._for_writing: dict[str, Any] = {"mapper": mapper, "clause": self._update}
        self._delete = delete(table).where(is_row)
        is_expired = expired(columns, bindparam(self._now, type_=BigInteger))
        self._delete_expired = delete(table).where(
            is_row, false() if is_expired is None else is_expired
        )
        if "idle_expire" in columns:
            expire = columns["idle_expire"]
            later = bindparam(self._expire, type_=BigInteger)
            is_earlier = is_row & or_(expire < later, expire.is_(None))
            if "idle_timeout" in columns:
                is_earlier &= columns["idle_timeout"] == bindparam(self._timeout)
            self._extend = update(table).where(is_earlier).values({expire.key: later})
            self._extended = {expire.key: case((expire > later, expire), else_=later)}
            self._update_and_extend = self._update.values(self._extended)

    @cached_property
    def _is_eager(self) -> bool:
        """Whether the model has relationships that are loaded by a join.

        That's not asked before the first request: by then, all models are defined.
        """
        relationships = self.mapper.relationships
        return any(each.lazy in ("joined", False) for each in relationships)

    def connection(
        self,
        dbsession: Session,
        *,
        writes: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> Connection:
        """Return the connection that the dbsession uses for the model.

        If it ``writes``, a dbsession that routes by the statement, as in SQLAlchemy's
        documentation, is shown an UPDATE, even before an INSERT. ``options`` are for a
        connection that the dbsession doesn't have yet.
        """
        arguments = self._for_writing if writes else self._for_reading
        if options:
            known = dbsession.get_bind(**arguments).get_execution_options()
            options = {n: v for n, v in options.items() if known.get(n) != v}
        return dbsession.connection(
            bind_arguments=arguments, execution_options=options or None
        )

    def dialect(self, dbsession: Session) -> Dialect:
        """Return the dialect of the database, without a connection to it."""
        return dbsession.get_bind(**self._for_reading).dialect

    def writes_elsewhere(self, dbsession: Session) -> bool:
        """Tell whether the dbsession writes to another database than it reads from."""
        bind = dbsession.get_bind(**self._for_writing)
        engine = bind if isinstance(bind, Engine) else bind.engine
        return self.connection(dbsession).engine is not engine

    def load(
        self,
        dbsession: Session,
        connection: Connection,
        key: uuid.UUID,
        lock: bool,
    ) -> tuple[Row | None, Any]:
        """Return the row with the id ``key`` in one SELECT, or None if there is none.

        The mapped object is also returned if it's there already, or came along. With
        ``lock``, for an attempt after a conflict, others wait until this transaction
        ends.
        """
        if lock and connection.dialect.name == "sqlite":
            run(connection, self._take_write_lock, {self._id: key})
        known = None
        if self._is_eager:
            identity = self.mapper.identity_key_from_primary_key((key,))
            known = dbsession.identity_map.get(identity)
        if known is not None or not self._is_eager:
            # What the database holds now, not what an object held a while ago.
            return self.load_plain(connection, key, lock), known
        statement = self._select_instance_locked if lock else self._select_instance
        try:
            result = dbsession.execute(statement, {self._id: key})
            instance = result.unique().scalar_one_or_none()
        except Exception as exc:
            hush(exc)
            if is_unreadable(exc):
                self._explain(connection, key)
            raise
        if instance is None:
            return None, None
        values: dict[str, Any] = vars(instance)
        row = {
            name: values[name] if name in values else getattr(instance, name)
            for name in self._names
        }
        return self._checked(row), instance

    def load_plain(
        self, connection: Connection, key: uuid.UUID, lock: bool
    ) -> Row | None:
        """Return the row with the id ``key``, None if there is none."""
        statement = self._select_locked if lock else self._select
        try:
            values = run(connection, statement, {self._id: key}).first()
        except Exception as exc:
            if is_unreadable(exc):
                self._explain(connection, key)
            raise
        if values is None:
            return None
        row = dict(zip(self._names, values, strict=False))
        return self._checked(row)

    def _checked(self, row: Row) -> Row:
        """Return a row that was read, or raise if it holds something impossible."""
        check_row(self._rules, row)
        return row if self.seal is None else self.seal.unopened(row)

    def as_stored(self, key: uuid.UUID, values: Row) -> Row:
        """Return values as the row with the id ``key`` holds them, perhaps sealed."""
        return values if self.seal is None else self.seal.sealed(key, values)

    def _explain(self, connection: Connection, key: uuid.UUID) -> None:
        """Find the column that can't be read, if it's one of the library's."""
        for rule in self._rules:
            try:
                statement = select(self.columns[rule.name]).where(self._is_row)
                run(connection, statement, {self._id: key}).first()
            except Exception:
                # Not chained: some of these errors quote what is in the row.
                raise cannot_be_read(rule.name, rule.type_name) from None

    def refuse_excess(self, connection: Connection, values: dict[str, Any]) -> None:
        """Raise ValueError if a column can't hold its value."""
        dialect = connection.dialect
        limits = self._limits.get(dialect.name)
        if limits is None:
            limits = self._limits[dialect.name] = limits_of(self.columns, dialect)
        refuse_excess(limits, values)
        if dialect.name in MYSQL:
            refuse_packet(self.columns, values, connection)

    def insert(self, connection: Connection, row: Row) -> None:
        """Insert a row. Raises ValueError for what the columns can't hold."""
        row = self.as_stored(row["id"], row)
        self.refuse_excess(connection, row)
        run(connection, self._insert, self._by_key(row))

    def update(
        self,
        connection: Connection,
        stored: Row,
        changes: dict[str, Any],
        extend_to: int | None,
        is_as_it_is: bool = False,
    ) -> bool:
        """Change and extend a row; tell whether it had the version that was loaded.

        If the cookie ``is_as_it_is``, the renewal ids must be the same, too. Raises
        ValueError for what the columns can't hold.
        """
        changes = self.as_stored(stored["id"], changes)
        self.refuse_excess(connection, changes)
        parameters = {self._id: stored["id"], self._version: stored["version"]}
        statement = self._update
        if "rotated_from" in changes:
            # This is what the database has now: a renewal may have replaced what was
            # loaded. MariaDB assigns from left to right.
            columns = self.columns
            now = [(columns["rotated_from"], columns["renewal_id"])]
            statement = statement.ordered_values(
                *now,
                *((columns[n], v) for n, v in changes.items() if n != "rotated_from"),
                *(self._extended.items() if extend_to is not None else ()),
            )
        else:
            if extend_to is not None:
                statement = self._update_and_extend
            parameters.update(self._by_key(changes))
        if is_as_it_is:
            for name in ("renewal_id", "renewal_next"):
                if name in stored:
                    statement = statement.where(self.columns[name] == stored[name])
        if extend_to is not None:
            parameters[self._expire] = extend_to
        return run(connection, statement, parameters).rowcount == 1

    def delete(self, connection: Connection, key: uuid.UUID) -> bool:
        """Delete a row, whatever it holds by now; tell whether it was there."""
        return run(connection, self._delete, {self._id: key}).rowcount == 1

    def keep_up(self, connection: Connection, key: uuid.UUID, due: Due) -> bool:
        """Do what's due unless another request has done it; tell whether this did.

        ``idle_expire`` never goes back.
        """
        parameters: dict[str, Any] = {self._id: key}
        if due.extend_to is not None:
            parameters[self._expire] = due.extend_to
        if not due.changes and due.guard.keys() <= {"idle_timeout"}:  # built once
            if due.guard:
                parameters[self._timeout] = due.guard["idle_timeout"]
            return run(connection, self._extend, parameters).rowcount == 1
        columns = self.columns
        values = self._by_key(due.changes)
        if due.extend_to is not None:
            values.update(self._extended)
        condition = and_(
            self._is_row, *(columns[name] == value for name, value in due.guard.items())
        )
        statement = update(self._table).where(condition).values(values)
        return run(connection, statement, parameters).rowcount == 1

    def delete_expired(self, connection: Connection, key: uuid.UUID, now: int) -> bool:
        """Delete a row if it has expired at the time ``now``; tell whether it had."""
        parameters = {self._id: key, self._now: now}
        return run(connection, self._delete_expired, parameters).rowcount == 1

    def _by_key(self, values: dict[str, Any]) -> dict[str, Any]:
        keys = self._keys
        return {keys[name]: value for name, value in values.items()}
