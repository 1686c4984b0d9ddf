"""Events that are sent after a commit, and dropped if there isn't one."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction
from zope.interface import implementedBy

from .events import SessionEvent, SessionsCollectedEvent

__all__ = ["is_heard", "send", "tell"]

#: The events that can be sent.
Told = SessionEvent | SessionsCollectedEvent

log: logging.Logger = logging.getLogger(__name__)

#: Where a dbsession keeps its outbox.
_KEY = "pyramid_sqlalchemy_sessions.outbox"


def is_heard(registry: Any, kind: type[Told]) -> bool:
    """Tell whether there are subscribers to these events."""
    return bool(
        registry.has_listeners
        and registry.adapters.subscriptions([implementedBy(kind)], None)
    )


def send(registry: Any, told: Told) -> None:
    """Notify the subscribers. Their errors are logged: nothing can be undone now."""
    try:
        registry.notify(told)
    except Exception:
        log.exception(
            "A subscriber failed; the change that it was told about is stored."
        )


def tell(dbsession: Session, registry: Any, told: Told) -> None:
    """Send the event when the dbsession's transaction is committed.

    If there are no subscribers, the dbsession gets no listeners, which would make it
    slower.
    """
    if is_heard(registry, type(told)):
        outbox: _Outbox | None = dbsession.info.get(_KEY)
        if outbox is None:
            outbox = dbsession.info[_KEY] = _Outbox(dbsession)
        outbox.put(dbsession, registry, told)


class _Outbox:
    """Keeps the events of a dbsession until its transaction is committed.

    They're sent once the transaction has given back its connection. Those since a
    savepoint that's rolled back are dropped.
    """

    def __init__(self, dbsession: Session):
        self._kept: list[tuple[SessionTransaction | None, Any, Told]] = []
        self._committed: list[tuple[Any, Told]] = []
        event.listen(dbsession, "after_commit", self._after_commit)
        event.listen(dbsession, "after_transaction_end", self._after_end)

    def put(self, dbsession: Session, registry: Any, told: Told) -> None:
        """Keep an event until the change that it reports is committed."""
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
