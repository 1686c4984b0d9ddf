"""How a request ends, for its session: with a response, or without one."""

from __future__ import annotations

import logging
from typing import Any

from .follow_up import Visit, follow_up
from .host import (
    Phase,
    end_abandoned,
    in_exception_view,
    in_subrequest,
    will_be_retried,
)

__all__ = ["finish", "respond"]

log: logging.Logger = logging.getLogger(__name__)


def respond(visit: Visit, request: Any, response: Any) -> None:
    """As the response callback, do what's left to do, and write the headers."""
    has_more = bool(visit.findings or visit.outside)
    if has_more:
        _make_way(visit)
    visit.answer.is_made = True
    if visit.unit is None:
        if has_more:
            _warn_of_manager(visit)
            follow_up(visit)
        visit.answer.make(response)
        return
    # It's a subrequest, whose cookie waits for the outer request's transaction; or
    # nothing is going to commit.
    visit.answer.wait(response)
    if not (in_subrequest(request) or in_exception_view(request)) and (
        visit.outside.patches() or (visit.state and visit.state.may_differ)
    ):
        visit.findings.warn_once(
            "Nothing of this session has been stored so far, and no cookie is sent:"
            " the response is ready, but the transaction hasn't been committed. Is"
            " 'tm.active' set by something that doesn't commit, such as a test"
            " fixture? See the documentation on testing."
        )


def finish(visit: Visit, request: Any) -> None:
    """As the finished callback, do what's left to do, even without a response."""
    if will_be_retried(request):
        return
    _make_way(visit)
    if visit.unit is not None:
        if visit.findings.violated:
            # It belongs to an outer request, whose locks would be in the way.
            transaction = visit.unit.transaction
            transaction.addAfterCommitHook(_finish, (visit,))
            transaction.addAfterAbortHook(_finish, (visit,))
        return
    is_lost = not visit.answer.is_made and bool(visit.outside.patches())
    _finish(visit)
    if is_lost:
        log.error(
            "Changes to a session are lost: they were made outside of a transaction,"
            " in a request that ended without a response or after its response was"
            " made."
        )


def _finish(*args: Any) -> None:
    visit: Visit = args[-1]  # a commit hook's first argument is its success
    visit.outside.clear()
    follow_up(visit)


def _make_way(visit: Visit) -> None:
    """End a transaction that was left open, if there's something left to do."""
    if visit.findings or visit.outside.patches():
        end_abandoned(visit.request, visit.unit is not None)


def _warn_of_manager(visit: Visit) -> None:
    manager = getattr(visit.request, "tm", None)
    if not visit.outside.patches():
        return
    if manager is None:
        visit.config.warn_once(
            "This application changes sessions, but doesn't use pyramid_tm: they're"
            " stored when the response is ready, in a transaction of their own,"
            " whatever happens to the application's. Call"
            " config.include('pyramid_tm')."
        )
    elif not (
        getattr(manager, "explicit", False)
        or visit.outside.phases() <= {Phase.EXCEPTION_VIEW}
    ):
        visit.config.warn_once(
            "A session is being changed outside of pyramid_tm's transaction: it's"
            " stored when the response is ready, in a transaction of its own. Where"
            " there's no response, for instance in a script, it isn't stored: use an"
            " explicit transaction manager there"
            " (tm.manager_hook = pyramid_tm.explicit_manager)."
        )
