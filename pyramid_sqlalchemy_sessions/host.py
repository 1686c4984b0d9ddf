"""What the library has to know of its hosts: Pyramid, pyramid_tm, pyramid_retry."""

from __future__ import annotations

import enum
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pyramid.request import CallbackMethodsMixin
from pyramid.threadlocal import manager as threadlocals
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session, scoped_session
from transaction.interfaces import NoTransaction
from zope.sqlalchemy import datamanager

from .exceptions import ConfigurationError

try:
    import pyramid_retry
except ImportError:  # pragma: no cover - depends on what is installed
    pyramid_retry = None

__all__ = [
    "COMMITTING",
    "Phase",
    "commits_after_exception_view",
    "dbsession_of",
    "has_written",
    "in_exception_view",
    "in_subrequest",
    "is_over",
    "outer_requests",
    "own_transaction",
    "phase_of",
    "transaction_of",
    "will_be_retried",
]

# Values of a transaction's ``status``, which ITransaction documents.
COMMITTING = "Committing"
_OPEN = frozenset({"Active", "Doomed"})


def transaction_of(request: Any) -> Any:
    """Return the transaction that the request runs in now, or None.

    A thread-local transaction manager hands out a transaction also where nobody
    will commit it, so without pyramid_tm (or repoze.tm) around it does not count.
    """
    manager = getattr(request, "tm", None)
    if manager is None:
        return None
    environ = request.environ
    if not (
        "tm.active" in environ
        or "repoze.tm.active" in environ
        or getattr(manager, "explicit", False)
    ):
        return None
    try:
        transaction = manager.get()
    except NoTransaction:
        return None
    return transaction if transaction.status in _OPEN else None


def dbsession_of(request: Any, name: str) -> Session:
    """Return the request's dbsession. Raises ConfigurationError if there is none."""
    try:
        dbsession: Session | scoped_session[Session] = getattr(request, name)
    except AttributeError as exc:
        raise ConfigurationError(
            f"the session needs request.{name}, an SQLAlchemy session that is joined"
            " to the request's transaction; is it missing, is the setting"
            " dbsession_name wrong, or is there no request.tm, since pyramid_tm is not"
            " included?"
        ) from exc
    return dbsession() if isinstance(dbsession, scoped_session) else dbsession


def has_written(dbsession: Session) -> bool:
    """Tell whether the commit has to store anything of the dbsession.

    If not, zope.sqlalchemy rolls its transaction back.
    """
    return bool(_STATES.get(dbsession) != datamanager.STATUS_ACTIVE)


@contextmanager
def own_transaction(bind: Engine | Connection) -> Generator[Connection]:
    """Begin and commit a transaction beside that of the request.

    On a Connection, which somebody else has begun a transaction on, a savepoint.
    """
    if isinstance(bind, Connection):
        with bind.begin_nested() if bind.in_transaction() else bind.begin():
            yield bind
    else:
        with bind.begin() as connection:
            yield connection


class Phase(enum.Enum):
    """What is at work on a request."""

    ABOVE_VIEW = enum.auto()  # a tween, before the router looks for the view
    VIEW = enum.auto()  # or a tween after it
    EXCEPTION_VIEW = enum.auto()  # or a tween after it


def phase_of(request: Any) -> Phase:
    """Tell what is at work on the request."""
    if in_exception_view(request):
        return Phase.EXCEPTION_VIEW
    # The router sets it first of all.
    return Phase.VIEW if "request_iface" in request.__dict__ else Phase.ABOVE_VIEW


def in_exception_view(request: Any) -> bool:
    """Tell whether an exception view is answering the request, or has done so."""
    return request.__dict__.get("exception") is not None


def commits_after_exception_view(request: Any) -> bool:
    """Tell whether pyramid_tm may commit after an exception view: a veto decides."""
    settings: dict[str, Any] = request.registry.settings or {}
    return bool(
        settings.get("tm.commit_veto") or settings.get("pyramid_tm.commit_veto")
    )


def will_be_retried(request: Any) -> bool:
    """Tell whether pyramid_retry is going to try again after the present exception."""
    error: Any = request.__dict__.get("exception") or sys.exc_info()[1]
    return (
        pyramid_retry is not None
        and error is not None
        and bool(pyramid_retry.is_error_retryable(request, error))
    )


def is_over(request: Any) -> bool:
    """Tell whether the request's response has been made.

    Pyramid leaves no trace of it on the request. Either its finished callbacks are
    running, or it was handled by the router and is not there any more: its body is
    being sent.
    """
    if "request_iface" in request.__dict__ and all(
        entry["request"] is not request for entry in threadlocals.stack
    ):
        return True
    running: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while running is not None:
        if (
            running.f_code is _FINISHED_CALLBACKS
            and running.f_locals["self"] is request
        ):
            return True
        running = running.f_back
    return False


def in_subrequest(request: Any) -> bool:
    """Tell whether another request is waiting for the answer to this one."""
    stack = threadlocals.stack
    return len(stack) > 1 and stack[-2]["request"] not in (None, request)


def outer_requests(request: Any) -> Sequence[Any]:
    """Return the requests that wait for the answer to this one."""
    stack = threadlocals.stack
    if len(stack) < 2:  # the usual case
        return ()
    requests = [entry["request"] for entry in stack[:-1]]
    return [
        each
        for each in requests
        if each is not request and isinstance(each, CallbackMethodsMixin)
    ]


#: What zope.sqlalchemy thinks of each dbsession. Nothing public tells.
_STATES: Any = datamanager._SESSION_STATE  # pyright: ignore[reportPrivateUsage]

_CALLBACKS: Any = CallbackMethodsMixin
_FINISHED_CALLBACKS = _CALLBACKS._process_finished_callbacks.__code__
