"""Upkeep: what's found out about a stored session, and what's due for it."""

from __future__ import annotations

from typing import Any

from .cookie import Ticket
from .feature import Due, Use, Verdict
from .features.renewal import judge
from .identifiers import is_same_id
from .session_config import SessionConfig
from .settings import DefaultSettings
from .state import State
from .table import Row

__all__ = ["Accepted", "due_for", "end_of", "expiry_of", "note_witnesses", "verdict_on"]

#: The tickets that were judged in a request, retries included, with what they were good
#: for: the last rotation of the row, or None if they came too late.
Accepted = dict[Ticket, Any]

#: A cookie with a max-age is sent again when a tenth of it has passed.
_A_TENTH = 10


def verdict_on(state: State, ticket: Ticket, now: int, accepted: Accepted) -> Verdict:
    """Judge a ticket by the row that this transaction found with it.

    A cookie that was good when the request came is still good in its next attempt,
    whatever was renewed in the meantime. If the session was rotated in the meantime, it
    came too late. What this transaction has done itself, for an outer request, say,
    doesn't count.
    """
    row, config = state.found, state.config
    assert row is not None
    is_as_found = row is state.loaded and not state.is_used
    settings = state.settings if is_as_found else config.settings_of(row)
    verdict = judge(row, settings, ticket, now)
    rotation = (row["rotated"], row["rotated_from"])
    if verdict is not Verdict.VALID and ticket in accepted:
        verdict = Verdict.VALID if accepted[ticket] == rotation else Verdict.LATE
    if verdict is Verdict.VALID:
        accepted[ticket] = rotation
    elif verdict is Verdict.LATE:
        accepted[ticket] = None
    present = state.loaded or row
    if verdict in (Verdict.VALID, Verdict.LATE) and expiry_of(config, present, now):
        return Verdict.EXPIRED
    return verdict


def expiry_of(config: SessionConfig, row: Row, now: int) -> str | None:
    """Tell which timeout has ended the session, None if none has."""
    if not config.timeouts:
        return None
    settings = config.settings_of(row)
    for feature in config.timeouts:
        if feature.has_expired(row, settings, now):
            return feature.cause
    return None


def end_of(state: State, due: Due | None) -> int | None:
    """Return the last second of a stored session if what's due is done."""
    config, settings = state.config, state.settings
    row = {**(state.loaded or {}), **state.values, **state.restarts(config.clock())}
    if due is not None and due.extend_to is not None:
        row["idle_expire"] = max(due.extend_to, row["idle_expire"] or 0)
    ends = [feature.ends(row, settings) for feature in config.timeouts]
    return min((end for end in ends if end is not None), default=None)


def due_for(state: State, use: Use) -> Due | None:
    """Return what's due for a stored session."""
    config, row, settings = state.config, state.loaded, state.settings
    assert row is not None
    restarts = state.restarts(use.commit)
    if restarts:
        row = {**row, **restarts}
    due: Due | None = None
    for feature in config.keepers:
        its = feature.due(row, settings, use)
        if its is not None:
            due = its if due is None else _both(due, its)
    is_lasting = settings.cookie_max_age is not None
    if is_lasting and not (use.rotates or state.has_new_attributes):
        due = _send_again(row, settings, use, due)
    return due


def _both(one: Due, other: Due) -> Due:
    return Due(
        {**one.guard, **other.guard},
        {**one.changes, **other.changes},
        one.extend_to if other.extend_to is None else other.extend_to,
        one.ticket if other.ticket is None else other.ticket,
    )


def _send_again(
    row: Row, settings: DefaultSettings, use: Use, due: Due | None
) -> Due | None:
    """Send a cookie with a max-age again, so that it lasts while it's used.

    That's the row's own one, or the candidate that is to replace it: the candidate may
    have been lost on its way, and the next try may come after the cookie's max-age.
    """
    due = due or Due({}, {})
    if due.ticket is not None:
        return due._replace(changes={**due.changes, "sent": use.commit})
    max_age, sent = settings.cookie_max_age, row["sent"]
    assert max_age is not None
    is_old = sent is None or abs(use.commit - sent) * _A_TENTH >= max_age
    if is_old and use.extends:
        current = due.changes.get("renewal_id", row["renewal_id"])
        candidate = due.changes.get("renewal_next", row.get("renewal_next"))
        received = use.ticket.renewal_id
        is_current = is_same_id(received, current) or received is current is None
        if is_current:
            guard = {"renewal_id": row["renewal_id"]}
            if "renewal_next" in row:
                guard["renewal_next"] = row["renewal_next"]
            return Due(
                {**guard, **due.guard},
                {**due.changes, "sent": use.commit},
                due.extend_to,
                Ticket(use.ticket.id, candidate) if candidate else use.ticket,
            )
    return due if due.changes or due.extend_to is not None else None


def note_witnesses(state: State) -> None:
    """Note facts of the request if the session is new or has another user."""
    config, row = state.config, state.loaded
    is_another = row is None or state.values.get("userid") != row.get("userid")
    if config.witnesses and is_another and state.by is not None:
        for feature in config.witnesses:
            columns, environ = config.table.columns, state.by.environ
            state.assign(feature.note(environ, state.settings, columns))
