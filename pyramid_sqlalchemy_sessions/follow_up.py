"""The second transaction, for what the request's own couldn't do, or rolled back."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session as DBSession
from sqlalchemy.orm.exc import StaleDataError

from .answer import Answer
from .conflicts import can_be_tried_again
from .finder import Finder
from .findings import Findings
from .host import in_exception_view, is_over, short_transaction, will_be_retried
from .outcome import Decision
from .outside import Outside
from .session_config import SessionConfig
from .state import State
from .unit import Unit

__all__ = ["Visit", "follow_up", "look"]

log: logging.Logger = logging.getLogger(__name__)

#: How often something is tried while other transactions are in the way. After attempt n
#: it waits for a random time of at most DELAY * 2**n seconds.
ATTEMPTS = 6
DELAY = 0.02

#: Errors that may keep us from doing what's due, which can wait: an empty pool, too.
_TRANSIENT = (DBAPIError, PoolTimeout)


class Visit(Protocol):
    """What's needed here of a request's visit to its session."""

    config: SessionConfig
    request: Any
    answer: Answer
    findings: Findings
    finder: Finder
    outside: Outside
    unit: Unit | None
    state: State | None

    def go_in(self, unit: Unit, dbsession: DBSession) -> None:
        """Work in the unit's transaction, and bring in what was changed outside."""
        ...

    def expect_end(self) -> None:
        """Make sure that what's changed outside is stored, or logged as lost."""
        ...


Work = Callable[[Unit, DBSession], None]


def follow_up(visit: Visit) -> None:
    """Delete stolen sessions, and store what was changed outside, or what is due.

    Each is done in a short transaction of the request's own kind. Nothing is done in an
    attempt that will be tried again.
    """
    findings, outside = visit.findings, visit.outside
    if will_be_retried(visit.request):
        outside.clear()
        return
    if findings.violated:
        _transact(visit, partial(_delete_violated, visit))
        findings.violated.clear()
    if in_exception_view(visit.request):
        outside.drop_changes_of_failed_view()
    if outside.patches():
        _store(visit)
    if findings.expired or findings.deferred:
        try:
            _transact(visit, partial(_keep_up, visit), attempts=1)
        except _TRANSIENT as exc:  # another request has done it, or will
            name = type(getattr(exc, "orig", exc)).__name__
            log.debug("A session was not extended or deleted: %s", name)
            visit.answer.staged = None
        else:
            visit.finder.settle_for(visit.answer.take_staged())
        findings.expired.clear()
        findings.deferred = None


def look(visit: Visit) -> State:
    """Return what's stored, read in a short transaction that does nothing else."""
    finder, config, request = visit.finder, visit.config, visit.request
    if not finder.tickets:
        return finder.new()
    name = config.settings.dbsession_name
    with short_transaction(request, name, commits=False) as (tm, dbsession):
        config.table.connection(dbsession, options=finder.options)
        state = finder.find(Unit.of(tm, tm.get()), dbsession, lock=None)
    if visit.findings.violated:
        visit.expect_end()
        if is_over(request):
            follow_up(visit)
    return state


def _store(visit: Visit) -> None:
    """Store what was changed outside of the request's transaction."""
    try:
        _transact(visit, visit.go_in)
    except StaleDataError as exc:
        log.error("Changes to a session are lost: %s.", exc)
    except Exception as exc:
        if not can_be_tried_again(exc):
            raise
        log.error(
            "Changes to a session are lost: other requests were in the way in all %s"
            " attempts (%s).",
            ATTEMPTS,
            type(getattr(exc, "orig", exc)).__name__,
        )
    visit.outside.clear()


def _transact(visit: Visit, work: Work, attempts: int = ATTEMPTS) -> None:
    """Do the work in a transaction of its own; do it again if others are in the way."""
    name = visit.config.settings.dbsession_name
    for attempt in range(1, attempts + 1):
        try:
            with short_transaction(visit.request, name, commits=True) as (
                tm,
                dbsession,
            ):
                table, options = visit.config.table, visit.finder.options
                table.connection(dbsession, writes=True, options=options)
                work(Unit.of(tm, tm.get()), dbsession)
            return
        except StaleDataError:  # trying again wouldn't help
            raise
        except Exception as exc:
            if attempt == attempts or not can_be_tried_again(exc):
                raise
        time.sleep(random.uniform(0, DELAY * 2**attempt))


def _delete_violated(visit: Visit, unit: Unit, dbsession: DBSession) -> None:
    connection = visit.config.table.connection(dbsession, writes=True)
    visit.findings.delete_violated(connection, dbsession)
    unit.wrote(dbsession)


def _keep_up(visit: Visit, unit: Unit, dbsession: DBSession) -> None:
    findings, table = visit.findings, visit.config.table
    connection = table.connection(dbsession, writes=True)
    unit.wrote(dbsession)
    if findings.deferred is not None:
        key, due, settings = findings.deferred
        if table.keep_up(connection, key, due) and due.ticket is not None:
            visit.answer.stage(Decision(due.ticket, settings, is_again=True))
    settings_of_expired = findings.delete_expired(connection, dbsession)
    is_all = visit.finder.ticket is None and visit.answer.decision is None
    if settings_of_expired is not None and is_all:
        visit.answer.stage(Decision(None, settings_of_expired))
