"""Settling: the only place where what sessions hold is written to the database."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm.exc import StaleDataError

from .cookie import Ticket
from .feature import Due
from .identifiers import new_id
from .outcome import Outcome
from .patch import Patch
from .state import End, State
from .table import Row

__all__ = ["born", "settle"]

log: logging.Logger = logging.getLogger(__name__)


def settle(
    state: State,
    connect: Callable[[], Connection],
    due_for: Callable[[bool], Due | None],
    is_own_deletion: Callable[[], bool],
    defers: Callable[[Due, DBAPIError | None], bool],
    insists: bool = False,
) -> Outcome:
    """Write what a state holds, and what is due for it; the state is clean then.

    That's one statement, or none, for each: the session that ended, the changes, what
    is due. If another request has written in the meantime, the changes are applied to
    the row as it is now. Raises StaleDataError if they can't be, or if the session was
    revoked.

    ``due_for`` tells what is due, for a write or a read; ``is_own_deletion`` whether
    the transaction itself may have deleted the row; ``defers`` whether what is due can
    wait until after the commit, if there's nothing else to write, or if it failed.
    ``insists`` stores a new session even if it's empty.
    """
    table, before, is_rotated = state.config.table, state.loaded, state.is_rotated
    wrote, again = False, None
    for end in state.ended:
        if end.row is not None:
            table.delete(connect(), end.row["id"])
            wrote = True
    changes = _changes(state)
    due = None
    if before is not None:
        due = due_for(state.is_used or changes is not None)
    has_new_attributes = False
    if changes is not None:
        if is_rotated and due is not None and due.changes:
            # The cookie that is replaced is the candidate that the request brought.
            _keep_up(state, connect(), due.without_extension(), None)
            due, changes = due._replace(guard={}, changes={}), _changes(state)
        has_new_attributes = _update(state, connect(), changes, due, is_own_deletion)
        wrote = True
        due = due and due.without_extension()
    if state.loaded is None:
        before = None
        if insists or state.is_stored:
            row = born(state)
            table.insert(connect(), row)
            state.clean(row)
            wrote = True
        elif state.late is not None and state.is_used:
            log.info(
                "A request came with a cookie that a rotation had replaced a moment"
                " before: what it did to the session isn't stored, and it sets no"
                " cookie. Usually that's a page that was being loaded during a login."
            )
    elif due and due.is_something and (changes or not defers(due, None)):
        again = _keep_up(state, connect(), due, None if changes else defers)
        wrote = True
    ended, state.ended = state.ended, ()
    return Outcome(
        before, state.loaded, ended, is_rotated, has_new_attributes, wrote, again
    )


def _changes(state: State) -> Row | None:
    """Return what has to be written of a state that has a row, or None."""
    if state.loaded is None or not state.may_differ:
        return None
    changes = state.changes()
    if not (changes or state.is_rotated or state.is_forced):
        return None
    now = state.config.clock()
    changes.update(state.restarts(now))
    if state.is_rotated:
        changes.update(_rotation(state, now))
    is_sent = state.is_rotated or state.has_new_attributes
    if is_sent and state.settings.cookie_max_age is not None:
        changes["sent"] = now
    changes["version"] = state.loaded["version"] + 1
    return changes


def _update(
    state: State,
    connection: Connection,
    changes: Row | None,
    due: Due | None,
    is_own_deletion: Callable[[], bool],
) -> bool:
    """Write the changes of a state that has a row.

    Tell whether the browser gets the same cookie with other attributes.
    """
    table = state.config.table
    while changes is not None and state.loaded is not None:
        extend_to = None if due is None or "idle_expire" in changes else due.extend_to
        is_rotated, has_new_attributes = state.is_rotated, state.has_new_attributes
        # A renewal doesn't raise the version, and these depend on what it has done.
        is_as_it_is = has_new_attributes or "renewal_previous" in changes
        is_as_it_is &= not is_rotated
        if table.update(connection, state.loaded, changes, extend_to, is_as_it_is):
            state.clean({**state.loaded, **changes})
            state.keep_up({}, extend_to)
            return has_new_attributes and not is_rotated
        _make_anew(state, connection, is_own_deletion)
        changes = _changes(state)
    return False


def _keep_up(
    state: State,
    connection: Connection,
    due: Due,
    defers: Callable[[Due, DBAPIError | None], bool] | None,
) -> Ticket | None:
    """Do what's due; return what the cookie carries then."""
    assert state.loaded is not None
    try:
        hit = state.config.table.keep_up(connection, state.loaded["id"], due)
    except DBAPIError as exc:
        # A request that only reads doesn't fail because of this, for instance if the
        # database is read-only. What's left of the transaction is rolled back.
        if defers is None or not defers(due, exc):
            raise
        return None
    if not hit:
        return None
    state.keep_up(due.changes, due.extend_to)
    return due.ticket


def _make_anew(
    state: State, connection: Connection, is_own_deletion: Callable[[], bool]
) -> None:
    """Apply the changes to the row as another request has left it; it's locked now."""
    config, loaded = state.config, state.loaded
    assert loaded is not None
    patch = Patch.between(State(config, loaded), state)
    row = config.table.load_plain(connection, loaded["id"], lock=True)
    fresh = State(config, row)
    if row is None:
        if not is_own_deletion():
            raise StaleDataError(
                "the session has been revoked since this request read it; nothing of"
                " this transaction is stored"
            )
        # The application deleted it, perhaps with its user: what's left is a new one.
        fresh.ended = (End(loaded, state.by, "deleted"),)
    else:
        obstacle = patch.clash(fresh)
        if obstacle is not None:
            raise StaleDataError(
                f"another request changed {obstacle} of this session since this one"
                " read it; nothing of this transaction is stored. It can be tried"
                " again (see pyramid_retry)"
            )
    patch.apply(fresh)
    fresh.data.adopt(state.data)
    state.become(fresh)


def _rotation(state: State, now: int) -> Row:
    """Return what a rotation changes, besides what the application did."""
    assert state.loaded is not None
    columns: dict[str, Any] = {
        "renewal_id": new_id(),
        "rotated": now,
        "rotated_from": state.loaded["renewal_id"],
    }
    for feature in state.config.features:
        columns.update(feature.rotate(state.values, now))
    return columns


def born(state: State) -> Row:
    """Return the row that a new session starts with."""
    config, settings, now = state.config, state.settings, state.config.clock()
    row: Row = dict.fromkeys(config.table.scalars)
    for feature in config.features:
        row.update(feature.begin(settings, now))
    row.update(state.values, id=state.id, version=1)
    row.update(data=state.encoded_data(), flash=state.flash.encode())
    if settings.cookie_max_age is not None:
        row["sent"] = now
    return row
