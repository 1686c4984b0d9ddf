"""What the library has to know of its hosts: Pyramid, pyramid_tm, pyramid_retry."""

from __future__ import annotations

import enum
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from pyramid.csrf import SessionCSRFStoragePolicy
from pyramid.interfaces import ICSRFStoragePolicy
from pyramid.request import CallbackMethodsMixin
from pyramid.threadlocal import manager as threadlocals
from sqlalchemy.orm import Session, scoped_session
from transaction import TransactionManager
from transaction.interfaces import NoTransaction
from zope.sqlalchemy import datamanager, register

from .cookie import vary_on_cookie
from .exceptions import ConfigurationError

try:
    import pyramid_retry
except ImportError:  # pragma: no cover - depends on what is installed
    pyramid_retry = None

__all__ = [
    "COMMITTING",
    "ZOPE_EVENTS",
    "Phase",
    "commits_after_exception_view",
    "csrf_key_of",
    "dbsession_of",
    "end_abandoned",
    "error_of",
    "has_written",
    "heed_outer_requests",
    "in_exception_view",
    "in_subrequest",
    "is_over",
    "leave_unextended",
    "may_extend",
    "outer_requests",
    "phase_of",
    "short_transaction",
    "transaction_of",
    "will_be_retried",
]

#: Where a dbsession of our include keeps its ZopeTransactionEvents.
ZOPE_EVENTS = "pyramid_sqlalchemy_sessions.zope_events"

# Values of a transaction's ``status``, which ITransaction documents.
COMMITTING = "Committing"
_FAILED = "Commit failed"
_UNEXTENDED = "_pyramid_sqlalchemy_sessions_unextended"
_OPEN = frozenset({"Active", "Doomed"})


def transaction_of(request: Any) -> Any:
    """Return the transaction that the request runs in now, or None.

    A thread-local transaction manager also hands out a transaction where nothing will
    commit it. That only counts with pyramid_tm (or repoze.tm) around this request, or
    around one that waits for it.
    """
    manager = getattr(request, "tm", None)
    if manager is None:
        return None
    if not (
        getattr(manager, "explicit", False)
        or _is_managed(request)
        or any(
            _is_managed(each) and each.tm is manager for each in outer_requests(request)
        )
    ):
        return None
    try:
        transaction = manager.get()
    except NoTransaction:
        return None
    return transaction if transaction.status in _OPEN else None


def _is_managed(request: Any) -> bool:
    environ = request.environ
    return "tm.active" in environ or "repoze.tm.active" in environ


def leave_unextended(request: Any) -> None:
    """Keep what this request does from counting as a use of its session."""
    request.__dict__[_UNEXTENDED] = True


def may_extend(request: Any) -> bool:
    """Tell whether what this request does counts as a use of its session."""
    return _UNEXTENDED not in request.__dict__


def dbsession_of(request: Any, name: str) -> Session:
    """Return the request's dbsession. Raises ConfigurationError if there is none."""
    try:
        dbsession: Session | scoped_session[Session] = getattr(request, name)
    except AttributeError as exc:
        raise ConfigurationError(
            f"the session needs request.{name}, an SQLAlchemy session that is joined"
            " to the request's transaction; is it missing, is the setting"
            " dbsession_name wrong, or is there no request.tm, since pyramid_tm isn't"
            " included?"
        ) from exc
    return dbsession() if isinstance(dbsession, scoped_session) else dbsession


def has_written(dbsession: Session) -> bool:
    """Tell whether the commit has to store anything of the dbsession.

    If not, zope.sqlalchemy rolls its transaction back.
    """
    return bool(_STATES.get(dbsession) != datamanager.STATUS_ACTIVE)


@contextmanager
def short_transaction(
    request: Any, dbsession_name: str, *, commits: bool
) -> Generator[tuple[Any, Session]]:
    """Begin a short transaction of the request's own kind: another one of ``tm``.

    It uses the request's dbsession, so that everything that the application set up for
    it applies. Without pyramid_tm, and inside a transaction that the application has
    begun itself, it uses a second dbsession, made like that one. Yields the transaction
    manager and the dbsession. An error aborts it, and so does its end unless it
    ``commits``.
    """
    given = getattr(request, "tm", None)
    dbsession = dbsession_of(request, dbsession_name)
    is_beside = given is None or not _is_free(given)
    manager: Any = TransactionManager(explicit=True) if is_beside else given
    if is_beside:
        dbsession = _made_like(dbsession)
        register(dbsession, transaction_manager=manager)
    with suppress(NoTransaction):
        manager.abort()  # if its commit has failed
    manager.begin()
    try:
        yield manager, dbsession
        if commits:
            manager.commit()
    finally:
        # After a commit there's nothing left to abort.
        with suppress(NoTransaction):
            manager.abort()
        if is_beside:
            dbsession.close()


