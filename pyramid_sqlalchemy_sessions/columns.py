"""What the columns can hold: checked when a row is read, and before one is written.

Other programs may write anything to the table, SQLite takes any value in any column,
and a database that isn't strict cuts off what's too long. No message quotes a value: it
may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import (
    CHAR,
    JSON,
    BigInteger,
    Enum,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    TypeDecorator,
    Uuid,
    text,
)
from sqlalchemy.dialects.mysql import MEDIUMBLOB, MEDIUMINT, TINYBLOB, TINYINT
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.types import BLOB

from .exceptions import InconsistentDataError

__all__ = [
    "MYSQL",
    "SMALL_PACKET",
    "Limit",
    "Rule",
    "cannot_be_read",
    "check_row",
    "is_unreadable",
    "limits_of",
    "refuse_excess",
    "refuse_packet",
    "rules_of",
]

_NOT_NULL = frozenset({"created", "data", "flash", "version"})
# Seconds since the epoch have ten digits until the year 2286, milliseconds thirteen.
_LATEST = 10**11 - 1
_HIGHEST = {
    "created": _LATEST,
    "idle_expire": _LATEST,
    "absolute_expire": _LATEST,
    "renewed": _LATEST,
    "renewal_tried": _LATEST,
    "last_seen": _LATEST,
    "authenticated": _LATEST,
    "rotated": _LATEST,
    "sent": _LATEST,
    "version": 2**31 - 2,  # one more has to fit
}
_REMEDY = "was it written by another program? Correct it, or delete the row"

#: The columns whose values come from the application.
_GIVEN = ("userid", "data", "flash")
#: Those that can be larger than a packet.
_LARGE = ("data", "flash")
#: The most bytes that the rest of a statement takes.
_OTHER_COLUMNS = 16 * 1024
#: Bytes that take two in a statement for MariaDB or MySQL, as they are escaped.
_ESCAPED = (b"\0", b"\n", b"\r", b"\x1a", b'"', b"'", b"\\")
#: The names of SQLAlchemy's dialects for MariaDB and MySQL.
MYSQL = ("mysql", "mariadb")
#: Servers of MySQL and MariaDB take this much unless they're configured to take less.
SMALL_PACKET = 2**20


class Rule(NamedTuple):
    """What a column of a stored session can hold."""

    name: str
    kind: type
    is_nullable: bool
    highest: int | None  # if it's set, the lowest is 0
    type_name: str


def rules_of(columns: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Return the rules that follow from the names and types of the columns."""
    rules: list[Rule] = []
    for name, column in columns.items():
        kind = object
        # Garbage in the data is found when it's used, so that the session can be ended.
        if name != "data" and isinstance(
            column.type, (Integer, LargeBinary, String, Uuid)
        ):
            kind = column.type.python_type
        highest = _HIGHEST.get(name) if kind is int else None
        type_name = type(column.type).__name__
        rules.append(Rule(name, kind, name not in _NOT_NULL, highest, type_name))
    return tuple(rules)


def check_row(rules: Iterable[Rule], row: Mapping[str, Any]) -> None:
    """Raise InconsistentDataError for a row that holds what the library never stores.

    The error names the column.
    """
    for name, kind, is_nullable, highest, type_name in rules:
        value = row[name]
        if value is None:
            if not is_nullable:
                raise InconsistentDataError(
                    f"the column {name!r} of a stored session is NULL: {_REMEDY}"
                )
        elif type(value) is not kind and not isinstance(value, kind):
            raise cannot_be_read(name, type_name)
        elif highest is not None and not 0 <= row[name] <= highest:
            raise InconsistentDataError(
                f"the column {name!r} of a stored session holds a number that is not"
                f" between 0 and {highest}: {_REMEDY}"
            )


def cannot_be_read(name: str, type_name: str) -> InconsistentDataError:
    """Return the error for a value that isn't of the column's type."""
    return InconsistentDataError(
        f"the column {name!r} of a stored session cannot be read: what it holds is"
        f" not of the type {type_name}; {_REMEDY}"
    )


def is_unreadable(error: Exception) -> bool:
    """Tell whether the error may be about a value, not about the database.

    The application's own column types may raise anything. Of the drivers, only SQLite's
    looks at values: text must be UTF-8.
    """
    if isinstance(error, DBAPIError):
        return "Could not decode" in str(error.orig)
    return not isinstance(error, SQLAlchemyError)


class Limit(NamedTuple):
    """How much a column takes, on one kind of database."""

    name: str
    length: int | None  # of a text or of bytes
    lowest: int | None
    highest: int | None
    refused: str | None  # what no text may match
    depth: int | None  # how many levels JSON may have


def limits_of(columns: Mapping[str, Any], dialect: Dialect) -> tuple[Limit, ...]:
    """Return the limits of those columns whose values come from the application.

    Columns of the application's own types aren't among them, as these may store
    something shorter.
    """
    limits: list[Limit] = []
    for name in _GIVEN:
        if name in columns and not isinstance(columns[name].type, TypeDecorator):
            column_type = columns[name].type.dialect_impl(dialect)
            length = _length(column_type, dialect)
            lowest, highest = _bounds(column_type, dialect)
            refused, depth = _refused_text(column_type, dialect), None
            if dialect.name in MYSQL and isinstance(column_type, JSON):
                depth = 31 if getattr(dialect, "is_mariadb", False) else 100
            limits.append(Limit(name, length, lowest, highest, refused, depth))
    return tuple(limits)


