"""The table of a model: its columns, and the statements, built once."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    LargeBinary,
    Select,
    and_,
    bindparam,
    case,
    delete,
    false,
    insert,
    select,
    update,
)
from sqlalchemy import inspect as sqlalchemy_inspect
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Mapper, Session
from sqlalchemy.orm.exc import StaleDataError

from .columns import (
    MYSQL,
    UNREADABLE,
    Limit,
    cannot_be_read,
    check_row,
    is_unreadable,
    limits_of,
    refuse_excess,
    rules_of,
)
from .exceptions import ConfigurationError

__all__ = ["Table"]

DOCUMENTS = ("data", "flash")


class Table:
    """What the library reads from and writes to the table of one model.

    Rows go in and out as plain dicts, from the names of the library's columns to
    their values: no mapped object is made, nor anything of the user's run, unless
    the model declares relationships to be loaded eagerly by a join. Then the
    mapped object is loaded, so that they arrive in the same statement.
    """

    def __init__(
        self,
        model_class: type,
        names: Iterable[str],
        expired: Callable[
            [Mapping[str, Any], ColumnElement[int]], ColumnElement[bool] | None
        ],
    ):
        mapper = _mapper_of(model_class)
        names = tuple(names)
        columns = {name: _column(mapper, name) for name in names}
        self.model_class: type[Any] = model_class
        self.mapper: Mapper[Any] = mapper
        self.scalars: tuple[str, ...] = tuple(
            name for name in names if name not in DOCUMENTS
        )
        self.data_is_json: bool = isinstance(columns["data"].type, JSON)
        if columns["id"].type.python_type is not uuid.UUID:
            raise ConfigurationError(
                f"the column 'id' of the model {model_class.__qualname__} must be of"
                " the type Uuid, as BaseMixin makes it"
            )
        if not (
            self.data_is_json or isinstance(columns["data"].type, LargeBinary)
        ) or not isinstance(columns["flash"].type, JSON):
            raise ConfigurationError(
                f"the model {model_class.__qualname__} must have a binary or JSON"
                " column 'data' and a JSON column 'flash', as BaseMixin makes them"
            )
        self._names = names
        self._rules = rules_of(columns)
        self._limits: dict[str, tuple[Limit, ...]] = {}  # by the name of the dialect
        self._may_conflict: WeakKeyDictionary[Engine, dict[str | None, bool]]
        self._may_conflict = WeakKeyDictionary()
        # Names for parameters that no column of the table has.
        prefix = "_"
        while any(column.key.startswith(prefix) for column in mapper.columns):
            prefix += "_"
        self._id, self._version = prefix + "id", prefix + "version"
        self._expire, self._now = prefix + "expire", prefix + "now"
        self._keys = {name: column.key for name, column in columns.items()}
        self._bind_arguments = {"mapper": mapper}
        # Not a join or a subquery: each column was found in it.
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
        self._select_version = (
            select(columns["version"]).where(is_row).with_for_update(of=table)
        )
        self.columns = columns
        self._is_row = is_row
        self._insert = insert(table)
        self._update = update(table).where(is_same)
        self._delete = delete(table).where(is_same)
        self._delete_violated = delete(table).where(is_row)
        is_expired = expired(columns, bindparam(self._now, type_=BigInteger))
        self._delete_expired = delete(table).where(
            is_row, false() if is_expired is None else is_expired
        )
        if "idle_expire" in columns:
            expire = columns["idle_expire"]
            later = bindparam(self._expire, type_=BigInteger)
            self._extend = (
                update(table)
                .where(is_row & (expire < later))
                .values({expire.key: later})
            )
            self._update_and_extend = self._update.values(
                {expire.key: case((expire > later, expire), else_=later)}
            )

    @cached_property
    def _is_eager(self) -> bool:
        """Whether the model has relationships that are loaded by a join.

        Not asked before the first request: by then all models are defined.
        """
        relationships = self.mapper.relationships
        return any(each.lazy in ("joined", False) for each in relationships)

    def connection(self, dbsession: Session) -> Connection:
        """Return the connection that the dbsession uses for the model."""
        return dbsession.connection(bind_arguments=self._bind_arguments)

    def load(
        self, dbsession: Session, key: uuid.UUID, lock: bool
    ) -> tuple[dict[str, Any] | None, Any]:
        """Return the row with the id ``key``, None if there is none, in one SELECT.

        And the mapped object, if it came along.
        """
        instance = None
        if self._is_eager:
            known = self.mapper.identity_key_from_primary_key((key,))
            instance = dbsession.identity_map.get(known)
        if instance is not None or not self._is_eager:
            # What the database says now, not what an object was a while ago.
            return self.load_plain(self.connection(dbsession), key, lock), instance
        statement = self._select_instance_locked if lock else self._select_instance
        try:
            result = dbsession.execute(statement, {self._id: key})
            instance = result.unique().scalar_one_or_none()
        except UNREADABLE as exc:
            if is_unreadable(exc):
                self._explain(self.connection(dbsession), key)
            raise
        if instance is None:
            return None, None
        values: dict[str, Any] = vars(instance)
        row = {
            name: values[name] if name in values else getattr(instance, name)
            for name in self._names
        }
        check_row(self._rules, row)
        return row, instance

    def load_plain(
        self, connection: Connection, key: uuid.UUID, lock: bool
    ) -> dict[str, Any] | None:
        """Return the row with the id ``key``, None if there is none."""
        statement = self._select_locked if lock else self._select
        try:
            values = connection.execute(statement, {self._id: key}).first()
        except UNREADABLE as exc:
            if is_unreadable(exc):
                self._explain(connection, key)
            raise
        if values is None:
            return None
        row = dict(zip(self._names, values, strict=False))
        check_row(self._rules, row)
        return row

    def _explain(self, connection: Connection, key: uuid.UUID) -> None:
        """Find the column that cannot be read, if it is one of the library's."""
        for rule in self._rules:
            try:
                statement = select(self.columns[rule.name]).where(self._is_row)
                connection.execute(statement, {self._id: key}).first()
            except UNREADABLE:
                # Not chained: some of these errors quote what is in the row.
                raise cannot_be_read(rule.name, rule.type_name) from None

    def refuse_excess(self, connection: Connection, values: dict[str, Any]) -> None:
        """Raise ValueError if a column cannot hold its value."""
        dialect = connection.dialect
        limits = self._limits.get(dialect.name)
        if limits is None:
            limits = self._limits[dialect.name] = limits_of(self.columns, dialect)
        refuse_excess(limits, values, connection)

    def insert(self, connection: Connection, row: dict[str, Any]) -> None:
        """Insert a row. ValueError for what the columns cannot hold."""
        self.refuse_excess(connection, row)
        connection.execute(self._insert, self._by_key(row))

    def update(
        self,
        connection: Connection,
        stored: dict[str, Any],
        changes: dict[str, Any],
        expire: int | None,
    ) -> None:
        """Change and extend a row. StaleDataError unless it is what ``stored`` says.

        ValueError for what the columns cannot hold.
        """
        self.refuse_excess(connection, changes)
        statement = self._update
        parameters = self._by_key(changes)
        parameters[self._id] = stored["id"]
        parameters[self._version] = stored["version"]
        if expire is not None:
            statement = self._update_and_extend
            parameters[self._expire] = expire
        if connection.execute(statement, parameters).rowcount != 1:
            raise StaleDataError(_CONFLICT)

    def delete(self, connection: Connection, stored: dict[str, Any]) -> None:
        """Delete a row. StaleDataError if it is there, but not what ``stored`` says."""
        parameters = {self._id: stored["id"], self._version: stored["version"]}
        if (
            connection.execute(self._delete, parameters).rowcount != 1
            and connection.execute(self._select_version, parameters).first() is not None
        ):
            raise StaleDataError(_CONFLICT)

    def extend(self, connection: Connection, key: uuid.UUID, expire: int) -> bool:
        """Let a row expire later; tell whether that is later, and the row there.

        So ``idle_expire`` never goes back.
        """
        parameters = {self._id: key, self._expire: expire}
        return connection.execute(self._extend, parameters).rowcount == 1

    def change(
        self,
        connection: Connection,
        key: uuid.UUID | None,
        expected: dict[str, Any],
        changes: dict[str, Any],
    ) -> bool:
        """Change a row if it is as expected; tell whether it was."""
        columns = self.columns
        condition = and_(
            self._is_row, *(columns[name] == value for name, value in expected.items())
        )
        statement = update(self._table).where(condition).values(self._by_key(changes))
        return connection.execute(statement, {self._id: key}).rowcount == 1

    def may_conflict(self, connection: Connection) -> bool:
        """Tell whether an UPDATE fails that another transaction made unnecessary.

        That depends on the isolation level of the connection. What an engine does by
        default is asked once.
        """
        if connection.dialect.name == "sqlite":
            # Python's sqlite3 begins no transaction before the first write. One that
            # was begun before the read cannot write after another one has written.
            driver_connection = connection.connection.driver_connection
            return bool(getattr(driver_connection, "in_transaction", False))
        # None: what is the engine's default.
        level = connection.get_execution_options().get("isolation_level")
        known = self._may_conflict.setdefault(connection.engine, {})
        if level not in known:
            known[level] = _may_conflict(
                connection, level or connection.get_isolation_level()
            )
        return known[level]

    def delete_violated(self, connection: Connection, key: uuid.UUID) -> bool:
        """Delete a row, whatever it holds by now; tell whether it was there."""
        return connection.execute(self._delete_violated, {self._id: key}).rowcount == 1

    def delete_expired(self, connection: Connection, key: uuid.UUID, now: int) -> bool:
        """Delete a row if it has expired at the time ``now``; tell whether it had."""
        parameters = {self._id: key, self._now: now}
        return connection.execute(self._delete_expired, parameters).rowcount == 1

    def _by_key(self, values: dict[str, Any]) -> dict[str, Any]:
        keys = self._keys
        return {keys[name]: value for name, value in values.items()}


