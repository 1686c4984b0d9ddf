"""A visit that keeps a trace of what was done, for the panel and for the log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from types import FrameType
from typing import Any

from pyramid.interfaces import IResponse
from pyramid_tm import AbortWithResponse
from sqlalchemy.orm import Session as DBSession
from sqlalchemy.orm.exc import StaleDataError

from .callers import Line, line_of_call, line_of_error, present_calls
from .cookie import Ticket
from .exceptions import (
    CookieCryptoError,
    InconsistentDataError,
    TransactionRequiredError,
)
from .feature import Verdict
from .finder import Finder
from .host import Phase, csrf_key_of, error_of, phase_of, will_be_retried
from .outcome import Outcome
from .sealing import opened
from .session_config import SessionConfig
from .state import State
from .table import Row
from .trace import TRACES, Trace, call_text, log, shown, span
from .unit import Unit
from .visit import Visit

__all__ = ["visit_for"]


def visit_for(config: SessionConfig, request: Any) -> Visit:
    """Return a visit, one with a trace if the panel or the log is going to show it."""
    kept = request.environ.get(TRACES)
    if kept is None and not log.isEnabledFor(logging.DEBUG):
        return Visit(config, request)
    environ = request.environ
    attempt, attempts = environ.get("retry.attempt", 0), environ.get("retry.attempts")
    trace = Trace(config.cookie.name, attempt + 1, attempts or 1)
    if kept is not None:
        kept.append(trace)
    return _TracedVisit(config, request, trace)


_VERDICTS = {
    None: "unknown: there's no such session, or not any more",
    Verdict.VALID: "good",
    Verdict.EXPIRED: "expired",
    Verdict.USELESS: "replaced: its session has another one now",
    Verdict.LATE: "late: a login or a rotation replaced it a moment ago, so the session"
    " is empty, and only a login is stored",
    Verdict.VIOLATED: "violation: it was copied, so its session is deleted",
}

_PLACES = {
    Phase.ABOVE_VIEW: "above the transaction",
    Phase.VIEW: "without a transaction",
    Phase.EXCEPTION_VIEW: "in an exception view",
}


class _TracedFinder(Finder):
    """Remembers what it found out about each cookie."""

    verdicts: Mapping[Ticket, Verdict | None] = {}

    def load(
        self, unit: Unit, dbsession: DBSession, ticket: Ticket, lock: bool
    ) -> tuple[State | None, Verdict | None]:
        state, verdict = super().load(unit, dbsession, ticket, lock)
        self.verdicts = {**self.verdicts, ticket: verdict}
        return state, verdict


class _TracedVisit(Visit):
    """Notes in its trace what the session asks for, and what happens to it."""

    finder_class = _TracedFinder

    def __init__(self, config: SessionConfig, request: Any, trace: Trace):
        super().__init__(config, request)
        self._trace = trace
        self._row: Any = self  # the last one that was noted
        self._call: FrameType | None = None  # the last one that was noted
        self._keys: set[Any] = set()  # of the changes that were noted
        self._outcomes: list[Outcome] = []  # that wait for the commit
        self._response: Any = None
        #: How many changes are neither stored nor lost so far: those in the
        #: transaction, and those outside of it.
        self._inside, self._outside = 0, 0
        request.add_response_callback(self._respond)
        request.add_finished_callback(self._before_finish)

    # What the session asks for.

    def read(self) -> State:
        state = super().read()
        if state.loaded is not self._row:
            if self._row is self:
                self._trace.note("cookie", self._received())
            self._row = state.loaded
            if state.loaded is not None:
                self._trace.note("loaded", _age(state, state.loaded))
        return state

    def touch(self, state: State) -> State:
        line = self._note_call(self.outside.holds(state))
        try:
            return super().touch(state)
        except TransactionRequiredError:
            self._trace.note("refused", "it's too late to store it", line, "danger")
            raise

    def persist(self) -> None:
        if self.state is not None:
            self._note_changes_in_place(self.state)
        super().persist()

    def _note_call(self, is_outside: bool) -> Line | None:
        """Take note of the method that changes the session, once for each call."""
        calls = present_calls()
        if calls[-1] is self._call:  # it changes several things
            return None
        self._call = calls[-1]
        line = line_of_call(calls[-1])
        told = next(
            each for each in reversed(calls) if each.f_code.co_name != "__ior__"
        )
        text, keys = call_text(told, csrf_key_of(self.request))
        self._keys.update(keys)
        if is_outside:
            self._outside += 1
            text += f" ({_PLACES[phase_of(self.request)]})"
        else:
            self._inside += 1
        self._trace.note("change", text, line, brief=told.f_code.co_name)
        return line

    def _note_changes_in_place(self, state: State) -> None:
        """Take note of values that were changed in place, which only shows at the end.

        What can't be read was not changed.
        """
        with suppress(InconsistentDataError):
            data = state.data
            raw = opened(data.raw)
            stored = {} if raw is None else data.codec.loads(raw)
            for key in data.changed_keys(stored) if data.may_differ else ():
                if key in stored and key in data.content and key not in self._keys:
                    self._keys.add(key)
                    self._inside += 1
                    text = f"session[{shown(key)}] was changed in place"
                    self._trace.note("change", text, brief="in place")

    # Participation in a transaction.

    def go_in(self, unit: Unit, dbsession: DBSession) -> None:
        text = "for what was changed outside of the first one"
        self._trace.note("second transaction", text)
        super().go_in(unit, dbsession)

    def bring_in(self) -> None:
        super().bring_in()
        if self.state is not None:
            self._note_changes_in_place(self.state)

    def stage(self, outcome: Outcome) -> None:
        super().stage(outcome)
        self._outcomes.append(outcome)
        self._row = outcome.after

    def leave(self, committed: bool) -> None:
        state, unit = self.state, self.unit
        assert state is not None
        assert unit is not None
        if committed:
            self._note_commit(state)
            self._outside = 0
        else:
            self._note_changes_in_place(state)
            self._note_rollback(unit)
        self._inside = 0
        self._keys.clear()
        self._outcomes.clear()
        super().leave(committed)

    def snapshot(self) -> Any:
        return super().snapshot(), self._inside, self._keys.copy(), [*self._outcomes]

    def restore(self, snapshot: Any) -> None:
        if snapshot is None:  # which comes first for each savepoint
            line = line_of_call(present_calls()[-1])
            text = "by the application: to a savepoint, or the whole dbsession"
            self._trace.note("rolled back", text, line)
        base, self._inside, self._keys, self._outcomes = snapshot or (
            None,
            0,
            set(),
            [],
        )
        super().restore(base)

    def _note_commit(self, state: State) -> None:
        for outcome in self._outcomes:
            if outcome.wrote:
                self._trace.note(*_written(outcome), style="success")
        if any(each.wrote for each in self._outcomes):
            return
        if not (self._inside or self._outside):
            self._trace.note("unchanged", "the session was only read", None, "info")
        elif state.late is not None:
            text = "the cookie came too late, and no user logged in"
            self._trace.note("not stored", text, None, "warning")
        elif state.loaded is None:
            text = "a new session with nothing in it"
            self._trace.note("not stored", text, None, "warning")
        else:
            text = "everything is the same as what was stored before"
            self._trace.note("unchanged", text, None, "info")

    def _note_rollback(self, unit: Unit) -> None:
        error, line = error_of(self.request), None
        if unit.transaction.isDoomed():
            text = "the transaction was doomed"
        elif isinstance(error, AbortWithResponse):
            text = f"tm.commit_veto rejected the response {error.response.status}"
        elif error is not None:
            text, line = _raised(error), line_of_error(error)
        elif unit.is_written:
            text = "the dbsession isn't in the transaction of request.tm: see the log"
        else:
            text, line = (
                "the transaction was aborted",
                line_of_call(present_calls()[-1]),
            )
        if not self._inside:
            text += "; the session hadn't been changed in it"
        style = "danger" if self._inside else "info"
        self._trace.note("rolled back", text, line, style)

    # The end of the request.

    def _respond(self, request: Any, response: Any) -> None:
        self._response = response

    def _before_finish(self, request: Any) -> None:
        request.add_finished_callback(self._finish)  # after all others

    def _finish(self, request: Any) -> None:
        trace, self._call = self._trace, None
        if self.unit is not None:
            text = "its transaction goes on, and may be that of an outer request"
            trace.note("open", text, style="warning")
        elif will_be_retried(request):
            text = "nothing of this attempt counts"
            trace.note("tried again", text, style="warning")
        elif self._inside or self._outside:
            trace.note("not stored", "see the log", style="danger")
        elif not trace.fates:
            trace.note("unchanged", "the session was only read", style="info")
        trace.note("sent", self._sent())
        if log.isEnabledFor(logging.DEBUG):
            trace.write_log(request)

    # Facts in words.

    def _received(self) -> str:
        error = self.config.cookie.read(self.request).error
        if isinstance(error, CookieCryptoError):
            return "not ours: none of the keys made it"
        if error is not None:
            return "not ours: it's malformed"
        finder, causes = (
            self.finder,
            [e.cause for _, e, _ in self.findings.expired.values()],
        )
        assert isinstance(finder, _TracedFinder)
        return (
            "; ".join(
                _VERDICTS[each]
                + (f" ({', '.join(causes)})" if each is Verdict.EXPIRED else "")
                for each in finder.verdicts.values()
            )
            or "none"
        )

    def _sent(self) -> str:
        """Return the header that sets the cookie, without the value."""
        if self._response is None:
            return "no response was made"
        name = f"{self.config.cookie.name}="
        for header in self._response.headers.getall("Set-Cookie"):
            if header.startswith(name):
                value, _, attributes = header[len(name) :].partition(";")
                what = "a cookie" if value else "an order to delete the cookie"
                return f"{what}:{attributes}"
        return "no cookie: the browser keeps what it has"


def _age(state: State, row: Row) -> str:
    """Return how old a session is, and what time it has left."""
    config, now = state.config, state.config.clock()
    text = f"started {span(now - row['created'])} ago, version {row['version']}"
    for each in config.timeouts:
        end = each.ends(row, state.settings)
        if end is not None:
            text += f", {each.cause} timeout in {span(end - now)}"
    return text


def _written(outcome: Outcome) -> tuple[str, str]:
    """Return what was written, as label and text."""
    before, after = outcome.before, outcome.after
    if after is None:
        return "deleted", "the session has ended"
    if before is None:
        is_second = any(end.row is not None for end in outcome.ended)
        return "stored", "as a new session" + is_second * "; the one before has ended"
    columns = [n for n in after if after[n] != before[n] and n != "version"]
    if after["version"] == before["version"]:
        return "kept up", f"nothing was changed, but {', '.join(columns)} was due"
    text = f"{', '.join(columns) or 'nothing'} (version {after['version']})"
    if after["version"] > before["version"] + 1:
        text += "; merged with what another request has stored"
    return "stored", text


def _raised(error: BaseException) -> str:
    """Return what an error is. Most messages can hold anything."""
    name = type(error).__qualname__
    if isinstance(error, (StaleDataError, InconsistentDataError)):
        return f"{name}: {error}"
    raised = "a response that was raised instead of returned"
    return f"{name}, {raised}" if IResponse.providedBy(error) else f"{name} was raised"
