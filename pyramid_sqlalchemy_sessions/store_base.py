"""How a store reads and writes sessions, by their rows or as a request has them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyramid.threadlocal import get_current_registry, get_current_request
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    String,
    delete,
    false,
    func,
    literal,
    null,
    select,
    true,
    update,
)
from sqlalchemy.orm import Session as DBSession
from sqlalchemy.orm import scoped_session

from .after_commit import is_heard, tell
from .columns import MYSQL
from .comparing import is_exactly, refuse_characters
from .discretion import hushed
from .events import SessionEvent, SessionRevokedEvent
from .exceptions import ConfigurationError
from .features.userid import Userid, userid_for
from .session import Session, SessionFactory
from .session_config import SessionConfig
from .state import State
from .unit import Unit
from .upkeep import expiry_of
from .watch import OF_STORE

__all__ = [
    "StoreBase",
    "check_number",
    "config_of",
    "expired_by_now",
    "is_of",
    "key_of",
    "session_id",
]

#: Objects that the dbsession has are left alone, and so are the states of requests.
_BY_ROW = {"synchronize_session": False, OF_STORE: True}


class StoreBase:
    """The sessions of a factory, in the transaction of a dbsession."""

    def __init__(
        self,
        dbsession: DBSession | scoped_session[DBSession],
        factory: SessionFactory,
    ):
        if isinstance(dbsession, scoped_session):
            dbsession = dbsession()
        if not isinstance(dbsession, DBSession):
            raise TypeError(
                "SessionStore takes an SQLAlchemy Session, not"
                f" {type(dbsession).__name__}; for an AsyncSession, use"
                " AsyncSessionStore"
            )
        self._dbsession = dbsession
        self._config = config_of(factory)

    @property
    def expired(self) -> ColumnElement[bool]:
        """The SQL for "this session has expired by now", for queries of your own.

        Sessions' own timeouts count, too. It's true or false, never NULL.
        """
        return expired_by_now(self._config)

    @property
    def _model(self) -> type[Any]:
        return self._config.table.model_class

    @property
    def _columns(self) -> dict[str, Any]:
        return self._config.table.columns

    def _by_column(self, values: Mapping[str, Any]) -> dict[Any, Any]:
        return {self._columns[name]: value for name, value in values.items()}

    def _as_stored(self, key: uuid.UUID, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values as the row holds them. ValueError for what's too large."""
        table = self._config.table
        stored = table.as_stored(key, values)
        table.refuse_excess(table.connection(self._dbsession), stored)
        return stored

    def _execute(self, statement: Any) -> int:
        """Execute a statement that changes rows; return how many it changed.

        It's a statement of the ORM, because zope.sqlalchemy notices those.
        """
        with hushed():
            result: Any = self._dbsession.execute(statement, execution_options=_BY_ROW)
        number: int = result.rowcount
        return number

    def _rows(self, statement: Any) -> Sequence[Any]:
        with hushed():
            return self._dbsession.execute(statement, execution_options=_BY_ROW).all()

    def _objects(self, statement: Any) -> list[Any]:
        with hushed():
            return list(self._dbsession.scalars(statement).unique())

    def _load(self, key: uuid.UUID) -> State | None:
        """Return the state of a session that exists and hasn't expired."""
        state = self._known(key)
        if state is None:
            table = self._config.table
            row = table.load_plain(table.connection(self._dbsession), key, False)
            state = None if row is None else State(self._config, row)
        if state is None or state.loaded is None:
            return None
        return state if self._is_alive(state) else None

    def _update(self, key: uuid.UUID, stored: Mapping[str, Any]) -> bool:
        """Replace the dict of a row; tell whether it exists and hasn't expired."""
        config, columns = self._config, self._columns
        values = {**stored, "version": columns["version"] + 1}
        now = literal(config.clock(), BigInteger)
        for feature in config.features:
            values.update(feature.extended(columns, config.settings, now))
        statement = update(self._model).where(columns["id"] == key, ~self.expired)
        return self._execute(statement.values(self._by_column(values))) == 1

    def _end(
        self, condition: ColumnElement[bool], is_meant: Callable[[State], bool]
    ) -> int:
        """End sessions, those of a request by their states, all others by their rows.

        Returns how many there were.
        """
        return self._delete(condition & self._is_unknown()) + self._end_known(is_meant)

    def _delete(self, condition: ColumnElement[bool]) -> int:
        """End sessions by their rows; return how many there were.

        If there are subscribers, that takes one more statement on a database that
        doesn't say what it deletes.
        """
        statement = delete(self._model).where(condition)
        if not is_heard(get_current_registry(), SessionRevokedEvent):
            return self._execute(statement)
        key, userid = self._columns["id"], self._columns.get("userid", null())
        connection = self._config.table.connection(self._dbsession)
        if connection.dialect.delete_returning:
            rows = self._rows(statement.returning(key, userid))
        else:
            rows = self._rows(select(key, userid).where(condition).with_for_update())
            keys = [row[0] for row in rows]
            self._execute(delete(self._model).where(key.in_(keys)))
        for ended in rows:
            self._tell(SessionRevokedEvent, *ended)
        return len(rows)

    def _tell(self, kind: type[SessionEvent], key: uuid.UUID, userid: Any) -> None:
        """Send an event after the commit."""
        fingerprint = self._config.cookie.fingerprint(key)
        told = kind(get_current_request(), fingerprint, userid, "store")
        tell(self._dbsession, get_current_registry(), told)

    def _userid_for(self, userid: Any) -> Any:
        """Return the id of a user as the column holds it; None if it can't hold it."""
        if not self._config.has(Userid):
            raise ConfigurationError(self._config.lacking(Userid))
        table = self._config.table
        userid = userid_for(table, userid, lambda: self._dbsession)
        connection = table.connection(self._dbsession)
        try:
            table.refuse_excess(connection, {"userid": userid})
            refuse_characters(self._columns["userid"], userid, connection)
        except ValueError:
            return None
        return userid

    def _is_users(self, userid: Any) -> ColumnElement[bool]:
        """Return the SQL for "of exactly this user", whatever the collation."""
        column = self._columns["userid"]
        is_users: ColumnElement[bool] = column == userid
        if not isinstance(userid, str) or not isinstance(column.type, String):
            return is_users
        # Not as the only condition: it may not be able to use an index.
        dialect = self._config.table.connection(self._dbsession).dialect
        return is_users & is_exactly(column, userid, dialect.name)

    def _key_to_keep(self, keep: Session | uuid.UUID | str | None) -> uuid.UUID | None:
        """Return the id of the session that stays."""
        if keep is None:
            return None
        key = session_id(keep)
        if key is not None:
            return key
        if not isinstance(keep, Session):
            raise TypeError(
                "keep must be a session, such as request.session, or an id, not"
                f" {type(keep).__name__}"
            )
        if keep.model_class is not self._model:
            raise ValueError(
                f"the session to keep is a {keep.model_class.__qualname__}, but this"
                f" store has sessions of {self._model.__qualname__}"
            )
        return keep.id

    def _beyond(
        self, most: int, userid: Any, keep: uuid.UUID | None
    ) -> tuple[list[uuid.UUID], list[State]]:
        """Return the oldest sessions of a user beyond a number: ids, and states."""
        columns = self._columns
        age = func.coalesce(columns["authenticated"], columns["created"])
        statement = select(columns["id"], age).where(
            self._is_unknown() & self._is_users(userid), ~self.expired
        )
        if self._config.table.connection(self._dbsession).dialect.name in MYSQL:
            # A transaction that has read before would see what was there at that time.
            statement = statement.with_for_update()
        # Among those of the same age, the ones of this transaction come last.
        found: list[tuple[int, bool, uuid.UUID, State | None]] = [
            (begun, False, key, None) for key, begun in self._rows(statement)
        ]
        for state in self._all_known():
            if is_of(state, userid) and self._is_alive(state):
                begun = state.values["authenticated"] or state.values["created"]
                found.append((begun, True, state.id, state))
        if keep is not None:
            most -= 1
            found = [each for each in found if each[2] != keep]
        found.sort(key=lambda each: each[:3])
        over = found[: max(0, len(found) - most)]
        return (
            [key for _, _, key, state in over if state is None],
            [state for _, _, _, state in over if state is not None],
        )

    def _is_alive(self, state: State) -> bool:
        """Tell whether the session is stored, or going to be, and hasn't expired."""
        if state.loaded is None:
            return state.is_stored
        row = {**state.loaded, **state.values}
        return not expiry_of(self._config, row, self._config.clock())

    # What a request has changed in the same transaction, and will store at its end.

    def _all_known(self) -> list[State]:
        unit = Unit.around(self._dbsession)
        return [] if unit is None else unit.states_of(self._model)

    def _known(self, key: uuid.UUID) -> State | None:
        """Return the state of a session that's known, even if it has ended."""
        return next((each for each in self._all_known() if _was(each, key)), None)

    def _is_unknown(self) -> ColumnElement[bool]:
        keys = [key for each in self._all_known() for key in _keys_of(each)]
        return self._columns["id"].not_in(keys) if keys else true()

    def _touch(self, known: State) -> None:
        unit = Unit.around(self._dbsession)
        assert unit is not None
        unit.touch(known, self._dbsession)
        known.is_used = True

    def _replace(self, known: State, data: Mapping[Any, Any]) -> bool:
        """Replace the dict of a state; tell whether it's alive."""
        if self._load(known.values["id"]) is None:
            return False
        self._touch(known)
        known.data.replace(data)
        known.is_forced = True
        return True

    def _end_known(self, is_meant: Callable[[State], bool]) -> int:
        """End sessions by their states; return how many have a row."""
        number = 0
        for state in self._all_known():
            # A new one that wasn't changed isn't going to be stored anyway.
            if (state.loaded is not None or state.is_used) and is_meant(state):
                number += state.loaded is not None
                self._touch(state)
                state.end(get_current_request(), "store")
        return number


