"""One request's use of one session: where it comes from and what happens to it."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session as DBSession
from sqlalchemy.orm.exc import StaleDataError

from .answer import Answer
from .ending import finish, respond
from .exceptions import TransactionRequiredError
from .feature import Due
from .finder import Finder
from .findings import Findings
from .follow_up import look
from .host import (
    commits_after_exception_view,
    dbsession_of,
    has_written,
    heed_outer_requests,
    in_exception_view,
    is_over,
    transaction_of,
)
from .outcome import Decision, Outcome, decide
from .outside import Outside
from .readonly import NO_INSTANCE, NO_PERSISTING, TOO_LATE, read_only
from .session_config import SessionConfig
from .state import State
from .table import Row
from .unit import Unit
from .upkeep import due_for

__all__ = ["Visit"]


class Visit:
    """Finds the state to work on, and answers the request in the end.

    While the request's transaction runs, the visit is *inside*: it works on a state of
    the transaction's unit. Elsewhere it's *outside* (see Outside), and uses copies.
    """

    finder_class: type[Finder] = Finder

    def __init__(self, config: SessionConfig, request: Any):
        self.config: SessionConfig = config
        self.request: Any = request
        answer, findings = Answer(config, request), Findings(config, request)
        self.answer: Answer = answer
        self.findings: Findings = findings
        self.outside: Outside = Outside()
        self.finder: Finder = self.finder_class(config, request, answer, findings)
        #: The state in the current transaction, and that transaction's unit.
        self.state: State | None = None
        self.unit: Unit | None = None
        self._present: State | None = None  # the one to work on, inside or outside
        self._base: tuple[Row | None, Row | None] | None = None  # as it was before
        self._dbsession: DBSession | None = None
        request.add_response_callback(partial(respond, self))
        heed_outer_requests(request)

    @property
    def dbsession(self) -> DBSession:
        """The request's dbsession, which isn't even made before it's needed."""
        dbsession = self._dbsession
        if dbsession is None:
            name = self.config.settings.dbsession_name
            dbsession = self._dbsession = dbsession_of(self.request, name)
            if self.unit is not None:
                self.unit.watch(dbsession)
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
            assert self.unit is not None
            self.unit.touch(state, self.dbsession)
            if self.unit.was_doomed:
                self.findings.warn_of_doom()
        elif self._is_too_late():
            raise TransactionRequiredError(TOO_LATE)
        else:
            self.expect_end()
        if state.loaded is None and state.by is None:
            state.by = self.request
        state.is_used = True
        return state

    def lend(self, state: State, value: Any) -> Any:
        """Return a value that may be changed in place, so that it's checked later."""
        if state is self.state:
            assert self.unit is not None
            if not self.unit.is_written:
                self.unit.touch(state, self.dbsession)
        elif not self._is_too_late():
            self.expect_end()
        else:
            return read_only(value, self.config.warn_once)
        return value

    def persist(self) -> None:
        """Write the session now."""
        state = self.read()
        if self.outside.holds(state) or state.late is not None:
            raise TransactionRequiredError(NO_PERSISTING)
        state = self.touch(state)
        assert self.unit is not None
        self.dbsession.flush()  # the row may refer to what's pending, such as its user
        self.unit.settle(state, insists=True)

    def instance(self) -> Any:
        """Return the mapped object of the row, None while there is no row."""
        state = self.read()
        if state.loaded is None:
            return None
        if self.unit is None:
            raise TransactionRequiredError(NO_INSTANCE)
        return self.unit.instance_of(state, self.dbsession)

    def foresee(self, state: State) -> Due | None:
        """Return what is going to be due. Outside, a mere look extends nothing."""
        is_idle = self.outside.holds(state) and not state.is_used
        return None if is_idle else self.due(state.is_used)

    # Inside.

    def _enter(self) -> State:
        request = self.request
        transaction, failed = transaction_of(request), in_exception_view(request)
        if failed:
            self.outside.drop_changes_of_failed_view()
        has_more = self.finder.tickets or failed or bool(self.outside)
        if transaction is not None and self.state is None and not has_more:
            # It's in no unit before it's changed: most new sessions never are.
            self._present = self.finder.new()
        else:
            if transaction is not None and self.state is None:
                self._go_inside(transaction)
            if self.state is None or failed:
                self._present = self.outside.open(self._start(), request, self.unit)
            else:
                self.bring_in()  # of an exception view that declined
                self._present = self.state
        self.findings.send()
        return self._present

    def _go_inside(self, transaction: Any) -> None:
        unit = Unit.of(self.request.tm, transaction)
        try:
            dbsession = self.dbsession if self.finder.tickets else None
            state = self.finder.find(unit, dbsession)
        except SQLAlchemyError:
            if not in_exception_view(self.request):
                raise
            # The view broke the transaction of the dbsession.
            self.dbsession.rollback()
            state = self.finder.find(unit, self.dbsession)
        self._dbsession = self.finder.dbsession or self._dbsession
        self.work_on(state, unit)

    def work_on(self, state: State, unit: Unit) -> None:
        """Work on the state, in the unit's transaction, from now on."""
        self.unit = unit
        self.state = self._present = state
        self._base = (state.loaded, state.late)
        unit.enlist(self)
        is_kept = self.config.keepers or self.config.may_be_lasting
        if self.findings.expired or (is_kept and state.loaded is not None):
            unit.expect()
        if self._dbsession is not None:
            unit.watch(self._dbsession)
        if self.findings.violated:
            self.expect_end()
        self.outside.leave(False)
        if self.outside.patches():
            unit.touch(state, self.dbsession)
            self.bring_in()

    def _leave_blank(self, state: State) -> State:
        """Return where to change a new session that has only been read so far."""
        transaction = transaction_of(self.request)
        if transaction is None:
            self._present = None
            return self._enter()
        unit = Unit.of(self.request.tm, transaction)
        unit.add(state)
        self.work_on(state, unit)
        return state

    def go_in(self, unit: Unit, dbsession: DBSession) -> None:
        """Work in the unit's transaction, and bring in what was changed outside."""
        self._dbsession = dbsession
        forgives = not any(each.is_rotated for each in self.outside.patches())
        self.work_on(self.finder.find(unit, dbsession, True, forgives), unit)

    # Outside.

    def _start(self) -> State:
        """Return what a stretch of work outside of a transaction starts from.

        Without ``tm.commit_veto`` pyramid_tm aborts after every exception view, so what
        the failed view changed is already gone. With it, it may commit: the exception
        view sees the changes, and what it changes itself has to fit both outcomes.
        """
        if self.state and commits_after_exception_view(self.request):
            return self.state
        if self._base is None:
            found = look(self)
            self._base = (found.loaded, found.late)
        loaded, late = self._base
        start = State(self.config, loaded) if loaded else self.finder.new(late)
        for patch in self.outside.patches():
            if patch.clash(start) is None:
                patch.apply(start)
        return start

    def expect_end(self) -> None:
        """Make sure that what's changed outside is stored, or logged as lost."""
        if self.unit is not None and self.state is not None:
            self.unit.touch(self.state, self.dbsession)
            if not self.finder.options and self.dbsession.in_transaction():
                with suppress(SQLAlchemyError):  # the view may have broken it
                    self.finder.note_options(self.dbsession)
        if not self.findings.is_end_expected:
            self.findings.is_end_expected = True
            self.request.add_finished_callback(partial(finish, self))

    def _is_too_late(self) -> bool:
        return self.unit is None and (self.answer.is_made or is_over(self.request))

    # Participation in a transaction.

    def bring_in(self) -> None:
        """Bring the changes that were made outside of any transaction into this one."""
        state = self.state
        assert state is not None
        for patch in self.outside.take_in():
            if state.loaded is None and state.late is None and not patch.ended:
                state.late = patch.base.late  # also if its session is gone by now
            if state.late is not None and patch.is_of_row:
                state.is_used |= patch.is_change  # for the log
                patch = patch.for_late()
            elif patch.is_of_row and patch.is_change and not patch.ended:
                gone = state.loaded is None and not state.ended
                obstacle = "the whole" if gone else patch.clash(state)
                if obstacle is not None:
                    raise StaleDataError(
                        f"another request changed {obstacle} of this session while"
                        " this one did, outside of its transaction"
                    )
            patch.apply(state)

    def clear_away(self) -> bool:
        """Delete what was found expired; tell whether a statement was executed."""
        if not self.findings.expired:
            return False
        connection = self.config.table.connection(self.dbsession, writes=True)
        if self.config.isolation.may_conflict(connection):
            return False  # then after the commit
        try:
            settings = self.findings.delete_expired(connection, self.dbsession)
        except DBAPIError:
            # A request that only reads doesn't fail because of this, for instance if
            # the database is read-only: it's tried once more after the commit.
            assert self.unit is not None
            if self.unit.has_changes or has_written(self.dbsession):
                raise
            return False
        if settings is not None and self.finder.ticket is None:
            self.answer.stage(Decision(None, settings))
        return True

    def due(self, is_write: bool) -> Due | None:
        """Return what's due for the state."""
        state = self.state
        if state is None or state.loaded is None:
            return None
        use = self.finder.use(is_write, state.is_rotated)
        return None if use is None else due_for(state, use)

    def defers(self, due: Due, error: DBAPIError | None) -> bool:
        """Tell whether that waits until after the commit, where it may fail."""
        assert self.state is not None
        if error is None:
            connection = self.config.table.connection(self.dbsession, writes=True)
            if not self.config.isolation.may_conflict(connection):
                return False
        elif has_written(self.dbsession):
            return False
        assert self.finder.ticket is not None
        self.findings.deferred = (self.finder.ticket.id, due, self.state.settings)
        return True

    def stage(self, outcome: Outcome) -> None:
        """Note what the commit makes of the state."""
        self.answer.stage(decide(self.config, outcome))

    def leave(self, committed: bool) -> None:
        """Note how the transaction has ended."""
        state, unit, self.unit, self.state = self.state, self.unit, None, None
        self._dbsession = None
        self._present = None if self._present is state else self._present
        self.outside.leave(committed)
        assert state is not None
        assert unit is not None
        self._base = (state.loaded, state.late) if committed else None
        if unit.is_written:  # a commit that fails may have stored it after all
            self.finder.new_id = None if state.loaded else state.values["id"]
        if committed:
            self.finder.settle_for(self.answer.take_staged())
        else:
            self.answer.staged = None
            self.findings.roll_back(state, unit.transaction.isDoomed())
        self.answer.finish()

    def snapshot(self) -> Any:
        """Return what ``restore`` goes back to."""
        inside = self.unit, self.state, self._present, self._base, self.answer.staged
        return inside, self.outside.snapshot(self.request)

    def restore(self, snapshot: Any, wholly: bool = False) -> None:
        """Go back to a savepoint, or with None to before the session was first used."""
        if snapshot is None:
            self.outside.leave(False, None if wholly else self.unit)
            present = None if self._present is self.state else self._present
            inside: Any = None, None, present, None, None
        else:
            inside, outside = snapshot
            self.outside.restore(outside)
        self.unit, self.state, self._present, self._base, self.answer.staged = inside
