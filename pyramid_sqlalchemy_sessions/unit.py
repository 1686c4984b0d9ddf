"""What the sessions do in one transaction, as a data manager of that transaction."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Container
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.orm.exc import ConcurrentModificationError
from transaction.interfaces import ISavepointDataManager
from zope.interface import implementer
from zope.sqlalchemy.datamanager import join_transaction, mark_changed

from .after_commit import tell
from .exceptions import TransactionRequiredError
from .feature import Due
from .host import COMMITTING
from .mapping import owners_of
from .outcome import events_of
from .participant import Participant
from .session_config import SessionConfig
from .settle import settle
from .state import State
from .table import Row
from .upkeep import note_witnesses

__all__ = ["Unit"]

log: logging.Logger = logging.getLogger(__name__)

#: Where a transaction and a dbsession keep the unit.
_KEY = "pyramid_sqlalchemy_sessions"


@implementer(ISavepointDataManager)
class Unit:
    """Stores the sessions of one transaction when it commits.

    The unit writes in the phase ``commit`` of the two-phase protocol: by then the
    application's own changes are flushed, SQLAlchemy's data manager hasn't committed
    yet, and any failure rolls back everything. There is one unit in a transaction, and
    in it one state for each row.
    """

    def __init__(self, manager: Any, transaction: Any):
        self.transaction_manager: Any = manager
        self.transaction: Any = transaction
        self.was_doomed: bool = transaction.isDoomed()
        self.is_open: bool = True
        self.is_written: bool = False
        self._is_busy = False  # there may be something to do at the commit
        self._has_hook = False
        # By model and id; the hash of an int is cheaper than that of a UUID.
        self._states: dict[Any, State] = {}
        self._dbsessions: dict[State, Session] = {}
        self._participants: list[Participant] = []
        #: From the dbsessions' savepoints to what there is to go back to.
        self.nested: dict[SessionTransaction, Any] = {}
        #: The tables from which the application has deleted; None for any.
        self.deleted_from: set[Any] = set()
        #: The mapped objects that were handed out, with what is known of their model.
        self.instances: dict[int, tuple[SessionConfig, Any]] = {}
        self._failure: Exception | None = None
        self._wrote_in: list[SessionTransaction] = []

    @classmethod
    def of(cls, manager: Any, transaction: Any) -> Unit:
        """Return the unit of the transaction, which it joins if it's new."""
        try:
            unit: Unit = transaction.data(_KEY)
        except KeyError:
            pass
        else:
            if unit.is_open:
                return unit
        unit = cls(manager, transaction)
        transaction.join(unit)
        transaction.set_data(_KEY, unit)
        return unit

    @classmethod
    def around(cls, dbsession: Session) -> Unit | None:
        """Return the unit of the dbsession's transaction, if it has one."""
        unit: Unit | None = dbsession.info.get(_KEY)
        return unit

    # States.

    def state_of(self, config: SessionConfig, key: uuid.UUID) -> State | None:
        """Return the state of the row with this id, None if it wasn't loaded."""
        return self._states.get((config.table.model_class, key.int))

    def load(
        self,
        config: SessionConfig,
        dbsession: Session,
        connection: Connection,
        key: uuid.UUID,
        lock: bool,
    ) -> State | None:
        """Load the row with this id and return its state; None if there is no row."""
        row, instance = config.table.load(dbsession, connection, key, lock)
        if instance is not None:
            self.instances[id(instance)] = (config, instance)
        return self._add(config, dbsession, key, row)

    def read_again(
        self, config: SessionConfig, dbsession: Session, key: uuid.UUID
    ) -> State | None:
        """Return the state of the row as it is where the dbsession writes."""
        connection = config.table.connection(dbsession, writes=True)
        row = config.table.load_plain(connection, key, lock=False)
        self._states.pop((config.table.model_class, key.int), None)
        return self._add(config, dbsession, key, row)

    def _add(
        self, config: SessionConfig, dbsession: Session, key: uuid.UUID, row: Row | None
    ) -> State | None:
        if row is None:
            return None
        state = State(config, row)
        self._states[config.table.model_class, key.int] = state
        self._dbsessions[state] = dbsession
        return state

    def add(self, state: State) -> None:
        """Add the state of a session that has no row yet."""
        self._states[id(state)] = state

    def dbsession_of(self, state: State) -> Session | None:
        """Return the dbsession that the state belongs to, None if it has none yet."""
        return self._dbsessions.get(state)

    def states_of(self, model_class: type) -> list[State]:
        """Return the states of a model, those of new sessions included."""
        states = self._states.values()
        return [each for each in states if each.config.table.model_class is model_class]

    def instance_of(self, state: State, dbsession: Session) -> Any:
        """Return the mapped object of a row: one for the whole transaction."""
        model_class, row = state.config.table.model_class, state.loaded
        assert row is not None
        instance = dbsession.get(model_class, row["id"])
        # The dbsession itself only has a weak reference.
        self.instances[id(instance)] = (state.config, instance)
        return instance

    # Participants, and their dbsessions.

    def enlist(self, participant: Participant) -> None:
        """Let it take part in the transaction."""
        self._participants.append(participant)

    def watch(self, dbsession: Session) -> None:
        """Follow the savepoints of the dbsession."""
        dbsession.info[_KEY] = self

    def expect(self) -> None:
        """Expect that there is something to do at the commit."""
        self._is_busy = True

    def touch(self, state: State, dbsession: Session) -> None:
        """Expect that the state is going to be stored."""
        if self.is_written:
            raise TransactionRequiredError(
                "the session cannot be changed any more: its transaction is being"
                " committed. Change it earlier, or in a new transaction"
            )
        if not self._has_hook and self.transaction.status != COMMITTING:
            self._has_hook = True
            self.transaction.addBeforeCommitHook(self._join_dbsessions)
        self._is_busy = True
        self._dbsessions[state] = dbsession
        if not dbsession.in_transaction():
            # So that a rollback by the application is noticed; it takes no connection
            # yet.
            dbsession.begin()

    def _join_dbsessions(self) -> None:
        """Bring the dbsessions into the transaction while that's possible.

        Errors are raised in ``commit``: after an error in this hook, pyramid_tm
        wouldn't abort anything.
        """
        try:
            for participant in self._participants:
                participant.bring_in()
            for state in self._states.values():
                if not state.may_differ or state not in self._dbsessions:
                    continue
                dbsession = self._dbsessions[state]
                state.config.table.connection(dbsession, writes=True)
                if dbsession.twophase:  # it asks before we write
                    mark_changed(dbsession, self.transaction_manager)
                else:
                    # It isn't there yet if zope.sqlalchemy doesn't know the dbsession,
                    # or kept it, with its transaction, after the previous one.
                    join_transaction(
                        dbsession, transaction_manager=self.transaction_manager
                    )
        except Exception as exc:
            self._failure = exc

    # What a data manager is asked to do.

    def sortKey(self) -> str:
        # Just before SQLAlchemy's "~sqlalchemy:...", which commits while voting.
        return "~pyramid_sqlalchemy_sessions"

    def tpc_begin(self, transaction: Any) -> None:
        pass

    def commit(self, transaction: Any) -> None:
        if self._failure is not None:
            raise self._failure
        if self._is_busy:
            for participant in self._participants:
                participant.bring_in()
            for participant in self._participants:
                if participant.clear_away():
                    self.wrote(participant.dbsession)
            for state in list(self._states.values()):
                self.settle(state)
        self.is_written = True

    def settle(self, state: State, insists: bool = False) -> None:
        """Write what a state holds, and what is due for it."""
        dbsession = self._dbsessions.get(state)
        if dbsession is None:
            return
        mine = [each for each in self._participants if each.state is state]
        keepers: list[Participant] = []

        def due_for(is_write: bool) -> Due | None:
            for each in mine:
                due = each.due(is_write)
                if due is not None:
                    keepers.append(each)
                    return due
            return None

        note_witnesses(state)
        outcome = settle(
            state,
            lambda: state.config.table.connection(dbsession, writes=True),
            due_for,
            lambda: bool(self.deleted_from & owners_of(state.config.table.mapper)),
            lambda due, error: keepers[0].defers(due, error),
            insists,
        )
        if outcome.wrote:
            self.wrote(dbsession)
            registry = (mine or self._participants)[0].request.registry
            if registry.has_listeners:
                for told in events_of(state, outcome):
                    tell(dbsession, registry, told)
        for each in mine:
            is_its = outcome.again is None or each in keepers
            each.stage(outcome if is_its else outcome._replace(again=None))

    def wrote(self, dbsession: Session) -> None:
        """Tell zope.sqlalchemy about Core statements, which it doesn't notice."""
        mark_changed(dbsession, self.transaction_manager)
        begun = dbsession.get_transaction()
        if begun is not None and begun not in self._wrote_in:
            self._wrote_in.append(begun)

    @property
    def has_changes(self) -> bool:
        """Whether, at a glance, a session was changed in the transaction."""
        return any(state.may_differ for state in self._states.values())

    def tpc_vote(self, transaction: Any) -> None:
        pass

    def tpc_finish(self, transaction: Any) -> None:
        committed = not any(begun.is_active for begun in self._wrote_in)
        if not committed:
            log.error(
                "The session isn't stored, and no cookie is sent: the request's"
                " transaction has been committed, but the dbsession is in another one."
                " Pass the request's transaction manager to zope.sqlalchemy:"
                " register(dbsession, transaction_manager=request.tm)."
            )
        self._end(committed)

    def tpc_abort(self, transaction: Any) -> None:
        self._end(False)

    def abort(self, transaction: Any) -> None:
        self._end(False)

    def should_retry(self, error: BaseException) -> bool:
        return isinstance(error, ConcurrentModificationError)

    def savepoint(self) -> _Savepoint:
        return _Savepoint(self)

    def _end(self, committed: bool) -> None:
        if not self.is_open:
            return
        self.is_open = False
        for dbsession in self._dbsessions.values():
            if dbsession.info.get(_KEY) is self:
                del dbsession.info[_KEY]
        for participant in self._participants:
            participant.leave(committed)

    # Savepoints.

    def snapshot(self) -> tuple[Any, ...]:
        """Return what ``restore`` goes back to."""
        states = {name: (state, state.copy()) for name, state in self._states.items()}
        return states, {each: each.snapshot() for each in self._participants}

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Go back to when the snapshot was taken."""
        states, participants = snapshot
        self.forget(False, participants)
        for name, (state, copy) in states.items():
            state.become(copy.copy())
            self._states[name] = state
        for participant, its in participants.items():
            participant.restore(its)
            self._participants.append(participant)

    def forget(self, wholly: bool, but_for: Container[Participant] = ()) -> None:
        """Forget all: the application rolled back the dbsession, or a part of it."""
        self._states.clear()
        for participant in self._participants:
            if participant not in but_for:
                participant.restore(None, wholly)
        self._participants.clear()


class _Savepoint:
    """What the unit held at one moment, for the transaction to go back to."""

    def __init__(self, unit: Unit):
        self._unit = unit
        self._snapshot = unit.snapshot()

    def rollback(self) -> None:
        self._unit.restore(self._snapshot)