def check_number(most: Any) -> None:
    if not isinstance(most, int) or isinstance(most, bool):
        raise TypeError(f"most must be an int, not {type(most).__name__}")
    if most < 1:
        raise ValueError(f"most must be at least 1, but is {most}")


def config_of(factory: SessionFactory) -> SessionConfig:
    if not isinstance(factory, SessionFactory):
        raise ConfigurationError(
            "factory must be a session factory of pyramid_sqlalchemy_sessions, as"
            " get_session_factory() makes it, not"
            f" {type(factory).__name__}"
        )
    return factory.config


def expired_by_now(config: SessionConfig) -> ColumnElement[bool]:
    expired = config.expired(config.clock())
    return false() if expired is None else expired


def session_id(given: Any) -> uuid.UUID | None:
    """Return the id that was given, as a UUID or as its text, None if it's neither."""
    if isinstance(given, uuid.UUID):
        return given
    try:
        return uuid.UUID(given)
    except (AttributeError, TypeError, ValueError):
        return None


def is_of(state: State, userid: Any) -> bool:
    return bool(state.values["userid"] == userid)


def key_of(state: State) -> uuid.UUID | None:
    return None if state.loaded is None else state.values["id"]


def _keys_of(state: State) -> list[uuid.UUID]:
    """Return the ids of the rows that the state stands for, or has ended."""
    rows = [state.loaded, *(end.row for end in state.ended)]
    return [row["id"] for row in rows if row is not None]


def _was(state: State, key: uuid.UUID) -> bool:
    return key in _keys_of(state)
