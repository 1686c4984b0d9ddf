"""What is changed outside of the request's transaction, and how it is stored."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm.exc import StaleDataError

from .conflicts import can_be_tried_again
from .host import (
    Phase,
    commits_after_exception_view,
    in_exception_view,
    own_transaction,
    phase_of,
    transaction_of,
    will_be_retried,
)
from .outbox import send_of
from .record import MergeConflict, Record
from .unit import Unit

if TYPE_CHECKING:
    from .visit import Visit

__all__ = ["Aside"]

log: logging.Logger = logging.getLogger(__name__)

Result = TypeVar("Result")

#: How often something is tried while others write the same row.
ATTEMPTS = 5


class Aside:
    """Keeps what a visit changes where no transaction will store it.

    That is in an exception view, whose transaction is going to be aborted, in a
    tween above pyramid_tm, and without pyramid_tm. There the session works on copies
    of its record. Those that are changed, the patches, are merged into the record of
    a transaction of the request, if there is one that commits; else into the row, in
    the response callback, in a short transaction of its own.
    """

    __slots__ = ("_patches", "_phase", "_taken_in", "_visit")

    def __init__(self, visit: Visit):
        self._visit = visit
        self._patches: list[Record] = []  # in the order in which they were made
        self._taken_in = 0  # so many of them are in the record of the transaction
        self._phase = Phase.ABOVE_VIEW  # of the present copy

    def __bool__(self) -> bool:
        return bool(self._patches)

    def has_changes(self) -> bool:
        """Tell whether there is anything to store."""
        return any(patch.may_differ() for patch in self._patches)

    # Working on a copy.

    def is_current(self) -> bool:
        """Tell whether the copy that was made last is still the one to work on."""
        request = self._visit.request
        phase = phase_of(request)
        return phase is self._phase and (
            phase is Phase.EXCEPTION_VIEW or transaction_of(request) is None
        )

    def copy(self, main: Record | None) -> Record:
        """Return a copy to work on; ``main`` is the record in the transaction.

        Without ``tm.commit_veto`` pyramid_tm aborts after every exception view,
        so what the failed view changed has already gone. With it, it may commit: the
        exception view sees the changes, and what it changes itself has to fit both
        outcomes.
        """
        visit = self._visit
        self._phase = phase_of(visit.request)
        if main is not None and commits_after_exception_view(visit.request):
            return self._copy_of(main, origin=visit.row_before())
        if self._patches:
            patch = self._patches[-1]
            return self._copy_of(patch, origin=patch.origin)
        return Record(visit.config, visit.row_before())

    def _copy_of(self, record: Record, origin: dict[str, Any] | None) -> Record:
        row = None if record.deleted else {**record.current(), "id": record.key}
        copy = Record(self._visit.config, row)
        copy.origin = origin
        return copy

    def holds(self, copy: Record) -> bool:
        """Tell whether the copy is among the patches."""
        return copy in self._patches

    def add(self, copy: Record) -> None:
        """Count the copy as changed."""
        copy.phase = self._phase
        self._patches.append(copy)

    def drop_changes_of_failed_view(self) -> None:
        """Forget what a view changed that had no transaction to roll that back."""
        self._patches = [each for each in self._patches if each.phase is not Phase.VIEW]

    def clear(self) -> None:
        """Forget everything: it is stored."""
        self._patches.clear()
        self._taken_in = 0

    # In a transaction of the request.

    def begin(self) -> None:
        """Know that no patch is in the record of the transaction."""
        self._taken_in = 0

    def is_taken_in(self) -> bool:
        """Tell whether the record of the transaction has all patches."""
        return self._taken_in == len(self._patches)

    def take_in(self, main: Record | None, unit: Unit) -> tuple[Record | None, bool]:
        """Merge the patches into the unit's records.

        Returns the visit's record in the transaction, and whether a session ended.
        """
        visit, ended = self._visit, False
        for patch in self._patches[self._taken_in :]:
            if patch.key is None:
                if main is None or main.deleted:
                    main = Record(visit.config, None)
                    unit.add(main)
                main.dbsession = visit.dbsession
                main.merge(patch)
            else:
                record = unit.load(visit.config, visit.dbsession, patch.key, False)
                if record is not None:
                    main = record
                    main.merge(patch)
                    ended |= main.deleted
        self._taken_in = len(self._patches)
        return main, ended

    # In a transaction of its own.

    def bind(self) -> Engine | Connection:
        """Return what the dbsession uses for the model."""
        visit = self._visit
        return visit.dbsession.get_bind(visit.config.table.mapper)

    def transaction(self) -> AbstractContextManager[Connection]:
        """Begin and commit a transaction beside that of the request."""
        return own_transaction(self.bind())

    def transact(self, work: Callable[[Connection], Result]) -> Result:
        """Do the work in a transaction of its own; do it again after a conflict."""
        attempts = ATTEMPTS
        while True:
            attempts -= 1
            try:
                with self.transaction() as connection:
                    return work(connection)
            except (StaleDataError, DBAPIError) as exc:
                is_final = isinstance(exc, MergeConflict) or not attempts
                if is_final or not can_be_tried_again(exc):
                    raise

    def store(self) -> tuple[Record | None, bool] | None:
        """Store the patches, if there are any, now that no transaction will.

        Returns the record of the session as it is stored now, and whether one ended.
        """
        request = self._visit.request
        if in_exception_view(request):
            self.drop_changes_of_failed_view()
        if not self.has_changes():
            return None
        if will_be_retried(request):
            self.clear()
            return None
        record, ended, stored = self.transact(self._merge_into_rows)
        for each in stored:
            send_of(each, request)
        return record, ended

    def _merge_into_rows(
        self, connection: Connection
    ) -> tuple[Record | None, bool, Iterable[Record]]:
        visit, config = self._visit, self._visit.config
        record: Record | None = None
        records: dict[uuid.UUID | None, Record] = {}
        ended = False
        for patch in self._patches:
            # The transaction is aborted: it is the row before it that is changed.
            key = patch.key if patch.origin is None else patch.origin["id"]
            if key is None:
                if record is None or record.deleted:
                    record = records[None] = Record(config, None)
            elif key not in records:
                row = config.table.load_plain(connection, key, True)
                if row is None:  # revoked meanwhile
                    log.info("A session was revoked while a request changed it.")
                    continue
                record = records[key] = Record(config, row)
            else:
                record = records[key]
            record.merge(patch)
            ended |= record.deleted and key is not None
        for each in records.values():
            visit.decide(each)
            visit.make_changes(each, connection)
            each.store(connection)
        return record, ended, records.values()
