"""Which database errors may go away when the transaction is tried again.

Most of them arrive as SQLAlchemy's ``DBAPIError``, which wraps the driver's error. Some
arrive bare: the application may have a listener for ``handle_error`` that unwraps them.
"""

from __future__ import annotations

import re
from traceback import walk_tb

from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.orm.exc import StaleDataError

__all__ = [
    "WAS_LOST",
    "can_be_tried_again",
    "code_of",
    "is_conflict",
    "is_of_driver",
    "may_have_committed",
    "was_lost_before_commit",
]

#: Where the environ says that the last attempt failed because of a lost connection, not
#: because of another transaction.
WAS_LOST = "pyramid_sqlalchemy_sessions.was_lost"

_CONFLICTS: frozenset[str | int] = frozenset(
    {
        # SQLSTATE of PostgreSQL, and of what speaks its protocol: serialization
        # failure, deadlock, lock timeout. Not all of class 40: 40003 says that a
        # commit may have succeeded.
        "40001",
        "40P01",
        "55P03",
        # MariaDB and MySQL: lock timeout, deadlock (and what Galera's certification
        # refuses), innodb_snapshot_isolation, Group Replication's certification.
        1205,
        1213,
        1020,
        3101,
    }
)

#: "Unknown command", which Galera uses for "WSREP has not yet prepared node for
#: application use": the node is alone, or joining the cluster.
_UNKNOWN_COMMAND = 1047

#: sqlite3 has codes for this only since Python 3.11, but has always said it in words.
_IS_LOCKED = re.compile(r"database (table |schema )?is locked")

#: "Can't reconnect until invalid transaction is rolled back".
_CONNECTION_WAS_LOST = "8s2b"

#: The classes that every driver has by PEP 249.
_DRIVER_CLASSES = frozenset({"DatabaseError", "InterfaceError"})

#: Statements that never commit, each alone in its string. An error of COMMIT has no
#: statement, but those of COMMIT PREPARED, XA PREPARE and the like have one. And MySQL
#: commits before most statements that aren't listed here.
_NEVER_COMMITS = re.compile(
    r"""
    (?: \s | \( | /\* (?: (?! \*/ ) . )* \*/ | -- [^\n]* \n )*
    (?: SELECT | INSERT | UPDATE | DELETE | MERGE | REPLACE | WITH | VALUES
      | SAVEPOINT | RELEASE | ROLLBACK \s+ TO | XA \s+ (?: BEGIN | START | END )
      | SET (?! .* \b (?: AUTOCOMMIT | STATEMENT ) \b )
    ) \b
    [^;]* ;? \s*
    """,
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)

#: The second phase of a two-phase commit. If the database refuses it, the transaction
#: stays prepared, and may be committed later.
_SECOND_PHASE = re.compile(r"\s*(XA\s+COMMIT|COMMIT\s+PREPARED)\b", re.IGNORECASE)


def can_be_tried_again(error: BaseException | None) -> bool:
    """Tell whether nothing was committed for certain, and trying again may help.

    It was a conflict with other transactions, or the connection was lost before the
    commit.
    """
    if isinstance(error, StaleDataError) or is_conflict(error):
        return not may_have_committed(error)
    return was_lost_before_commit(error)


def was_lost_before_commit(error: BaseException | None) -> bool:
    """Tell whether the connection was lost before anything was committed.

    If it was lost during the commit, the commit may have succeeded. With a bare error,
    a lost connection is recognized only if SQLAlchemy's error is its cause or context.
    """
    was_lost = any(
        isinstance(each, DBAPIError)
        and (each is error or each.orig is error)
        and each.connection_invalidated
        for each in _chain(error)
    )
    if isinstance(error, PendingRollbackError):
        was_lost = error.code == _CONNECTION_WAS_LOST
    return was_lost and not may_have_committed(error)


def is_conflict(error: BaseException | None) -> bool:
    """Tell whether the database refused something because of other transactions.

    The error may be the driver's own.
    """
    if isinstance(error, DBAPIError):
        return error.orig is not None and _says_conflict(error.orig)
    return error is not None and is_of_driver(error) and _says_conflict(error)


def _says_conflict(error: BaseException) -> bool:
    code = code_of(error)
    if code is None:
        return _IS_LOCKED.match(str(error)) is not None
    if code == _UNKNOWN_COMMAND:
        return "WSREP" in str(error)
    return code in _CONFLICTS


def is_of_driver(error: BaseException) -> bool:
    """Tell whether it's a driver's error, or SQLAlchemy's for one."""
    names = {each.__name__ for each in type(error).__mro__}
    # asyncpg doesn't follow PEP 249, but its errors have an SQLSTATE.
    return not names.isdisjoint(_DRIVER_CLASSES) or _state_of(error) is not None


def code_of(error: BaseException) -> str | int | None:
    """Return MySQL's number, or the SQLSTATE, wherever the driver puts it."""
    first = error.args[0] if error.args else None
    if isinstance(first, dict):  # pg8000: the fields of the server's message
        return first.get("C")
    for number in (getattr(error, "errno", None), first):
        if isinstance(number, int):
            return number
    return _state_of(error)


def _state_of(error: BaseException) -> str | None:
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)


def may_have_committed(error: BaseException | None) -> bool:
    """Tell whether a commit that this error has to do with may have succeeded.

    The commit's error may be an earlier one in the chain: an exception view, for
    instance, can run into a conflict of its own while it handles a connection that was
    lost during the commit.
    """
    chain = _chain(error)
    inner = {key for each in chain for key in _wrapped_by(each)}
    return any(_is_of_commit(each) for each in chain if id(each) not in inner)


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return the error and all those that were being handled when it was raised."""
    chain: dict[int, BaseException] = {}
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in chain:  # it may be its own cause
            chain[id(each)] = each
            waiting += (each.__cause__, each.__context__)
    return list(chain.values())


def _wrapped_by(error: BaseException) -> set[int]:
    """Return the ids of the driver's error, and of the causes that the driver gives."""
    wrapped: set[int] = set()
    each: BaseException | None = error.orig if isinstance(error, DBAPIError) else None
    while not (each is None or id(each) in wrapped or isinstance(each, DBAPIError)):
        wrapped.add(id(each))
        each = each.__cause__
    return wrapped


def _is_of_commit(error: BaseException) -> bool:
    """Tell whether it may be the error of a commit that has succeeded."""
    if isinstance(error, DBAPIError):
        statement = error.statement or ""
    elif is_of_driver(error):
        statement = ""
    else:
        return False
    if _NEVER_COMMITS.fullmatch(statement):
        return False
    return _is_of_second_phase(error, statement) or not is_conflict(error)


def _is_of_second_phase(error: BaseException, statement: str) -> bool:
    if _SECOND_PHASE.match(statement):
        return True
    # Some drivers have a method for it instead of a statement, and a bare error doesn't
    # have the statement. But SQLAlchemy always goes through this method of the dialect.
    names = (frame.f_code.co_name for frame, _ in walk_tb(error.__traceback__))
    return "do_commit_twophase" in names
