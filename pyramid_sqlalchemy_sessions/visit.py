"""One request's use of one session: where it comes from and what becomes of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session as DBSession
from sqlalchemy.orm.exc import StaleDataError

from .answer import Answer
from .config import SessionConfig
from .conflicts import WAS_LOST
from .cookie import Ticket
from .events import CookieCryptoErrorEvent, InvalidCookieErrorEvent
from .exceptions import CookieCryptoError, TransactionRequiredError
from .feature import Due, Use, Verdict
from .findings import Findings
from .follow_up import follow_up
from .host import (
    Phase,
    commits_after_exception_view,
    dbsession_of,
    end_abandoned,
    in_exception_view,
    in_subrequest,
    is_over,
    outer_requests,
    short_transaction,
    transaction_of,
    vary_with,
    will_be_retried,
)
from .outcome import Decision, Outcome, decide
from .outside import Outside
from .readonly import TOO_LATE, read_only
from .state import State
from .unit import Unit
from .upkeep import due_for, verdict_on

__all__ = ["Visit"]

log: logging.Logger = logging.getLogger(__name__)

#: Where the environ keeps what became of the tickets that were judged in the request.
_ACCEPTED = "pyramid_sqlalchemy_sessions.accepted"


class Visit:
    """Finds the state to work on, and answers the request in the end.

    While the request's transaction runs, the visit is *inside*: it works on a state of
    the transaction's unit. Everywhere else it is *outside* (see there), and works on
    copies.
    """

    def __init__(self, config: SessionConfig, request: Any):
        self.config: SessionConfig = config
        self.request: Any = request
        self.now: int = config.clock()
        self.answer: Answer = Answer(config, request)
        self.findings: Findings = Findings(config, request)
        self.outside: Outside = Outside()
        reading = config.cookie.read(request)
        self.tickets: tuple[Ticket, ...] = reading.tickets
        if reading.error is not None:
            self.answer.delete(Decision(None, config.settings))
            kind: type[Any] = InvalidCookieErrorEvent
            if isinstance(reading.error, CookieCryptoError):
                kind = CookieCryptoErrorEvent
            self.findings.notify(kind(request, reading.error))
        #: What the session in force was found with.
        self.ticket: Ticket | None = None
        #: The state in the present transaction, and that transaction's unit.
        self.state: State | None = None
        self._unit: Unit | None = None
        self._present: State | None = None  # the one to work on, inside or outside
        self._base: State | None = None  # what is stored, before the transaction
        self._dbsession: DBSession | None = None
        self.options: Mapping[str, Any] = {}  # of the connection, as the request set it
        request.add_response_callback(self._respond)
        # What they answer may be made of the answer to this one.
        for outer in outer_requests(request):
            outer.add_response_callback(vary_with)

    @property
    def dbsession(self) -> DBSession:
        """The request's dbsession, which isn't even made before it's needed."""
        dbsession = self._dbsession
        if dbsession is None:
            name = self.config.settings.dbsession_name
            dbsession = self._dbsession = dbsession_of(self.request, name)
            if self._unit is not None:
                self._unit.watch(dbsession)
        return dbsession

    # What the session asks for.

    def read(self) -> State:
        """Return the state to read from."""
        state = self._present
        if state is not None:
            if self.outside.holds(state):
                if self.outside.is_current(state, self.request):
                    return state
            elif self.request.__dict__.get("exception") is None:  # the usual case
                return state
        return self._enter()

    def touch(self, state: State) -> State:
        """Return the state to write to, whose changes are going to be stored."""
        if not (state is self.state or self.outside.holds(state)):
            state = self._leave_blank(state)
        if state is self.state:
            self._touch_inside(state)
        else:
            self._touch_outside()
        if state.loaded is None and state.by is None:
            state.by = self.request
        state.is_used = True
        return state

    def use(self, state: State) -> None:
        """Count as activity what changes nothing."""
        state.is_used = True

    def lend(self, state: State, value: Any) -> Any:
        """Return a value that may be changed in place, so that it's looked at later."""
        if state is self.state:
            assert self._unit is not None
            if not self._unit.is_written:
                self._unit.touch(state, self.dbsession)
        elif not self._is_too_late():
            self._expect_end()
        else:
            kind = type(value)
            value = read_only(value)
            if type(value) is kind and kind is not tuple:
                self.config.warn_once(
                    f"A {kind.__name__} is read from a session after the response was"
                    " made: changes of it would not be stored, and cannot be seen."
                )
        return value

    def persist(self) -> None:
        """Write the session now."""
        state = self.read()
        if self.outside.holds(state) or state.late is not None:
            raise TransactionRequiredError(
                "the session cannot be written now: that takes the request's"
                " transaction, and a cookie that a login has not replaced meanwhile"
            )
        state = self.touch(state)
        assert self._unit is not None
        self._unit.settle(state, insists=True)

    def instance(self) -> Any:
        """Return the mapped object of the row, None while there is no row."""
        state = self.read()
        if state.loaded is None:
            return None
        if self._unit is None:
            raise TransactionRequiredError(
                "session.instance is an object of the request's transaction, and"
                " there is none now: use it in a view"
            )
        return self._unit.instance_of(state, self.dbsession)

    # Inside.

    def _enter(self) -> State:
        request = self.request
        transaction, failed = transaction_of(request), in_exception_view(request)
        if failed:
            self.outside.drop_changes_of_failed_view()
        if transaction is not None and self.state is None:
            if not (self.tickets or self.outside.patches() or failed):
                # In no unit before it's changed: most new sessions never are.
                self._present = State(self.config, None)
                self.findings.send()
                return self._present
            self._go_inside(transaction)
        if self.state is None or failed:
            self._present = self.outside.open(self._start(failed), request)
        else:
            self.bring_in()  # of an exception view that declined
            self._present = self.state
        self.findings.send()
        return self._present

    def _go_inside(self, transaction: Any) -> None:
        unit = Unit.of(self.request.tm, transaction)
        try:
            state = self.find(unit, self.dbsession if self.tickets else None)
        except SQLAlchemyError:
            if not in_exception_view(self.request):
                raise
            # The view broke the transaction of the dbsession.
            self.dbsession.rollback()
            state = self.find(unit, self.dbsession)
        self.work_on(state, unit)

    def find(
        self, unit: Unit, dbsession: DBSession | None, lock: bool = False
    ) -> State:
        """Return the state of the request's session, new if there is no good cookie."""
        # pyramid_retry tries again: now wait for the others instead of racing them,
        # unless nobody was in the way. A standby could not lock anything.
        environ = self.request.environ
        lock = lock or (
            environ.get("retry.attempt", 0) > 0 and not environ.get(WAS_LOST)
        )
        late = None
        for ticket in self.tickets:
            assert dbsession is not None
            state = unit.load(self.config, dbsession, ticket.id, lock)
            verdict = self._verdict_on(state, ticket)
            is_elsewhere = self.config.table.writes_elsewhere
            if verdict is not Verdict.VALID and is_elsewhere(dbsession):
                # A replica may be behind.
                state = unit.read_again(self.config, dbsession, ticket.id)
                verdict = self._verdict_on(state, ticket)
            if state is None:
                continue
            # A subrequest may have a dbsession of its own, with another connection: one
            # of the two would wait forever for what the other has written.
            self._dbsession = unit.dbsession_of(state) or dbsession
            connection = self.config.table.connection(self._dbsession)
            self.options = connection.get_execution_options()
            if verdict is Verdict.VALID:
                self._accept(ticket)
                return state
            assert state.loaded is not None
            if verdict is Verdict.LATE:
                late = late or state.loaded
            elif verdict is Verdict.EXPIRED:
                self.findings.found_expired(state.loaded, self.now)
            elif verdict is Verdict.VIOLATED:
                self.tickets = tuple(each for each in self.tickets if each != ticket)
                self.answer.delete(Decision(None, state.settings))
                self.findings.found_violated(state.loaded)
                # Also if there is no response.
                self._expect_end()
        new = State(self.config, None)
        new.late = late
        unit.add(new)
        return new

    def _verdict_on(self, state: State | None, ticket: Ticket) -> Verdict | None:
        if state is None:
            return None
        if state.loaded is None:  # ended in this transaction, and begun anew
            return Verdict.VALID
        accepted = self.request.environ.setdefault(_ACCEPTED, {})
        return verdict_on(state, ticket, self.now, accepted)

    def _accept(self, ticket: Ticket) -> None:
        self.ticket = ticket
        decision = self.answer.decision
        if decision is not None and decision.ticket is None:  # another one was bad
            self.answer.decision = None
        # Nobody who has the good cookie, too, has stolen the other one.
        self.findings.acquit(ticket.id)

    def work_on(self, state: State, unit: Unit) -> None:
        """Work on the state, in the unit's transaction, from now on."""
        self._unit = unit
        self.state = self._present = state
        self._base = State(self.config, state.loaded)
        self._base.late = state.late
        self.outside.leave(False)
        unit.enlist(self)
        is_kept = self.config.keepers or self.config.may_be_lasting
        if self.findings.expired or (is_kept and state.loaded is not None):
            unit.expect()
        if self._dbsession is not None:
            unit.watch(self._dbsession)
        if self.outside.patches():
            unit.touch(state, self.dbsession)
            self.bring_in()

    def _leave_blank(self, state: State) -> State:
        """Return where to change a new session that was but looked at so far."""
        transaction = transaction_of(self.request)
        if transaction is None:
            self._present = None
            return self._enter()
        unit = Unit.of(self.request.tm, transaction)
        unit.add(state)
        self.work_on(state, unit)
        return state

    def _touch_inside(self, state: State) -> None:
        unit = self._unit
        assert unit is not None
        unit.touch(state, self.dbsession)
        if unit.was_doomed:
            self.findings.warn_once(
                "Nothing of this session will be stored: the transaction was doomed"
                " before the session was first used. If this is a test, its fixture"
                " dooms the transaction: see the documentation on testing."
            )

    def go_in(self, unit: Unit, dbsession: DBSession) -> None:
        """Work in the unit's transaction, and bring in what was changed outside."""
        self._dbsession = dbsession
        self.work_on(self.find(unit, dbsession, lock=True), unit)

    # Outside.

    def _start(self, failed: bool) -> State:
        """Return what a stretch of work outside of a transaction starts from.

        Without ``tm.commit_veto`` pyramid_tm aborts after every exception view, so what
        the failed view changed has already gone. With it, it may commit: the exception
        view sees the changes, and what it changes itself has to fit both outcomes.
        """
        if failed and self.state and commits_after_exception_view(self.request):
            return self.state
        if self._base is None:
            self._base = self._look()
        start = self._base.begun()
        for patch in self.outside.patches():
            if patch.clash(start) is None:
                patch.apply(start)
        return start

    def _look(self) -> State:
        """Return what is stored, from a transaction that does nothing else."""
        if not self.tickets:
            return State(self.config, None)
        name = self.config.settings.dbsession_name
        with short_transaction(self.request, name, commits=False) as (tm, dbsession):
            self.config.table.connection(dbsession, options=self.options)
            state = self.find(Unit.of(tm, tm.get()), dbsession)
        self._dbsession = None
        if self.findings.violated and is_over(self.request):
            follow_up(self)
        return state

    def _touch_outside(self) -> None:
        if self._is_too_late():
            raise TransactionRequiredError(TOO_LATE)
        self._expect_end()

    def _expect_end(self) -> None:
        """Make sure that what is changed outside is stored, or missed."""
        if self._unit is not None and self.state is not None:
            self._unit.touch(self.state, self.dbsession)
            if not self.options and self.dbsession.in_transaction():
                with suppress(SQLAlchemyError):  # the view may have broken it
                    connection = self.config.table.connection(self.dbsession)
                    self.options = connection.get_execution_options()
        if not self.findings.is_end_expected:
            self.findings.is_end_expected = True
            self.request.add_finished_callback(self._finish)

    def _is_too_late(self) -> bool:
        return self._unit is None and (self.answer.is_made or is_over(self.request))

    # Participation in a transaction.

    def bring_in(self) -> None:
        """Do in this transaction what was changed outside of any."""
        state = self.state
        assert state is not None
        for patch in self.outside.take_in():
            base = patch.base.loaded
            if base is not None and not patch.ended and state.late is None:
                gone = state.loaded is None and not state.ended
                obstacle = "the whole" if gone else patch.clash(state)
                if obstacle is not None:
                    raise StaleDataError(
                        f"another request changed {obstacle} of this session while"
                        " this one did, outside of its transaction"
                    )
            patch.apply(state)

    def clear_away(self, unit: Unit) -> None:
        """Delete what was found expired."""
        if not self.findings.expired:
            return
        connection = self.config.table.connection(self.dbsession, writes=True)
        if self.config.isolation.may_conflict(connection):
            return  # then after the commit
        settings = self.findings.delete_expired(connection, self.dbsession)
        unit.wrote(self.dbsession)
        if settings is not None and self.ticket is None:
            self.answer.stage(Decision(None, settings))

    def due(self, is_write: bool) -> Due | None:
        """Return what is due for the state."""
        if self.state is None or self.ticket is None or self.state.loaded is None:
            return None
        use = Use(
            self.ticket,
            self.now,
            self.config.clock(),
            is_write,
            rotates=self.state.is_rotated,
        )
        return due_for(self.state, use)

    def defers(self, due: Due, error: DBAPIError | None) -> bool:
        """Tell whether that waits until after the commit, where it can fail no one."""
        assert self._unit is not None
        assert self.state is not None
        if error is None:
            connection = self.config.table.connection(self.dbsession, writes=True)
            if not self.config.isolation.may_conflict(connection):
                return False
        elif self._unit.has_written(self.state):
            return False
        assert self.ticket is not None
        self.findings.deferred = (self.ticket.id, due, self.state.settings)
        return True

    def stage(self, outcome: Outcome) -> None:
        """Learn what the commit makes of the state."""
        self.answer.stage(decide(self.config, outcome))

    def leave(self, committed: bool) -> None:
        """Learn what became of the transaction."""
        state, self._unit, self.state = self.state, None, None
        self._dbsession = None
        if self._present is state:
            self._present = None
        self.outside.leave(committed)
        self._base = None
        if committed:
            assert state is not None
            self._base = State(self.config, state.loaded)
            self._base.late = state.late
            self.settle_for(self.answer.take_staged())
        else:
            self.answer.staged = None
            self.findings.deferred = None
            self.findings.expired.clear()
        self.answer.finish()

    def settle_for(self, decision: Decision | None) -> None:
        """Take for granted what the browser is going to have."""
        if decision is not None and not decision.is_again:
            self.ticket = decision.ticket
            self.tickets = (self.ticket,) if self.ticket else ()
        elif self.ticket is not None:
            self.tickets = (self.ticket,)

    def snapshot(self) -> Any:
        """Return what ``restore`` goes back to."""
        return self._unit, self.state, self._present, self._base, self.answer.staged

    def restore(self, snapshot: Any) -> None:
        """Go back to a savepoint; None: to before the session was first used."""
        if snapshot is None:
            if self._present is self.state:
                self._present = None
            self.outside.leave(False)
            snapshot = (None, None, self._present, None, None)
        self._unit, self.state, self._present, self._base, staged = snapshot
        self.answer.staged = staged

    # The response.

    def _respond(self, request: Any, response: Any) -> None:
        self._end_abandoned()
        self.answer.is_made = True
        if self._unit is None:
            self._warn_of_manager()
            follow_up(self)
            self.answer.make(response)
            return
        # A subrequest, whose cookie waits for the transaction of the outer request; or
        # nobody is going to commit.
        self.answer.wait(response)
        state = self.state
        if not (in_subrequest(request) or in_exception_view(request)) and (
            self.outside.patches() or (state is not None and state.may_differ)
        ):
            self.findings.warn_once(
                "Nothing of this session is stored so far, and no cookie is sent: the"
                " response is made, but nobody has committed the transaction. Is"
                " 'tm.active' set by something that does not commit, a test fixture"
                " perhaps? See the documentation on testing."
            )

    def _end_abandoned(self) -> None:
        """Make way for what is left to do, if a transaction was left open."""
        if self.findings or self.outside.patches():
            end_abandoned(self.request, self._unit is not None)

    def _finish(self, request: Any) -> None:
        """See to what may be left, in a request that may have had no response."""
        if will_be_retried(request):
            return
        self._end_abandoned()
        if self._unit is not None:
            if self.findings.violated:
                # Of an outer request, whose locks would have to be waited for.
                transaction = self._unit.transaction
                transaction.addAfterCommitHook(self._finish_after)
                transaction.addAfterAbortHook(self._finish_after)
            return
        lost = [] if self.answer.is_made else self.outside.patches()
        self.outside.clear()
        follow_up(self)
        if lost:
            log.error(
                "Changes of a session are lost: they were made outside of a"
                " transaction, in a request that ended without a response or after"
                " its response was made."
            )

    def _finish_after(self, *committed: bool) -> None:
        self.outside.clear()
        follow_up(self)

    def _warn_of_manager(self) -> None:
        manager = getattr(self.request, "tm", None)
        if not self.outside.patches():
            return
        if manager is None:
            self.config.warn_once(
                "This application changes sessions, but does not use pyramid_tm: they"
                " are stored when the response is ready, in a transaction of their"
                " own, whatever becomes of the application's. Do"
                " config.include('pyramid_tm')."
            )
        elif not (
            getattr(manager, "explicit", False)
            or self.outside.phases() <= {Phase.EXCEPTION_VIEW}
        ):
            self.config.warn_once(
                "A session is being changed outside of the transaction of"
                " pyramid_tm: it is stored when the response is ready, in a"
                " transaction of its own. Where there is no response, in a script,"
                " say, it is not stored: use an explicit transaction manager there"
                " (tm.manager_hook = pyramid_tm.explicit_manager)."
            )
