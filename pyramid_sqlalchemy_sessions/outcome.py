"""What follows from a settled state: the cookie, and the events."""

from __future__ import annotations

from typing import NamedTuple

from .cookie import Ticket
from .events import (
    SessionCreatedEvent,
    SessionEvent,
    SessionRevokedEvent,
    SessionRotatedEvent,
)
from .session_config import SessionConfig
from .settings import DefaultSettings
from .state import End, State
from .table import Row

__all__ = ["Decision", "Outcome", "decide", "events_of"]


class Outcome(NamedTuple):
    """What settling a state has done to the database."""

    #: The row that the state was loaded with, None if there was none.
    before: Row | None
    #: The row now, None if there is none.
    after: Row | None
    #: The sessions that were ended.
    ended: tuple[End, ...]
    is_rotated: bool
    #: Whether the browser gets the same cookie with other attributes.
    has_new_attributes: bool
    #: Whether a statement was executed.
    wrote: bool
    #: The ticket of a cookie that's sent again, or that starts a renewal.
    again: Ticket | None = None


class Decision(NamedTuple):
    """What the response does with the cookie: send a ticket, or delete it without one.

    None instead of a decision means that the browser keeps what it has.
    """

    ticket: Ticket | None
    settings: DefaultSettings
    #: Whether the cookie that the request came with stays good: this one is the same,
    #: or a candidate, which only counts once a browser has sent it.
    is_again: bool = False
    #: The settings of a cookie for another path or domain, which this one doesn't
    #: replace, so that it has to be deleted.
    moved_from: DefaultSettings | None = None

    def after(self, before: Decision) -> Decision:
        """Return what this becomes after another one that no browser has seen."""
        was = before.moved_from
        if self.ticket is None:
            return self if was is None else self._replace(settings=was)
        was = was or (before.settings if before.ticket is None else None)
        return self.instead_of(was or self.moved_from)

    def instead_of(self, was: DefaultSettings | None) -> Decision:
        """Return what this is for a browser that has a cookie with those settings."""
        is_there = was is None or (
            (was.cookie_path, was.cookie_domain)
            == (self.settings.cookie_path, self.settings.cookie_domain)
        )
        moved_from = None if is_there else was
        if moved_from is self.moved_from:
            return self
        return self._replace(moved_from=moved_from)


def decide(config: SessionConfig, outcome: Outcome) -> Decision | None:
    """Decide what happens to the cookie once the transaction is committed."""
    after = outcome.after
    if after is None:
        gone = [end.row for end in outcome.ended if end.row is not None]
        return Decision(None, config.settings_of(gone[0])) if gone else None
    settings = config.settings_of(after)
    if outcome.before is None or outcome.is_rotated or outcome.has_new_attributes:
        candidate = after.get("renewal_next")  # which a new or rotated one doesn't have
        ticket = Ticket(after["id"], candidate or after["renewal_id"])
        rows = (outcome.before, *(end.row for end in outcome.ended))
        was = next((row for row in rows if row is not None), None)
        decision = Decision(ticket, settings, outcome.has_new_attributes)
        return decision.instead_of(None if was is None else config.settings_of(was))
    return outcome.again and Decision(outcome.again, settings, is_again=True)


def events_of(state: State, outcome: Outcome) -> list[SessionEvent]:
    """Return the events to send after the commit."""
    tell = state.config.cookie.fingerprint
    events: list[SessionEvent] = []
    for row, request, cause in outcome.ended:
        if row is not None:
            userid = row.get("userid")
            why = cause or ("invalidate" if userid is None else "logout")
            fingerprint = tell(row["id"])
            events.append(SessionRevokedEvent(request, fingerprint, userid, why))
    before, after = outcome.before, outcome.after
    if after is None:
        return events
    userid = after.get("userid")
    if before is None:
        fingerprint, why = tell(after["id"]), "data" if userid is None else "login"
        events.append(SessionCreatedEvent(state.by, fingerprint, userid, why))
    elif outcome.is_rotated:
        fingerprint = tell(after["id"])
        was = before.get("userid")
        why = "rotate" if was == userid else "login" if was is None else "switch"
        if userid is None and was is not None:
            userid, why = was, "logout"
        events.append(SessionRotatedEvent(state.by, fingerprint, userid, why))
    return events
