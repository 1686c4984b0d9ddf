"""Finds the session that the cookies of a request stand for."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session as DBSession

from .answer import Answer
from .conflicts import WAS_LOST
from .cookie import Ticket
from .events import CookieCryptoErrorEvent, InvalidCookieErrorEvent
from .exceptions import CookieCryptoError
from .feature import Use, Verdict
from .findings import Findings
from .host import may_extend
from .identifiers import new_id
from .outcome import Decision
from .session_config import SessionConfig
from .state import State
from .table import Row
from .unit import Unit
from .upkeep import verdict_on

__all__ = ["Finder"]

#: Where the environ keeps what became of the tickets that were judged in the request.
_ACCEPTED = "pyramid_sqlalchemy_sessions.accepted"


class Finder:
    """Knows the cookies of a request, and finds the session in a transaction."""

    def __init__(
        self, config: SessionConfig, request: Any, answer: Answer, findings: Findings
    ):
        self._config = config
        self._request = request
        self._answer = answer
        self._findings = findings
        self.now: int = config.clock()
        self._drawn: int | None = None
        reading = config.cookie.read(request)
        self.tickets: tuple[Ticket, ...] = reading.tickets
        #: What the current session was found with.
        self.ticket: Ticket | None = None
        self._userid: Any = None  # whose session it was then
        #: The id of a session that isn't stored yet.
        self.new_id: UUID | None = None
        #: The dbsession that the rows are in, and the options of its connection.
        self.dbsession: DBSession | None = None
        self.options: Mapping[str, Any] = {}
        if reading.error is not None:
            answer.delete(Decision(None, config.settings))
            kind: type[Any] = InvalidCookieErrorEvent
            if isinstance(reading.error, CookieCryptoError):
                kind = CookieCryptoErrorEvent
            findings.notify(kind(request, reading.error))

    def find(
        self,
        unit: Unit,
        dbsession: DBSession | None,
        lock: bool | None = False,
        forgives: bool = False,
    ) -> State:
        """Return the state of the request's session, new without a good cookie.

        ``lock`` is true if the row is going to be written for sure, and None if it
        isn't going to be written. If ``forgives``, a cookie that was good earlier in
        this request still is, provided that a rotation replaced it, not a login.
        """
        # pyramid_retry is trying again: wait for the others now instead of racing them.
        # After a lost connection nothing was in the way, and a standby couldn't lock
        # anything.
        environ = self._request.environ
        is_again = environ.get("retry.attempt", 0) > 0 and not environ.get(WAS_LOST)
        late = None
        for ticket in self.tickets:
            assert dbsession is not None
            locks = lock is not None and (lock or is_again)
            state, verdict = self.load(unit, dbsession, ticket, locks)
            if state is None:
                continue
            userid = state.values.get("userid")
            is_same = forgives and (ticket, userid) == (self.ticket, self._userid)
            if verdict is Verdict.LATE and is_same:
                verdict = Verdict.VALID
            if verdict is Verdict.VALID:
                self._accept(ticket)
                self._userid = userid
                return state
            assert state.loaded is not None
            if verdict is Verdict.LATE:
                late = late or state.loaded
            elif verdict is Verdict.EXPIRED:
                self._findings.found_expired(state.loaded, self.now)
            elif verdict is Verdict.VIOLATED:
                self.tickets = tuple(each for each in self.tickets if each != ticket)
                self._answer.delete(Decision(None, state.settings))
                self._findings.found_violated(state.loaded)
        new = self.new(late)
        unit.add(new)
        return new

    def new(self, late: Row | None = None) -> State:
        """Return the state of a new session, which has one id until it's stored.

        Tweens, views and exception views may all ask for it, and be rolled back.
        """
        state = State(self._config, None, late)
        self.new_id = state.values["id"] = self.new_id or new_id()
        return state

    def note_options(self, dbsession: DBSession) -> None:
        """Remember how the application has set up the connection."""
        connection = self._config.table.connection(dbsession)
        self.options = connection.get_execution_options()

    def load(
        self, unit: Unit, dbsession: DBSession, ticket: Ticket, lock: bool
    ) -> tuple[State | None, Verdict | None]:
        """Load what the ticket stands for, and judge it."""
        state = unit.state_of(self._config, ticket.id)
        if state is None:
            connection = self._config.table.connection(dbsession, writes=lock)
            self.options = connection.get_execution_options()
            state = unit.load(self._config, dbsession, connection, ticket.id, lock)
        else:
            # A subrequest may have a dbsession of its own, with another connection: one
            # of the two would wait forever for what the other has written.
            dbsession = unit.dbsession_of(state) or dbsession
            self.note_options(dbsession)
        verdict = self._verdict_on(state, ticket)
        is_elsewhere = self._config.table.writes_elsewhere
        if verdict is not Verdict.VALID and is_elsewhere(dbsession):
            # A replica may be behind.
            state = unit.read_again(self._config, dbsession, ticket.id)
            verdict = self._verdict_on(state, ticket)
        if state is not None:
            self.dbsession = dbsession
        return state, verdict

    def _verdict_on(self, state: State | None, ticket: Ticket) -> Verdict | None:
        if state is None:
            return None
        if state.loaded is None:  # ended and started again in this transaction
            return Verdict.VALID
        accepted = self._request.environ.setdefault(_ACCEPTED, {})
        return verdict_on(state, ticket, self.now, accepted)

    def use(self, is_write: bool, rotates: bool) -> Use | None:
        """Return how the request uses the session that was found, or None."""
        if self.ticket is None:
            return None
        commit, extends = self._config.clock(), may_extend(self._request)
        draw = self._draw
        return Use(self.ticket, self.now, commit, is_write, extends, rotates, draw)

    def _draw(self) -> int:
        if self._drawn is None:
            self._drawn = secrets.randbelow(100)
        return self._drawn

    def _accept(self, ticket: Ticket) -> None:
        self.ticket = ticket
        decision = self._answer.decision
        if decision is not None and decision.ticket is None:  # another one was bad
            self._answer.decision = None
        if self._findings.violated:
            # A browser that also has the good cookie hasn't stolen the other one.
            self._findings.acquit(ticket.id)

    def settle_for(self, decision: Decision | None) -> None:
        """Go on with the ticket that the browser is going to have."""
        if decision is not None and not decision.is_again:
            self.ticket = decision.ticket
            self.tickets = (self.ticket,) if self.ticket else ()
        elif self.ticket is not None:
            self.tickets = (self.ticket,)
