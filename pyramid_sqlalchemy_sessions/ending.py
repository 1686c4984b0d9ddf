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
    """Do what is left to do, and write the headers. A response callback."""
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
    # A subrequest, whose cookie waits for the transaction of the outer request; or
    # nothing is going to commit.
    visit.answer.wait(response)
    if not (in_subrequest(request) or in_exception_view(request)) and (
        visit.outside.patches() or (visit.state and visit.state.may_differ)
    ):
        visit.findings.warn_once(
            "Nothing of this session is stored so far, and no cookie is sent: the"
            " response is made, but nobody has committed the transaction. Is"
            " 'tm.active' set by something that does not commit, a test fixture"
            " perhaps? See the documentation on testing."
        )


def finish(visit: Visit, request: Any) -> None:
    """See to what may be left, also without a response. A finished callback."""
    if will_be_retried(request):
        return
    _make_way(visit)
    if visit.unit is not None:
        if visit.findings.violated:
            # Of an outer request, whose locks would have to be waited for.
            transaction = visit.unit.transaction
            transaction.addAfterCommitHook(_finish, (visit,))
            transaction.addAfterAbortHook(_finish, (visit,))
        return
    is_lost = not visit.answer.is_made and bool(visit.outside.patches())
    _finish(visit)
    if is_lost:
        log.error(
            "Changes of a session are lost: they were made outside of a transaction,"
            " in a request that ended without a response or after its response was"
            " made."
        )


def _finish(*args: Any) -> None:
    visit: Visit = args[-1]  # a commit hook is told first how it went
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
            "This application changes sessions, but does not use pyramid_tm: they are"
            " stored when the response is ready, in a transaction of their own,"
            " whatever becomes of the application's. Do"
            " config.include('pyramid_tm')."
        )
    elif not (
        getattr(manager, "explicit", False)
        or visit.outside.phases() <= {Phase.EXCEPTION_VIEW}
    ):
        visit.config.warn_once(
            "A session is being changed outside of the transaction of pyramid_tm: it"
            " is stored when the response is ready, in a transaction of its own. Where"
            " there is no response, in a script, say, it is not stored: use an"
            " explicit transaction manager there"
            " (tm.manager_hook = pyramid_tm.explicit_manager)."
        )
