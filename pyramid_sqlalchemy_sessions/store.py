"""Sessions outside of a request: for workers, scripts, websockets and admin pages."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import ColumnElement, delete, false, insert, select, true
from sqlalchemy.orm import Session as DBSession

from .after_commit import tell
from .collector import Report, delete_expired
from .columns import is_unreadable
from .cookie import Ticket
from .events import SessionCreatedEvent
from .exceptions import InconsistentDataError
from .feature import Verdict
from .features.renewal import judge
from .session import Session, SessionFactory
from .settle import born
from .state import State
from .store_base import (
    StoreBase,
    check_number,
    config_of,
    expired_by_now,
    is_of,
    key_of,
    session_id,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

__all__ = ["AsyncSessionStore", "SessionStore", "StoredSession"]


@dataclass(frozen=True)
class StoredSession:
    """What a cookie stands for: a copy, which isn't stored.

    ``created`` is in seconds since the epoch. ``userid`` is None if no user is logged
    in or the model has no UseridMixin.
    """

    id: uuid.UUID = field(repr=False)
    created: int
    userid: Any
    data: dict[Any, Any] = field(repr=False)


class SessionStore(StoreBase):
    """The sessions of a factory, by their ids, in the transaction of a dbsession.

    Nothing is committed: that's left to your code, and a rollback undoes everything.
    Ids are UUIDs or their texts; anything else isn't found. A user's id is converted in
    the same way as ``session.userid``. Each method executes one statement unless it
    says otherwise, and one more on MariaDB for a user's id that isn't ASCII. If a
    request uses its session in the same transaction, both see and change the same
    values. Rows that another program has spoilt raise InconsistentDataError.

    ``factory`` is what ``get_session_factory`` or ``session_factory_from_settings``
    returns; an application's is ``registry.queryUtility(ISessionFactory)``. Raises
    ConfigurationError for any other.
    """

    # One session.

    def get(self, id: uuid.UUID | str) -> dict[Any, Any] | None:
        """Return a copy of the session's dict, or None if it's missing or expired."""
        key = session_id(id)
        state = None if key is None else self._load(key)
        return None if state is None else state.data.copy().content

    def create(self, data: Mapping[Any, Any]) -> uuid.UUID:
        """Store a new session with this dict, and return its id.

        Raises TypeError for what can't be stored, ValueError for what's too large.
        """
        state = State(self._config, None)
        state.data.replace(data)
        row = born(state)
        key: uuid.UUID = row["id"]
        row = self._as_stored(key, row)
        self._execute(insert(self._model).values(self._by_column(row)))
        self._tell(SessionCreatedEvent, key, row.get("userid"))
        return key

    def set(self, id: uuid.UUID | str, data: Mapping[Any, Any]) -> None:
        """Replace the session's dict, and restart its idle timeout.

        If a request has loaded the session before and writes to it, it's refused if it
        has read or changed a key that this changes. Raises KeyError if the session is
        missing or expired, TypeError for what can't be stored, ValueError for what's
        too large.
        """
        state = State(self._config, None)
        state.data.replace(data)
        raw = state.encoded_data()  # before anything is changed: it may raise
        key = session_id(id)
        if key is None:
            raise KeyError("there is no session with this id")
        stored = self._as_stored(key, {"data": raw})
        known = self._known(key)
        if known is None:
            is_there = self._update(key, stored)
        else:
            is_there = self._replace(known, state.data.copy().content)
        if not is_there:
            raise KeyError("there is no session with this id")

    def delete(self, id: uuid.UUID | str) -> bool:
        """End the session; tell whether it was there."""
        key = session_id(id)
        if key is None:
            return False
        if self._known(key) is not None:
            return self._end_known(lambda each: key_of(each) == key) == 1
        return self._delete(self._columns["id"] == key) == 1

    def open(self, cookie_value: str | bytes | None) -> StoredSession | None:
        """Return the session that the value of a cookie stands for.

        Returns None for anything else: no value, a forged one, one whose session has
        ended or expired, or one that a renewal has replaced. Nothing that a browser can
        send raises an error, and a value that isn't authentic takes no statement. The
        session is neither extended nor renewed, and a renewal violation doesn't end it.
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
        """Return the user's live sessions, as objects of the model.

        The newest is the first. The library's columns are read-only. The user None has
        no sessions. (OWASP ASVS 5.0, 7.5.2: users can view their sessions.) Raises
        ConfigurationError if the model has no UseridMixin, TypeError if ``userid``
        can't be the id of a user.
        """
        userid = self._userid_for(userid)
        if userid is None:
            return []
        columns = self._columns
        is_users = self._is_unknown() & self._is_users(userid)
        known = [key_of(each) for each in self._all_known() if is_of(each, userid)]
        if known:
            is_users |= columns["id"].in_(known)
        statement = (
            select(self._model)
            .where(is_users, ~self.expired)
            .order_by(columns["created"].desc(), columns["id"])
        )
        try:
            return self._objects(statement)
        except Exception as exc:
            if not is_unreadable(exc):
                raise
            # Not chained: some of these errors quote what is in the row.
            raise InconsistentDataError(
                "a stored session of this user cannot be read: was it written by"
                " another program? Correct it, or end the sessions of the user with"
                " revoke_user()"
            ) from None

    def revoke_user(
        self, userid: Any, keep: Session | uuid.UUID | str | None = None
    ) -> int:
        """End the sessions of a user; return how many there were.

        ``keep`` is the one that stays: "log out my other devices" is
        ``keep=request.session``, even if that's new. It can also be an id. A user whose
        session was ended is anonymous in the next request. (OWASP ASVS 5.0, 7.4.3: the
        option to terminate all other active sessions after a change of a password.)

        The user None has no sessions. Raises ConfigurationError if the model has no
        UseridMixin, TypeError if ``userid`` can't be the id of a user, ValueError if
        the session to keep is of another model.
        """
        userid = self._userid_for(userid)
        key = self._key_to_keep(keep)
        if userid is None:
            return 0
        is_meant = self._is_users(userid)
        if key is not None:
            is_meant &= self._columns["id"] != key
        return self._end(
            is_meant,
            lambda each: (
                is_of(each, userid) and (key is None or each.values["id"] != key)
            ),
        )

    def limit_user(
        self, userid: Any, most: int, keep: Session | uuid.UUID | str | None = None
    ) -> int:
        """End the oldest sessions of a user beyond ``most``; return how many.

        A session is as old as its login (``authenticated``), or as itself (``created``)
        if its login isn't known. Expired sessions don't count. ``keep`` stays and takes
        one of the places, no matter whose it has been: after a login, it's
        ``request.session``. (OWASP ASVS 5.0, 7.1.2: how many sessions an account may
        have at once.)

        Logins at the same moment have to take turns: lock the user's row first. This
        takes two statements, or one if there's nothing to end.

        Raises ValueError if ``most`` is less than 1, TypeError if it isn't an int, and
        what ``revoke_user`` raises.
        """
        check_number(most)
        userid, key = self._userid_for(userid), self._key_to_keep(keep)
        if userid is None:
            return 0
        keys, states = self._beyond(most, userid, key)
        if not (keys or states):
            return 0
        is_meant = self._is_users(userid) & self._columns["id"].in_(keys)
        return self._end(is_meant, states.__contains__)

    # All sessions.

    def delete_all(self) -> int:
        """End all sessions; return how many there were."""
        return self._end(true(), lambda each: True)

    def delete_expired(self, limit: int | None = None) -> int:
        """Delete expired sessions, ``limit`` at most; return how many.

        That takes a few statements: it's what ``pyramid_session_gc`` does, but in this
        one transaction. Locked rows are left if the database can skip them.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"limit must not be negative, but is {limit}")
        connection = self._config.table.connection(self._dbsession)
        report = Report.wanted(self._config, partial(tell, self._dbsession))
        number = sum(
            delete_expired(connection, self._config, limit=limit, report=report)
        )
        if number:
            # So that zope.sqlalchemy commits, which doesn't notice a connection's
            # statements.
            self._execute(delete(self._model).where(false()))
        return number


_P = ParamSpec("_P")
_T = TypeVar("_T")


class AsyncSessionStore:
    """A SessionStore on an AsyncSession: the same methods, to be awaited.

    As usual with an AsyncSession, the objects that ``of_user`` returns can't load
    anything later: attributes that aren't loaded raise errors.
    """

    def __init__(
        self,
        dbsession: AsyncSession,
        factory: SessionFactory,
    ):
        if not hasattr(dbsession, "run_sync"):
            raise TypeError(
                "AsyncSessionStore takes an AsyncSession, not"
                f" {type(dbsession).__name__}; for a Session, use SessionStore"
            )
        self._dbsession = dbsession
        self._factory = factory
        self._config = config_of(factory)

    async def get(self, id: uuid.UUID | str) -> dict[Any, Any] | None:
        """Return a copy of the session's dict, or None if it's missing or expired."""
        return await self._run(SessionStore.get, id)

    async def create(self, data: Mapping[Any, Any]) -> uuid.UUID:
        """Store a new session with this dict, and return its id."""
        return await self._run(SessionStore.create, data)

    async def set(self, id: uuid.UUID | str, data: Mapping[Any, Any]) -> None:
        """Replace the session's dict, and restart its idle timeout."""
        await self._run(SessionStore.set, id, data)

    async def delete(self, id: uuid.UUID | str) -> bool:
        """End the session; tell whether it was there."""
        return await self._run(SessionStore.delete, id)

    async def open(self, cookie_value: str | bytes | None) -> StoredSession | None:
        """Return the session that the value of a cookie stands for."""
        return await self._run(SessionStore.open, cookie_value)

    async def of_user(self, userid: Any) -> list[Any]:
        """Return the user's live sessions, as objects of the model."""
        return await self._run(SessionStore.of_user, userid)

    async def revoke_user(
        self, userid: Any, keep: Session | uuid.UUID | str | None = None
    ) -> int:
        """End the sessions of a user; return how many there were."""
        return await self._run(SessionStore.revoke_user, userid, keep)

    async def limit_user(
        self, userid: Any, most: int, keep: Session | uuid.UUID | str | None = None
    ) -> int:
        """End the oldest sessions of a user beyond ``most``; return how many."""
        return await self._run(SessionStore.limit_user, userid, most, keep)

    async def delete_all(self) -> int:
        """End all sessions; return how many there were."""
        return await self._run(SessionStore.delete_all)

    async def delete_expired(self, limit: int | None = None) -> int:
        """Delete expired sessions, ``limit`` at most; return how many."""
        return await self._run(SessionStore.delete_expired, limit)

    @property
    def expired(self) -> ColumnElement[bool]:
        """The SQL for "this session has expired by now", for queries of your own."""
        return expired_by_now(self._config)

    async def _run(
        self,
        method: Callable[Concatenate[SessionStore, _P], _T],
        *args: _P.args,
        **kw: _P.kwargs,
    ) -> _T:
        def run(dbsession: DBSession) -> _T:
            return method(SessionStore(dbsession, self._factory), *args, **kw)

        return await self._dbsession.run_sync(run)
