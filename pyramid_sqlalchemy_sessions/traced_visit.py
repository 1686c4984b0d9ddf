"""A visit that keeps a trace of what was done, for the panel and for the log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from types import FrameType
from typing import Any

from pyramid_tm import AbortWithResponse
from sqlalchemy.orm import Session as DBSession

from .callers import Line, line_of_call, line_of_error, present_calls
from .cookie import Ticket
from .exceptions import (
    CookieCryptoError,
    InconsistentDataError,
    TransactionRequiredError,
)
from .feature import Verdict
from .finder import Finder
from .host import (
    Phase,
    csrf_key_of,
    error_of,
    is_over,
    outer_requests,
    phase_of,
    will_be_retried,
)
from .outcome import Outcome
from .sealing import opened
from .session_config import SessionConfig
from .showing import Showing
from .state import State
from .trace import TRACES, Trace, call_text, log
from .unit import Unit
from .visit import Visit
from .wording import age, raised, secrets_of, sent, written

__all__ = ["visit_for"]


def visit_for(config: SessionConfig, request: Any) -> Visit:
    """Return a visit, one with a trace if the panel or the log is going to show it."""
    environ, outer = request.environ, outer_requests(request)
    if outer and TRACES not in environ:
        # What a subrequest does is told with what the request does that waits for it.
        waiting = (each.environ for each in reversed(outer) if TRACES in each.environ)
        environ = next(waiting, environ)
    kept = environ.get(TRACES)
    if kept is None and not log.isEnabledFor(logging.DEBUG):
        return Visit(config, request)
    attempt, attempts = environ.get("retry.attempt", 0), environ.get("retry.attempts")
    trace = Trace(config.cookie.name, attempt + 1, attempts or 1, bool(outer))
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
        self._is_early, self._has_finished = not is_over(request), False
        header = request.environ.get("HTTP_COOKIE", "")
        self._secrets: set[str] = {*config.cookie.values(header)}
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
                self._trace.note("loaded", age(state, state.loaded))
        return state

    def touch(self, state: State) -> State:
        before = self._inside, self._outside
        line = self._note_call(state)
        try:
            return super().touch(state)
        except TransactionRequiredError:
            self._inside, self._outside = before
            self._trace.note("refused", "it's too late to store it", line, "danger")
            raise

    def persist(self) -> None:
        if self.state is not None:
            self._note_changes_in_place(self.state)
        super().persist()

    def _note_call(self, state: State) -> Line | None:
        """Take note of the method that changes the session, once for each call."""
        calls = present_calls()
        if calls[-1] is self._call:  # it changes several things
            return None
        self._call = calls[-1]
        line = line_of_call(calls[-1])
        told = next(
            each for each in reversed(calls) if each.f_code.co_name != "__ior__"
        )
        text, keys = call_text(told, self._showing(state))
        self._keys.update(keys)
        if self.outside.holds(state):
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
            stored = {} if data.raw is None else data.codec.loads(opened(data.raw))
            show = self._showing(state)
            for key in data.changed_keys(stored) if data.may_differ else ():
                if key in stored and key in data.content and key not in self._keys:
                    self._keys.add(key)
                    self._inside += 1
                    text = f"session[{show.value(key)}] was changed in place"
                    self._trace.note("change", text, brief="in place")

    def _showing(self, state: State) -> Showing:
        """Return what shows values, but neither ids and tokens nor the cookie."""
        csrf_key = csrf_key_of(self.request)
        self._secrets.update(secrets_of(state, csrf_key))
        return Showing(self._secrets, csrf_key)

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
        if self._has_finished:
            self._note_sent()

    def snapshot(self) -> Any:
        return super().snapshot(), self._inside, self._keys.copy(), [*self._outcomes]

    def restore(self, snapshot: Any, wholly: bool = False) -> None:
        line = line_of_call(present_calls()[-1])
        text = "by the application: to a savepoint, or the whole dbsession"
        self._trace.note("rolled back", text, line)
        base, self._inside, self._keys, self._outcomes = snapshot or (
            None,
            0,
            set(),
            [],
        )
        super().restore(base, wholly)
        if not self.outside.patches():
            self._outside = 0

    def _note_commit(self, state: State) -> None:
        for outcome in self._outcomes:
            if outcome.wrote:
                self._trace.note(*written(outcome), style="success")
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
            text, line = raised(error), line_of_error(error)
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
        trace, self._call, self._has_finished = self._trace, None, True
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
        if self.unit is None:
            self._note_sent()
        if log.isEnabledFor(logging.DEBUG):
            trace.write_log(request)

    def _note_sent(self) -> None:
        if self._is_early:
            text = sent(self._response, self.config.cookie.name)
        else:
            text = "no cookie: the response was made before"
        self._trace.note("sent", text)

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
