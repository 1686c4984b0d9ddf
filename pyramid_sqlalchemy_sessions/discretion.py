"""Keeps what a session holds out of the errors of databases.

The class, the number or SQLSTATE and the first sentence of an error stay, so that it
still says what's wrong, and whether it can be tried again.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.engine import Connection, CursorResult
from sqlalchemy.exc import DBAPIError, StatementError

from .conflicts import is_of_driver

__all__ = ["hush", "hushed", "run"]

#: PostgreSQL's lines after the first: "DETAIL: Failing row contains (...)", "CONTEXT:
#: JSON data, line 1: ...", "LINE 1: INSERT ...".
_DETAILS = re.compile(r"\s*\n\s*(DETAIL|HINT|CONTEXT|WHERE|LINE \d+):.*", re.DOTALL)

#: And its 'invalid input syntax for type integer: "..."', which asyncpg has, too.
_INPUT = re.compile(r"(invalid (?:input|byte) [^:]*): .*", re.DOTALL)

#: MariaDB's and MySQL's "Duplicate entry '...' for key", "Incorrect string value:
#: '...' for column", "near '...' at line 1". What's quoted may hold quotes.
_QUOTED = re.compile(
    r"(Duplicate entry|value:|near) '.*'(?= for key| for column| at line| at row)",
    re.DOTALL,
)

#: Where pg8000 and asyncpg keep the other lines.
_FIELDS = ("D", "H", "W", "q")
_ATTRIBUTES = ("detail", "hint", "context", "internal_query")


@contextmanager
def hushed() -> Generator[None]:
    """Hush the error of a statement in a ``with`` block."""
    try:
        yield
    except Exception as exc:
        hush(exc)
        raise


def run(
    connection: Connection, statement: Any, parameters: dict[str, Any]
) -> CursorResult[Any]:
    """Execute a statement, and hush its error."""
    try:  # without a context manager, which costs more than this
        return connection.execute(statement, parameters)
    except Exception as exc:
        hush(exc)
        raise


def hush(error: BaseException) -> None:
    """Keep a statement's parameters, and what's in a row, out of its error.

    The application may have a listener that raises the driver's own error.
    """
    if not isinstance(error, StatementError):
        if is_of_driver(error):
            _hush_driver(error)
        return
    error.hide_parameters = True
    error.params = None
    orig = error.orig
    if not isinstance(error, DBAPIError) or orig is None:
        return
    _hush_driver(orig)
    # In SQLAlchemy's format.
    kind = type(orig)
    error.args = (f"({kind.__module__}.{kind.__name__}) {orig}",)


def _hush_driver(error: BaseException) -> None:
    for each in _of_driver(error):
        each.args = tuple(map(_hushed, each.args))
        for name in _ATTRIBUTES:
            if isinstance(getattr(each, name, None), str):
                setattr(each, name, None)


def _of_driver(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the driver's error, and those that led the driver to it."""
    seen: set[int] = set()
    while not (error is None or isinstance(error, StatementError) or id(error) in seen):
        seen.add(id(error))  # one that a listener raises is its own cause
        yield error
        context = error.__context__
        # It may be an error of the application that's being handled.
        is_its_own = context is not None and _package(context) == _package(error)
        error = error.__cause__ or (context if is_its_own else None)


def _package(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _hushed(value: Any) -> Any:
    if isinstance(value, dict):  # pg8000: the fields of the server's message
        return {k: _hushed(v) for k, v in value.items() if k not in _FIELDS}
    if not isinstance(value, str):
        return value
    value = _INPUT.sub(r"\1: '...'", _DETAILS.sub("", value))
    return _QUOTED.sub(r"\1 '...'", value)
