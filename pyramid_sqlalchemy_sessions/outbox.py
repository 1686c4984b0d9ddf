"""What is told of sessions after a commit: collected before it, dropped without it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction
from zope.interface import implementedBy

from .events import (
    SessionCreatedEvent,
    SessionEvent,
    SessionRevokedEvent,
    SessionRotatedEvent,
)

if TYPE_CHECKING:
    from .record import Record

__all__ = ["is_heard", "send", "send_of", "tell", "tell_of"]

log: logging.Logger = logging.getLogger(__name__)

#: Where a dbsession keeps its outbox.
_KEY = "pyramid_sqlalchemy_sessions.outbox"


def is_heard(registry: Any, kind: type[SessionEvent]) -> bool:
    """Tell whether anybody subscribes to these events."""
    return bool(
        registry.has_listeners
        and registry.adapters.subscriptions([implementedBy(kind)], None)
    )


def _event_of(record: Record, request: Any) -> SessionEvent | None:
    """Return the event of what storing the record has done to its row, if any."""
    before, after = record.loaded, record.stored
    tell = record.config.cookie.fingerprint
    users = [each and each.get("userid") for each in (before, after)]
    if before is None and after is not None:
        cause = record.cause or ("data" if users[1] is None else "login")
        return SessionCreatedEvent(request, tell(after["id"]), users[1], cause)
    if before is not None and after is None:
        cause = record.cause or ("invalidate" if users[0] is None else "logout")
        return SessionRevokedEvent(request, tell(before["id"]), users[0], cause)
    if before is None or after is None or before["id"] == after["id"]:
        return None
    was, userid = users
    cause = "rotate" if was == userid else "login" if was is None else "switch"
    if userid is None and was is not None:
        userid, cause = was, "logout"
    previous = tell(before["id"])
    return SessionRotatedEvent(request, tell(after["id"]), userid, cause, previous)


def send(registry: Any, told: SessionEvent) -> None:
    """Notify the subscribers. What they raise is logged: nothing can be undone."""
    try:
        registry.notify(told)
    except Exception:
        log.exception("A subscriber failed; what it was told of is stored.")


def send_of(record: Record, request: Any) -> None:
    """Send what storing the record has done to its row, now that it is committed."""
    if request.registry.has_listeners:
        told = _event_of(record, request)
        if told is not None:
            send(request.registry, told)


def tell_of(record: Record, request: Any) -> None:
    """Send what storing the record has done to its row, after the commit."""
    if request.registry.has_listeners:
        told = _event_of(record, request)
        if told is not None:
            tell(record.dbsession, request.registry, told)


def tell(dbsession: Session, registry: Any, told: SessionEvent) -> None:
    """Send the event if the dbsession's transaction is committed, and somebody listens.

    Otherwise the dbsession gets no listeners, which would make it slower.
    """
    if is_heard(registry, type(told)):
        outbox: _Outbox | None = dbsession.info.get(_KEY)
        if outbox is None:
            outbox = dbsession.info[_KEY] = _Outbox(dbsession)
        outbox.put(dbsession, registry, told)


class _Outbox:
    """Keeps the events of a dbsession until its transaction is committed.

    They are sent when the transaction has given back its connection. What happened
    after a savepoint that is rolled back is forgotten.
    """

    def __init__(self, dbsession: Session):
        self._kept: list[tuple[SessionTransaction | None, Any, SessionEvent]] = []
        self._committed: list[tuple[Any, SessionEvent]] = []
        event.listen(dbsession, "after_commit", self._after_commit)
        event.listen(dbsession, "after_transaction_end", self._after_end)

    def put(self, dbsession: Session, registry: Any, told: SessionEvent) -> None:
        """Keep an event, to be sent if what it tells of is committed."""
        savepoint = dbsession.get_nested_transaction()
        self._kept.append((savepoint, registry, told))

    def _after_commit(self, dbsession: Session) -> None:
        savepoint = dbsession.get_nested_transaction()
        if savepoint is None:
            self._committed += [(registry, told) for _, registry, told in self._kept]
            self._kept.clear()
            return
        outer = savepoint.parent
        while outer is not None and not outer.nested:
            outer = outer.parent
        self._kept = [
            (outer if begun is savepoint else begun, registry, told)
            for begun, registry, told in self._kept
        ]

    def _after_end(self, dbsession: Session, ended: SessionTransaction) -> None:
        if ended.nested:
            self._kept = [kept for kept in self._kept if kept[0] is not ended]
        elif ended.parent is None:
            committed, self._committed = self._committed, []
            self._kept.clear()
            for registry, told in committed:
                send(registry, told)