def _is_free(manager: Any) -> bool:
    """Tell whether a transaction can begin without ending one that's in use."""
    try:
        transaction = manager.get()
    except NoTransaction:
        return True
    if transaction.status == _FAILED:
        return True
    # A thread-local manager always has a transaction, which may be empty.
    is_explicit = getattr(manager, "explicit", False)
    return not (
        is_explicit or transaction.status not in _OPEN or transaction._resources
    )


def _made_like(dbsession: Session) -> Session:
    """Return a new dbsession with everything that the application gave to this one.

    That includes its listeners, and it doesn't matter what arguments its class takes.
    """
    twin, own = object.__new__(type(dbsession)), vars(dbsession)
    # Its own state, identity map and all, comes from SQLAlchemy's constructor.
    Session.__init__(
        twin,
        dbsession.bind,
        autoflush=dbsession.autoflush,
        expire_on_commit=dbsession.expire_on_commit,
        twophase=dbsession.twophase,
        binds=own.get("binds", own.get("_Session__binds")),
        info=dict(dbsession.info),
        query_cls=own.get("_query_cls"),
        join_transaction_mode=dbsession.join_transaction_mode,
    )
    dispatch: Any = twin.dispatch  # its own, before the others are copied
    for name, value in own.items():
        if name not in vars(twin) or name == "execution_options":
            setattr(twin, name, value)
    dispatch._update(dbsession.dispatch, only_propagate=False)
    # Except for zope.sqlalchemy's, which would join it to the application's manager.
    twin.info.pop(ZOPE_EVENTS, None)
    zope = datamanager.ZopeTransactionEvents
    for name in vars(zope):
        listeners: Any = getattr(getattr(dispatch, name, None), "listeners", ())
        for listener in list(listeners):
            if isinstance(getattr(listener, "__self__", None), zope):
                listeners.remove(listener)
    return twin


def end_abandoned(request: Any, unit_is_open: bool) -> None:
    """Abort a transaction of the request that's open, and that nothing else will end.

    pyramid_tm leaves it open if a before-commit hook raises an error, and if a view
    raises something that isn't an Exception, such as SystemExit.
    """
    manager, environ = getattr(request, "tm", None), request.environ
    if manager is None or in_subrequest(request) or "repoze.tm.active" in environ:
        return
    error = sys.exc_info()[1]
    is_going_on = "tm.active" in environ and (
        error is None or isinstance(error, Exception)
    )
    if is_going_on or not (unit_is_open or getattr(manager, "explicit", False)):
        return
    with suppress(NoTransaction):
        manager.abort()


def csrf_key_of(request: Any) -> str | None:
    """Return the key of the session's dict that holds the CSRF token, if one does."""
    if request is None:
        return None
    policy = request.registry.queryUtility(ICSRFStoragePolicy)
    return policy.key if isinstance(policy, SessionCSRFStoragePolicy) else None


class Phase(enum.Enum):
    """What is at work on a request."""

    ABOVE_VIEW = enum.auto()  # a tween, before the router looks for the view
    VIEW = enum.auto()  # or a tween after it
    EXCEPTION_VIEW = enum.auto()  # or a tween after it


def phase_of(request: Any) -> Phase:
    """Tell what is at work on the request."""
    if in_exception_view(request):
        return Phase.EXCEPTION_VIEW
    # The router sets it before anything else.
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


def error_of(request: Any) -> BaseException | None:
    """Return the request's current exception, even if a view has answered it."""
    return request.__dict__.get("exception") or sys.exc_info()[1]


def will_be_retried(request: Any) -> bool:
    """Tell whether pyramid_retry is going to try again after the current exception."""
    error = error_of(request)
    return (
        pyramid_retry is not None
        and error is not None
        and bool(pyramid_retry.is_error_retryable(request, error))
    )


def is_over(request: Any) -> bool:
    """Tell whether the request's response has been made.

    Pyramid doesn't note that on the request. Either its finished callbacks are running,
    or the router has handled it and it isn't a current request any more: its body is
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


def heed_outer_requests(request: Any) -> None:
    """Let the requests that wait for this one answer for its use of the session.

    What they answer may be made of this one's answer, so it varies with the cookies. If
    they don't extend the session, neither does this one.
    """
    for outer in outer_requests(request):
        outer.add_response_callback(_vary_with)
        if not may_extend(outer):
            leave_unextended(request)


def _vary_with(request: Any, response: Any) -> None:
    vary_on_cookie(response)


#: The state of each dbsession in zope.sqlalchemy, which has no public function for it.
_STATES: Any = datamanager._SESSION_STATE  # pyright: ignore[reportPrivateUsage]

_CALLBACKS: Any = CallbackMethodsMixin
_FINISHED_CALLBACKS = _CALLBACKS._process_finished_callbacks.__code__
