"""Compares a column with a text exactly, whatever its collation and character set."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    CHAR,
    ColumnElement,
    Enum,
    Text,
    cast,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from .columns import MYSQL
from .conflicts import code_of
from .discretion import run

__all__ = ["is_exactly", "refuse_characters"]

#: "Illegal mix of collations".
_ILLEGAL_MIX = 1267


def is_exactly(column: Any, value: str, dialect: str) -> ColumnElement[bool]:
    """Return the SQL for "the column holds this text", whatever its collation."""
    if isinstance(column.type, Enum):  # it has nothing that's similar
        return true()
    if dialect in MYSQL:
        # The binary collations, too, take a text with a blank at its end for equal.
        characters = func.convert(column.op("USING")(literal_column("utf8mb4")))
        return func.hex(characters) == value.encode().hex().upper()
    exact: Any = column
    if dialect == "postgresql" and not isinstance(column.type, CHAR):
        exact = cast(column, Text)  # CITEXT isn't exact in any collation
    binary = {"sqlite": "BINARY", "postgresql": "C"}.get(dialect)
    if binary is None:
        return true()
    is_same: ColumnElement[bool] = exact.collate(binary) == value
    return is_same


def refuse_characters(column: Any, value: Any, connection: Connection) -> None:
    """Raise ValueError for a text that the column's character set lacks a part of.

    On MariaDB and MySQL comparing the column with it would be an error.
    """
    is_mysql = connection.dialect.name in MYSQL
    if not is_mysql or not isinstance(value, str) or value.isascii():
        return
    try:
        run(connection, select(column).where(column == value).limit(0), {})
    except DBAPIError as exc:
        if exc.orig is None or code_of(exc.orig) != _ILLEGAL_MIX:
            raise
        raise ValueError("the column can't hold these characters") from None
