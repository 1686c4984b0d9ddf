"""What the sessions do in one transaction, as a data manager of that transaction."""

from __future__ import annotations

import logging
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.engine import Engine, ExceptionContext
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.orm.exc import ConcurrentModificationError
from transaction.interfaces import ISavepointDataManager
from zope.interface import implementer
from zope.sqlalchemy.datamanager import join_transaction, mark_changed

from .exceptions import TransactionRequiredError
from .host import COMMITTING
from .outbox import tell_of
from .record import Record

if TYPE_CHECKING:
    from .config import SessionConfig
    from .visit import Visit

__all__ = ["Unit", "watch_dbsessions"]

log: logging.Logger = logging.getLogger(__name__)

#: Where a transaction and a dbsession keep the unit.
_KEY = "pyramid_sqlalchemy_sessions"


@implementer(ISavepointDataManager)
class Unit:
    """Stores the sessions of one transaction when it commits.

    The unit writes in the phase ``commit`` of the two-phase protocol: by then the
    application's own changes are flushed, SQLAlchemy's data manager has not yet
    committed, and whatever fails rolls back everything. There is one unit in a
    transaction, so that two sessions on one row share its record.
    """

    def __init__(self, manager: Any, transaction: Any):
        self.transaction_manager: Any = manager
        self.transaction: Any = transaction
        self.was_doomed: bool = transaction.isDoomed()
        self.is_open: bool = True
        # By model and id; the hash of an int is cheaper than that of a UUID.
        self._records: dict[tuple[type, int], Record] = {}
        self._new_records: list[Record] = []
        self._visits: list[Visit] = []
        self._dbsessions: list[Session] = []
        self._nested: dict[SessionTransaction, tuple[Any, ...] | None] = {}
        self.is_busy: bool = False  # there may be something to do at the commit
        self.is_written: bool = False
        self._will_join = False
        self._failure: Exception | None = None
        self._wrote_in: list[SessionTransaction] = []

    @classmethod
    def of(cls, manager: Any, transaction: Any) -> Unit:
        """Return the unit of the transaction, which it joins if it is new."""
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
        """Return the unit of the transaction that the dbsession is in, if it has one.

        It has one if a web session was used in it.
        """
        unit: Unit | None = dbsession.info.get(_KEY)
        return unit

    def enlist(self, visit: Visit) -> None:
        """Take part in what becomes of the transaction."""
        self._visits.append(visit)

    def watch(self, dbsession: Session) -> None:
        """Follow the savepoints of the dbsession."""
        if dbsession not in self._dbsessions:
            self._dbsessions.append(dbsession)
            dbsession.info[_KEY] = self

    def load(
        self, config: SessionConfig, dbsession: Session, key: uuid.UUID, lock: bool
    ) -> Record | None:
        """Return the record of the row with this id; None if there is none."""
        name = (config.table.model_class, key.int)
        record = self._records.get(name)
        if record is None:
            row, instance = config.table.load(dbsession, key, lock)
            if row is None:
                return None
            record = self._records[name] = Record(config, row, dbsession, instance)
        return None if record.deleted else record

    def records_of(self, model_class: type) -> list[Record]:
        """Return the records of a model, those of new sessions included."""
        return [
            record
            for record in (*self._records.values(), *self._new_records)
            if record.config.table.model_class is model_class
        ]

    def add(self, record: Record) -> None:
        """Take the record of a session that has no row yet."""
        self._new_records.append(record)

    def touch(self) -> None:
        """Expect that something is going to be stored."""
        if self.is_written:
            raise TransactionRequiredError(
                "the session cannot be changed any more: its transaction is being"
                " committed. Change it earlier, or in a new transaction"
            )
        self.is_busy = True
        if not self._will_join and self.transaction.status != COMMITTING:
            self._will_join = True
            self.transaction.addBeforeCommitHook(self._join_dbsessions)

    def _records_to_store(self) -> list[Record]:
        return [
            record
            for record in (*self._records.values(), *self._new_records)
            if record.may_differ()
        ]

    def _join_dbsessions(self) -> None:
        """Bring the dbsessions into the transaction while that is possible.

        Whatever goes wrong is raised in ``commit``: after an error in this hook
        pyramid_tm would abort nothing.
        """
        try:
            for visit in self._visits:
                visit.join()
            for record in (*self._records.values(), *self._new_records):
                if record.pending and not record.dbsession.in_transaction():
                    record.config.table.connection(record.dbsession)
            for dbsession in self._dbsessions:
                if dbsession.twophase:  # it asks before we write
                    mark_changed(dbsession, self.transaction_manager)
                elif dbsession.in_transaction():
                    # Not there yet if zope.sqlalchemy does not know the dbsession,
                    # or kept it, with its transaction, after the one before.
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
        if not self.is_busy:
            self.is_written = True
            return
        for visit in self._visits:
            visit.take_in_patches()
        for visit in self._visits:
            if visit.act():
                self._wrote(visit.dbsession)
        for record in self._records_to_store():
            connection = record.config.table.connection(record.dbsession)
            record.store(connection)
            self._wrote(record.dbsession)
            tell_of(record, self._visits[0].request)
        self.is_written = True
        for visit in self._visits:
            visit.stage()

    def _wrote(self, dbsession: Session) -> None:
        # In Core statements, of which nobody else tells zope.sqlalchemy.
        mark_changed(dbsession, self.transaction_manager)
        begun = dbsession.get_transaction()
        if begun is not None:
            self._wrote_in.append(begun)

    def tpc_vote(self, transaction: Any) -> None:
        pass

    def tpc_finish(self, transaction: Any) -> None:
        committed = True
        for begun in self._wrote_in:
            committed = committed and not begun.is_active
        if not committed:
            log.error(
                "The session is not stored, and no cookie is sent: the request's"
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
        for dbsession in self._dbsessions:
            if dbsession.info.get(_KEY) is self:
                del dbsession.info[_KEY]
        for visit in self._visits:
            visit.leave(committed)

    # Savepoints of the dbsession.

    def nested_begun(self, nested: SessionTransaction) -> None:
        self._nested[nested] = self.snapshot()

    def nested_rolled_back(self, nested: SessionTransaction) -> None:
        if nested in self._nested:
            snapshot, self._nested[nested] = self._nested[nested], None
            if snapshot is not None:  # not reported before
                self.restore(snapshot)
        else:  # the session was first used after the savepoint
            self._nested[nested] = None
            self._forget()

    def rolled_back(self) -> None:
        """Forget everything: somebody rolled back the dbsession itself."""
        self._forget()

    def snapshot(self) -> tuple[Any, ...]:
        """Return what ``restore`` goes back to."""
        return (
            [(name, each, each.snapshot()) for name, each in self._records.items()],
            [(each, each.snapshot()) for each in self._new_records],
            [(visit, visit.snapshot()) for visit in self._visits],
        )

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Go back to what was when the snapshot was taken."""
        self._forget()
        records, new_records, visits = snapshot
        for name, record, state in records:
            record.restore(state)
            self._records[name] = record
        for record, state in new_records:
            record.restore(state)
            self._new_records.append(record)
        for visit, state in visits:
            visit.restore(state)
            self._visits.append(visit)

    def _forget(self) -> None:
        self._records.clear()
        self._new_records.clear()
        for visit in self._visits:
            visit.forget()
        self._visits.clear()


class _Savepoint:
    """What the unit held at one moment, for the transaction to go back to."""

    def __init__(self, unit: Unit):
        self._unit = unit
        self._snapshot = unit.snapshot()

    def rollback(self) -> None:
        self._unit.restore(self._snapshot)


def watch_dbsessions() -> None:
    """Be told of the savepoints and of the failed commits of every dbsession.

    These listeners, the same for the whole process, keep nothing, and do nothing for a
    dbsession in which no web session is used and no commit fails. Listening on each
    dbsession would cost every request more than its web session does.
    """
    for target, name, listener in (
        (Session, "after_transaction_create", _after_transaction_create),
        (Session, "after_soft_rollback", _after_soft_rollback),
        (Engine, "handle_error", _after_error),
    ):
        if not event.contains(target, name, listener):
            event.listen(target, name, listener)


def _after_error(context: ExceptionContext) -> None:
    """Roll back what could not be committed.

    SQLite's transaction goes on if its COMMIT finds the database locked. Then
    zope.sqlalchemy closes the dbsession, and SQLAlchemy gives the connection back to
    its pool as it is: the next request that gets it would see, and commit, what this
    one did.
    """
    is_commit = context.statement is None and context.execution_context is None
    if is_commit and context.connection is not None and not context.is_disconnect:
        with suppress(Exception):  # it may have been a rollback that failed
            context.dialect.do_rollback(context.connection.connection)


def _after_transaction_create(
    dbsession: Session, transaction: SessionTransaction
) -> None:
    if transaction.nested:
        unit = dbsession.info.get(_KEY)
        if unit is not None:
            unit.nested_begun(transaction)


def _after_soft_rollback(dbsession: Session, previous: SessionTransaction) -> None:
    unit = dbsession.info.get(_KEY)
    if unit is None:
        return
    # A flush that fails rolls back the savepoint around it, of which SQLAlchemy tells
    # but the transaction of the flush.
    ended = previous
    while not ended.nested and ended.parent is not None:
        ended = ended.parent
    if ended is not previous and ended.is_active:
        return
    if ended.nested:
        unit.nested_rolled_back(ended)
    else:
        unit.rolled_back()
