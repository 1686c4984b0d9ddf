"""Which errors of a database are gone when the transaction is tried again."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.orm.exc import StaleDataError

__all__ = [
    "WAS_LOST",
    "can_be_tried_again",
    "is_conflict",
    "was_lost_before_commit",
]

#: Where the environ says that the last attempt failed because of a lost connection,
#: and not because of others.
WAS_LOST = "pyramid_sqlalchemy_sessions.was_lost"

#: SQLSTATE of PostgreSQL, and of what speaks its protocol: serialization failure,
#: deadlock, lock timeout. Not all of class 40: 40003 says that a commit may have
#: succeeded.
_STATES = frozenset({"40001", "40P01", "55P03"})

#: MariaDB and MySQL: lock timeout, deadlock (and what Galera's certification refuses),
#: innodb_snapshot_isolation, Group Replication's certification.
_CODES = frozenset({1205, 1213, 1020, 3101})

#: "Unknown command", of which Galera makes "WSREP has not yet prepared node for
#: application use": the node is alone, or joining the cluster.
_UNKNOWN_COMMAND = 1047

#: What sqlite3 says by a code since Python 3.11, it has always said by words.
_IS_LOCKED = re.compile(r"database (table |schema )?is locked")

#: "Can't reconnect until invalid transaction is rolled back".
_CONNECTION_WAS_LOST = "8s2b"


def can_be_tried_again(error: BaseException | None) -> bool:
    """Tell whether the error did certainly not commit, and may not happen again.

    It was a conflict with other transactions, or the connection was lost before the
    commit.
    """
    if isinstance(error, DBAPIError) and is_conflict(error):
        return True
    return isinstance(error, StaleDataError) or was_lost_before_commit(error)


def was_lost_before_commit(error: BaseException | None) -> bool:
    """Tell whether the connection was lost when nothing was committed yet.

    If it was lost during the commit, nobody knows whether that has succeeded.
    """
    if isinstance(error, DBAPIError):
        # A COMMIT is no statement, to SQLAlchemy.
        return error.connection_invalidated and error.statement is not None
    return (
        isinstance(error, PendingRollbackError) and error.code == _CONNECTION_WAS_LOST
    )


def is_conflict(error: DBAPIError) -> bool:
    """Tell whether the database refused something because others were in the way."""
    orig: Any = error.orig
    code = orig.args[0] if orig is not None and orig.args else None
    if code == _UNKNOWN_COMMAND:
        return "WSREP" in str(orig)
    state = getattr(orig, "sqlstate", None) or getattr(orig, "pgcode", None)
    return (
        code in _CODES or state in _STATES or _IS_LOCKED.search(str(orig)) is not None
    )
