"""What is told of sessions after a commit: collected before it, dropped without it."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction
from zope.interface import implementedBy

from .events import SessionEvent, SessionsCollectedEvent

__all__ = ["is_heard", "send", "tell"]

#: What can be told of.
Told = SessionEvent | SessionsCollectedEvent

log: logging.Logger = logging.getLogger(__name__)

#: Where a dbsession keeps its outbox.
_KEY = "pyramid_sqlalchemy_sessions.outbox"


def is_heard(registry: Any, kind: type[Told]) -> bool:
    """Tell whether anybody subscribes to these events."""
    return bool(
        registry.has_listeners
        and registry.adapters.subscriptions([implementedBy(kind)], None)
    )


def send(registry: Any, told: Told) -> None:
    """Notify the subscribers. What they raise is logged: nothing can be undone."""
    try:
        registry.notify(told)
    except Exception:
        log.exception("A subscriber failed; what it was told of is stored.")


def tell(dbsession: Session, registry: Any, told: Told) -> None:
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
        self._kept: list[tuple[SessionTransaction | None, Any, Told]] = []
        self._committed: list[tuple[Any, Told]] = []
        event.listen(dbsession, "after_commit", self._after_commit)
        event.listen(dbsession, "after_transaction_end", self._after_end)

    def put(self, dbsession: Session, registry: Any, told: Told) -> None:
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