def _refused_text(column_type: Any, dialect: Dialect) -> str | None:
    """Return a regular expression for what wouldn't come back as it was."""
    if dialect.name == "postgresql":
        return "\0"
    if dialect.name in MYSQL and isinstance(column_type, CHAR):
        return " $"  # these lose the blanks at their end
    return None


def _length(column_type: Any, dialect: Dialect) -> int | None:
    if isinstance(column_type, Enum):  # it has the length of its longest text
        return None
    length: int | None = getattr(column_type, "length", None)
    if length is None and dialect.name in MYSQL:
        if isinstance(column_type, TINYBLOB):
            return 2**8 - 1
        if isinstance(column_type, MEDIUMBLOB):
            return 2**24 - 1
        if isinstance(column_type, (BLOB, LargeBinary)):
            return 2**16 - 1
    return length


def _bounds(column_type: Any, dialect: Dialect) -> tuple[int | None, int | None]:
    if not isinstance(column_type, Integer):
        return None, None
    bits = 32
    if isinstance(column_type, BigInteger) or dialect.name == "sqlite":
        bits = 64
    elif isinstance(column_type, SmallInteger):
        bits = 16
    elif isinstance(column_type, MEDIUMINT):
        bits = 24
    elif isinstance(column_type, TINYINT):
        bits = 8
    if getattr(column_type, "unsigned", False):
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def refuse_excess(limits: Iterable[Limit], values: Mapping[str, Any]) -> None:
    """Raise ValueError if a column cannot hold its value, before anything is sent.

    Otherwise some databases would raise an error that quotes the value, and some would
    store the beginning of it.
    """
    for name, length, lowest, highest, refused, depth in limits:
        value = values.get(name)
        if value is None:
            continue
        if isinstance(value, str) and not _can_be_stored(value, refused):
            raise ValueError(
                f"the session cannot be stored: its {name} has characters that the"
                " column can't hold, such as a NUL, half a surrogate pair, or a blank"
                " at the end"
            )
        if depth is not None and _depth_of(value) > depth:
            raise ValueError(
                f"the session cannot be stored: its {name} is nested more than {depth}"
                " levels deep, which is what this database takes"
            )
        size = len(value) if isinstance(value, (str, bytes)) else 0
        if length is not None and size > length:
            raise ValueError(_excess(name, size, f"the column holds {length}"))
        if lowest is not None and highest is not None:
            try:
                fits = lowest <= int(value) <= highest
            except (TypeError, ValueError):
                fits = False
            if not fits:
                raise ValueError(
                    f"the session cannot be stored: its {name}, of type"
                    f" {type(value).__name__}, is not a whole number between {lowest}"
                    f" and {highest}, which is what the column holds; declare the"
                    " column with another type if your users have other ids"
                )


def _can_be_stored(value: str, refused: str | None) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return refused is None or re.search(refused, value) is None


def _depth_of(value: Any) -> int:
    """Return how many levels a value of JSON has, itself included."""
    held: Any = ()
    if isinstance(value, dict):
        held = value.values()
    elif isinstance(value, (list, tuple)):
        held = value
    else:
        return 0
    return 1 + max(map(_depth_of, held), default=0)


def refuse_packet(
    columns: Mapping[str, Any], values: Mapping[str, Any], connection: Connection
) -> None:
    """Raise ValueError if the values are too large for a packet of MariaDB or MySQL.

    The server would hang up, which would look like a lost connection and be tried
    again.
    """
    sizes = {
        name: _size_of(columns[name].type, values[name], connection.dialect)
        for name in _LARGE
        if name in values and not isinstance(columns[name].type, TypeDecorator)
    }
    size = sum(sizes.values()) + _OTHER_COLUMNS
    if size <= SMALL_PACKET:
        return
    packet: int = connection.execute(text("SELECT @@max_allowed_packet")).scalar_one()
    if size > packet:
        name = max(sizes, key=lambda each: sizes[each])
        limit = f"max_allowed_packet of the server is {packet}"
        raise ValueError(_excess(name, sizes[name], limit))


def _size_of(column_type: Any, value: Any, dialect: Dialect) -> int:
    """Return how many bytes are sent for a value."""
    if isinstance(value, bytes) and 2 * len(value) < SMALL_PACKET:
        return 2 * len(value)
    processor = column_type.dialect_impl(dialect).bind_processor(dialect)
    sent = value if processor is None else processor(value)
    raw = sent.encode() if isinstance(sent, str) else bytes(sent)
    if dialect.paramstyle == "qmark":
        return len(raw)
    # The driver writes it into the statement.
    return len(raw) + sum(raw.count(each) for each in _ESCAPED)


def _excess(name: str, size: int, limit: str) -> str:
    return (
        f"the session cannot be stored: the length of its {name} is {size}, and {limit}"
    )