_CONFLICT = (
    "another request wrote or deleted this session since this one read it; nothing of"
    " this transaction is stored: it can be tried again (see pyramid_retry)"
)


def _may_conflict(connection: Connection, level: str) -> bool:
    if level == "SERIALIZABLE":
        return True
    if connection.dialect.name not in MYSQL:
        return level == "REPEATABLE READ"
    cursor = connection.connection.cursor()
    try:
        cursor.execute(_TROUBLE)
        trouble = {row[0] for row in cursor.fetchall()}
    finally:
        cursor.close()
    # At the other levels, and at this one without that variable (it is on by default
    # from MariaDB 11.6.2), an UPDATE of InnoDB sees what was committed meanwhile. But
    # not what is committed on another node of Galera.
    return "wsrep_on" in trouble or (level == "REPEATABLE READ" and bool(trouble))


_TROUBLE = (
    "SHOW VARIABLES WHERE Value = 'ON'"
    " AND Variable_name IN ('innodb_snapshot_isolation', 'wsrep_on')"
)


def _mapper_of(model_class: type) -> Mapper[Any]:
    try:
        mapper: Mapper[Any] = sqlalchemy_inspect(model_class)
    except NoInspectionAvailable as exc:
        raise ConfigurationError(
            f"model_class: {model_class.__qualname__} is not mapped; valid is a class"
            " that has BaseMixin and a declarative base among its bases, and a"
            " __tablename__"
        ) from exc
    return mapper


def _column(mapper: Mapper[Any], name: str) -> Any:
    column = mapper.columns.get(name)
    if column is None or column.table is not mapper.local_table:
        raise ConfigurationError(
            f"model_class: {mapper.class_.__qualname__} must map {name!r} to a column"
            " of its own table"
        )
    return column
