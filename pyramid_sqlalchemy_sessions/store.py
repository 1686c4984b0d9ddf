"""Sessions outside of a request: for workers, scripts, websockets and admin pages."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from pyramid.threadlocal import get_current_registry, get_current_request
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    delete,
    false,
    insert,
    literal,
    null,
    select,
    true,
    update,
)
from sqlalchemy.orm import Session as DBSession
from sqlalchemy.orm import scoped_session

from .after_commit import is_heard, tell
from .collector import delete_expired
from .columns import UNREADABLE, is_unreadable
from .config import SessionConfig
from .cookie import Ticket
from .events import SessionCreatedEvent, SessionEvent, SessionRevokedEvent
from .exceptions import ConfigurationError, InconsistentDataError
from .feature import Verdict
from .features.renewal import judge
from .features.userid import Userid
from .session import Session, SessionFactory
from .settle import born
from .state import State
from .unit import Unit
from .upkeep import expiry_of

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

__all__ = ["AsyncSessionStore", "SessionStore", "StoredSession"]


#: Objects that the dbsession has are left alone.
_BY_ROW = {"synchronize_session": False}


@dataclass(frozen=True)
class StoredSession:
    """What a cookie stands for: a copy, which nobody stores.

    ``created`` is in seconds since the epoch. ``userid`` is None if nobody is logged in
    or the model has no UseridMixin.
    """

    id: uuid.UUID = field(repr=False)
    created: int
    userid: Any
    data: dict[Any, Any] = field(repr=False)


class SessionStore:
    """The sessions of a factory, by their ids, in the transaction of a dbsession.

    Nothing is committed: that is for whoever began the transaction, and a rollback
    takes back all that was done. Each method makes one statement unless it says
    otherwise. In a request that uses its session in the same transaction, both see and
    add to the same values. As in a request, InconsistentDataError is raised for a row
    that contradicts the settings, or that another program has spoilt.

    ``factory`` is what ``get_session_factory`` or ``session_factory_from_settings``
    returns; that of an application is ``registry.queryUtility(ISessionFactory)``.
    Raises ConfigurationError for any other.
    """

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
                f" {type(dbsession).__name__}; for an AsyncSession there is"
                " AsyncSessionStore"
            )
        self._dbsession = dbsession
        self._config = _config_of(factory)

    # One session.

    def get(self, id: uuid.UUID) -> dict[Any, Any] | None:
        """Return a copy of the session's dict, None if it is not there or expired."""
        state = self._load(id)
        return None if state is None else state.data.copy().content

    def create(self, data: Mapping[Any, Any]) -> uuid.UUID:
        """Store a new session with this dict, and return its id.

        Raises TypeError for what cannot be stored, ValueError for what is too large.
        """
        state = State(self._config, None)
        state.data.replace(data)
        row = born(state)
        self._refuse_excess(row)
        self._execute(insert(self._model).values(self._by_column(row)))
        key: uuid.UUID = row["id"]
        self._tell(SessionCreatedEvent, key, row.get("userid"))
        return key

    def set(self, id: uuid.UUID, data: Mapping[Any, Any]) -> None:
        """Replace the session's dict, and let its idle timeout begin anew.

        A request that has loaded the session and writes to it later is refused. Raises
        KeyError if the session is not there or expired, TypeError for what cannot be
        stored, ValueError for what is too large.
        """
        document = State(self._config, None).data
        document.replace(data)
        raw = document.encode()  # before anything is changed: it may raise
        self._refuse_excess({"data": raw})
        known = self._known(id)
        if known is None:
            is_there = self._update(id, raw)
        else:
            is_there = self._replace(known, document.copy().content)
        if not is_there:
            raise KeyError("there is no session with this id")

    def delete(self, id: uuid.UUID) -> bool:
        """End the session; tell whether it was there."""
        if self._known(id) is not None:
            return self._end_known(lambda each: _key_of(each) == id) == 1
        return self._delete(self._columns["id"] == id) == 1

    def open(self, cookie_value: str | bytes | None) -> StoredSession | None:
        """Return the session that the value of a cookie stands for.

        None for everything else: no value, a forged one, one whose session has ended or
        expired, one that a renewal has replaced. Nothing that a browser can send raises
        anything, and what is not authentic makes no statement. The session is neither
        extended nor renewed, and a renewal violation does not end it.
        """
        if not isinstance(cookie_value, (str, bytes)):
            return None
        ticket = self._config.cookie.open(cookie_value)
        if not isinstance(ticket, Ticket):
            return None
        state = self._load(ticket.id)
        if state is None or state.loaded is None:
            return None
        settings, now = state.settings, self._config.clock()
        if judge(state.loaded, settings, ticket, now) is not Verdict.VALID:
            return None
        values = state.values
        return StoredSession(
            ticket.id,
            values["created"],
            values.get("userid"),
            state.data.copy().content,
        )

    # The sessions of a user.

    def of_user(self, userid: Any) -> list[Any]:
        """Return the user's sessions that are alive, as objects of the model.

        The newest is the first. The library's columns are for reading. None is nobody,
        and has no sessions. (OWASP ASVS 5.0, 7.5.2: users can view their sessions.)
        Raises ConfigurationError if the model has no UseridMixin.
        """
        self._require_userid()
        if userid is None:
            return []
        columns = self._columns
        is_users = self._is_unknown() & (columns["userid"] == userid)
        known = [_key_of(each) for each in self._all_known() if _is_of(each, userid)]
        if known:
            is_users |= columns["id"].in_(known)
        statement = (
            select(self._model)
            .where(is_users, ~self.expired)
            .order_by(columns["created"].desc(), columns["id"])
        )
        try:
            return list(self._dbsession.scalars(statement).unique())
        except UNREADABLE as exc:
            if not is_unreadable(exc):
                raise
            # Not chained: some of these errors quote what is in the row.
            raise InconsistentDataError(
                "a stored session of this user cannot be read: was it written by"
                " another program? Correct it, or end the sessions of the user by"
                " revoke_user()"
            ) from None

    def revoke_user(self, userid: Any, keep: Session | uuid.UUID | None = None) -> int:
        """End the sessions of a user; return how many there were.

        ``keep`` is the one that stays: "log out my other devices" is
        ``keep=request.session``, also if that one is new. An id will do as well.
        Whoever has one that was ended is anonymous in the next request. (OWASP ASVS
        5.0, 7.4.3: the option to terminate all other active sessions after a change of
        a password.)

        None is nobody, and has no sessions. Raises ConfigurationError if the model has
        no UseridMixin, ValueError if the session to keep is of another model.
        """
        self._require_userid()
        key = self._key_to_keep(keep)
        if userid is None:
            return 0
        columns = self._columns
        is_meant = columns["userid"] == userid
        if key is not None:
            is_meant &= columns["id"] != key
        return self._end(
            is_meant,
            lambda each: (
                _is_of(each, userid) and (key is None or each.values["id"] != key)
            ),
        )

    # All sessions.

    def delete_all(self) -> int:
        """End all sessions; return how many there were."""
        return self._end(true(), lambda each: True)

    def delete_expired(self, limit: int | None = None) -> int:
        """Delete what has expired, ``limit`` sessions at the most; return how many.

        That takes a few statements: it is what ``pyramid_session_gc`` does, but in this
        one transaction. Rows that somebody else has locked are left for the next time
        where the database can skip them.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"limit must not be negative, and is {limit}")
        connection = self._config.table.connection(self._dbsession)
        number = sum(delete_expired(connection, self._config, limit=limit))
        if number:
            # So that zope.sqlalchemy, which is told of no statement of a connection,
            # commits.
            self._execute(delete(self._model).where(false()))
        return number

    @property
    def expired(self) -> ColumnElement[bool]:
        """The SQL for "this session has expired by now", for queries of your own.

        Timeouts that sessions have of their own count. It is true or false, never NULL.
        """
        return _expired(self._config)

    # How that is done.

    @property
    def _model(self) -> type[Any]:
        return self._config.table.model_class

    @property
    def _columns(self) -> dict[str, Any]:
        return self._config.table.columns

    def _by_column(self, values: Mapping[str, Any]) -> dict[Any, Any]:
        return {self._columns[name]: value for name, value in values.items()}

    def _refuse_excess(self, values: dict[str, Any]) -> None:
        table = self._config.table
        table.refuse_excess(table.connection(self._dbsession), values)

    def _execute(self, statement: Any) -> int:
        """Execute what changes rows; return how many it changed.

        It is a statement of the ORM, because of those zope.sqlalchemy is told.
        """
        result: Any = self._dbsession.execute(statement, execution_options=_BY_ROW)
        number: int = result.rowcount
        return number

    def _rows(self, statement: Any) -> Sequence[Any]:
        return self._dbsession.execute(statement, execution_options=_BY_ROW).all()

    def _load(self, key: uuid.UUID) -> State | None:
        """Return the state of a session that is there and has not expired."""
        state = self._known(key)
        if state is None:
            table = self._config.table
            row = table.load_plain(table.connection(self._dbsession), key, False)
            state = None if row is None else State(self._config, row)
        if state is None or state.loaded is None:
            return None
        row = {**state.loaded, **state.values}
        is_over = expiry_of(self._config, row, self._config.clock())
        return None if is_over else state

    def _update(self, key: uuid.UUID, raw: Any) -> bool:
        """Replace the dict of a row; tell whether it is there and alive."""
        config, columns = self._config, self._columns
        values = {"data": raw, "version": columns["version"] + 1}
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

        If somebody wants to be told of each, that takes a statement more where the
        database does not say what it deletes.
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

    def _require_userid(self) -> None:
        if not self._config.has(Userid):
            raise ConfigurationError(self._config.lacking(Userid))

    def _key_to_keep(self, keep: Session | uuid.UUID | None) -> uuid.UUID | None:
        """Return the id of the session that stays."""
        if keep is None or isinstance(keep, uuid.UUID):
            return keep
        if not isinstance(keep, Session):
            raise TypeError(
                "keep is a session, such as request.session, or the id of one, not"
                f" {type(keep).__name__}"
            )
        if keep.model_class is not self._model:
            raise ValueError(
                f"the session to keep is a {keep.model_class.__qualname__}, and this"
                f" store has sessions of {self._model.__qualname__}"
            )
        return keep.id

    # What a request has changed in the same transaction, and will store at its end.

    def _all_known(self) -> list[State]:
        unit = Unit.around(self._dbsession)
        return [] if unit is None else unit.states_of(self._model)

    def _known(self, key: uuid.UUID) -> State | None:
        """Return the state of a session that is known, also if it was ended."""
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
            # A new one that wasn't changed is not going to be stored anyway.
            if (state.loaded is not None or state.is_used) and is_meant(state):
                number += state.loaded is not None
                self._touch(state)
                state.end(get_current_request(), "store")
        return number


_P = ParamSpec("_P")
_T = TypeVar("_T")


class AsyncSessionStore:
    """A SessionStore over an AsyncSession: the same methods, to be awaited.

    The objects that ``of_user`` returns load nothing later on, as is the way of an
    AsyncSession: what is not there is an error.
    """

    def __init__(
        self,
        dbsession: AsyncSession,
        factory: SessionFactory,
    ):
        if not hasattr(dbsession, "run_sync"):
            raise TypeError(
                "AsyncSessionStore takes an AsyncSession, not"
                f" {type(dbsession).__name__}; for a Session there is SessionStore"
            )
        self._dbsession = dbsession
        self._factory = factory
        self._config = _config_of(factory)

    async def get(self, id: uuid.UUID) -> dict[Any, Any] | None:
        """Return a copy of the session's dict, None if it is not there or expired."""
        return await self._run(SessionStore.get, id)

    async def create(self, data: Mapping[Any, Any]) -> uuid.UUID:
        """Store a new session with this dict, and return its id."""
        return await self._run(SessionStore.create, data)

    async def set(self, id: uuid.UUID, data: Mapping[Any, Any]) -> None:
        """Replace the session's dict, and let its idle timeout begin anew."""
        await self._run(SessionStore.set, id, data)

    async def delete(self, id: uuid.UUID) -> bool:
        """End the session; tell whether it was there."""
        return await self._run(SessionStore.delete, id)

    async def open(self, cookie_value: str | bytes | None) -> StoredSession | None:
        """Return the session that the value of a cookie stands for."""
        return await self._run(SessionStore.open, cookie_value)

    async def of_user(self, userid: Any) -> list[Any]:
        """Return the user's sessions that are alive, as objects of the model."""
        return await self._run(SessionStore.of_user, userid)

    async def revoke_user(
        self, userid: Any, keep: Session | uuid.UUID | None = None
    ) -> int:
        """End the sessions of a user; return how many there were."""
        return await self._run(SessionStore.revoke_user, userid, keep)

    async def delete_all(self) -> int:
        """End all sessions; return how many there were."""
        return await self._run(SessionStore.delete_all)

    async def delete_expired(self, limit: int | None = None) -> int:
        """Delete what has expired, ``limit`` sessions at the most; return how many."""
        return await self._run(SessionStore.delete_expired, limit)

    @property
    def expired(self) -> ColumnElement[bool]:
        """The SQL for "this session has expired by now", for queries of your own."""
        return _expired(self._config)

    async def _run(
        self,
        method: Callable[Concatenate[SessionStore, _P], _T],
        *args: _P.args,
        **kw: _P.kwargs,
    ) -> _T:
        def run(dbsession: DBSession) -> _T:
            return method(SessionStore(dbsession, self._factory), *args, **kw)

        return await self._dbsession.run_sync(run)


def _config_of(factory: SessionFactory) -> SessionConfig:
    if not isinstance(factory, SessionFactory):
        raise ConfigurationError(
            "factory must be a session factory of pyramid_sqlalchemy_sessions, as"
            " get_session_factory() makes it, not"
            f" {type(factory).__name__}"
        )
    return factory.config


def _expired(config: SessionConfig) -> ColumnElement[bool]:
    expired = config.expired(config.clock())
    return false() if expired is None else expired


def _is_of(state: State, userid: Any) -> bool:
    return bool(state.values["userid"] == userid)


def _key_of(state: State) -> uuid.UUID | None:
    return None if state.loaded is None else state.values["id"]


def _keys_of(state: State) -> list[uuid.UUID]:
    """Return the ids of the rows that the state stands for, or has ended."""
    rows = [state.loaded, *(end.row for end in state.ended)]
    return [row["id"] for row in rows if row is not None]


def _was(state: State, key: uuid.UUID) -> bool:
    return key in _keys_of(state)
