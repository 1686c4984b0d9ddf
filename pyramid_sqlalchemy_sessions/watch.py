"""Listeners on all dbsessions and engines: savepoints, deletions, failed commits."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from sqlalchemy import Delete, TextClause, event, inspect
from sqlalchemy.engine import Engine, ExceptionContext
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction

from .session_config import SessionConfig
from .unit import Unit

__all__ = ["OF_STORE", "watch_dbsessions"]

#: The execution option of statements that leave the sessions of requests alone.
OF_STORE = "pyramid_sqlalchemy_sessions_of_store"


def watch_dbsessions() -> None:
    """Listen to the savepoints and the failed commits of every dbsession.

    These listeners, the same for the whole process, keep nothing, and do nothing for a
    dbsession in which no web session is used and no commit fails. Listening on each
    dbsession would cost every request more than its web session does.
    """
    for target, name, listener in (
        (Session, "after_transaction_create", _after_transaction_create),
        (Session, "after_soft_rollback", _after_soft_rollback),
        (Session, "before_flush", _before_flush),
        (Session, "do_orm_execute", _do_orm_execute),
        (Engine, "handle_error", _after_error),
    ):
        if not event.contains(target, name, listener):
            event.listen(target, name, listener)


def _after_error(context: ExceptionContext) -> None:
    """Roll back what couldn't be committed.

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
        unit = Unit.around(dbsession)
        if unit is not None:
            unit.nested[transaction] = unit.snapshot()


def _after_soft_rollback(dbsession: Session, previous: SessionTransaction) -> None:
    unit = Unit.around(dbsession)
    if unit is None:
        return
    # A flush that fails rolls back the savepoint around it, but SQLAlchemy only reports
    # the transaction of the flush.
    ended = previous
    while not ended.nested and ended.parent is not None:
        ended = ended.parent
    if ended is not previous and ended.is_active:
        return
    snapshot, unit.nested[ended] = unit.nested.get(ended, _FIRST_USED_IN_IT), None
    if not ended.nested or snapshot is _FIRST_USED_IN_IT:
        unit.forget(not ended.nested)
    elif snapshot is not None:  # it wasn't reported before
        unit.restore(snapshot)


#: Stands for the snapshot of a savepoint after which the session was first used.
_FIRST_USED_IN_IT: Any = object()


def _before_flush(dbsession: Session, context: Any, instances: Any) -> None:
    unit = Unit.around(dbsession)
    if unit is None:
        return
    for instance in dbsession.deleted:
        unit.deleted_from.update(inspect(instance).mapper.tables)
    for config, instance in unit.instances.values():
        if instance in dbsession and dbsession.is_modified(instance):
            _refuse_changes(instance, config)


def _refuse_changes(instance: Any, config: SessionConfig) -> None:
    """Raise InvalidRequestError if a column of the library was changed by hand."""
    mapper, attributes = config.table.mapper, inspect(instance).attrs
    names = [
        mapper.get_property_by_column(c).key for c in config.table.columns.values()
    ]
    changed = [name for name in names if attributes[name].history.has_changes()]
    if changed:
        raise InvalidRequestError(
            f"session.instance: {', '.join(changed)} can only be changed through the"
            " session itself, such as request.session.userid = ...; your model's own"
            " columns can be changed there"
        )


def _do_orm_execute(state: ORMExecuteState) -> None:
    unit, statement = Unit.around(state.session), state.statement
    if unit is None or OF_STORE in state.execution_options:
        return
    if isinstance(statement, TextClause):
        unit.deleted_from.add(None)
    elif isinstance(statement, Delete):
        unit.deleted_from.add(statement.table)
