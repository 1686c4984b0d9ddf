"""What ``pyramid_session_check`` finds in rows that are older than a setting or column.

Everything that can be old is counted in one statement, which looks at the first rows in
the order of the primary key. Ids are random, so these rows are as good as any, and it
doesn't have to read the whole table or its large columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    case,
    delete,
    func,
    literal,
    literal_column,
    null,
    select,
    type_coerce,
    update,
)
from sqlalchemy.engine import Connection, Dialect

from .check_findings import Finding, error, hint, ok
from .feature import Feature
from .features.idle import ConfigIdle, Idle
from .features.renewal import ConfigRenewal, Renewal
from .session_config import SessionConfig
from .settings import SETTINGS, Setting

__all__ = ["findings_of_rows"]

#: How many rows the command looks at.
ENOUGH = 10_000


class _Old(NamedTuple):
    """A kind of old row: the condition, what it means, and the cure."""

    condition: ColumnElement[bool]
    is_error: bool
    meaning: str
    cure: Any


def findings_of_rows(
    config: SessionConfig, connection: Connection
) -> Iterator[Finding]:
    """Count the old rows among the first ones, and say how to fill them."""
    kinds = [*_inconsistent(config), *_without_timeout(config), *_unset(config)]
    table: Any = config.table.mapper.local_table
    key = config.table.columns["id"]
    flags = [
        case((kind.condition, 1), else_=0).label(f"old_{place}")
        for place, kind in enumerate(kinds)
    ]
    rows = select(key, *flags).select_from(table).order_by(key).limit(ENOUGH).subquery()
    sums = [func.sum(rows.c[flag.name]) for flag in flags]
    counted = connection.execute(select(func.count(), *sums).select_from(rows)).one()
    number_of_rows, *numbers = counted
    shown = f"{number_of_rows:,}" if number_of_rows < ENOUGH else f"first {ENOUGH:,}"
    is_old = False
    for kind, number in zip(kinds, numbers, strict=True):
        if number:
            is_old = True
            text = f"in {number:,} of the {shown} rows, {kind.meaning}"
            sql = _printed(kind.cure, connection.dialect)
            yield (error if kind.is_error else hint)("rows", text, sql)
    if not is_old:
        yield ok("rows", f"none of the {shown} rows is older than a setting or column")


def _inconsistent(config: SessionConfig) -> Iterator[_Old]:
    """Yield rows in which a migration has left something empty that can't be."""
    table: Any = config.table.mapper.local_table
    fills = {"version": 1, "created": config.clock(), "flash": literal_column("'{}'")}
    for name in ("version", "created", "flash", "data"):
        column = config.table.columns[name]
        is_null = _is_null(column)
        meaning = f"{column.name} is NULL: a request with such a session fails"
        if name in fills:
            cure: Any = update(table).values({column.key: fills[name]})
        else:
            cure = delete(table)
        yield _Old(is_null, True, meaning, cure.where(is_null))


def _without_timeout(config: SessionConfig) -> Iterator[_Old]:
    """Yield rows that are older than a timeout that was switched on."""
    table: Any = config.table.mapper.local_table
    columns, settings = config.table.columns, config.settings
    if _is_on(config, Idle, ConfigIdle, settings.idle_timeout):
        expire = columns["idle_expire"]
        condition, timeout = _is_null(expire), settings.idle_timeout
        if config.has(ConfigIdle):
            timeout = columns["idle_timeout"]
            condition &= timeout.is_not(None)
        yield _Old(
            condition,
            False,
            f"{expire.name} is NULL: the idle timeout of these sessions starts with"
            " their next use, and those that aren't used again stay in the table",
            update(table)
            .values({expire.key: literal(config.clock(), BigInteger) + timeout})
            .where(condition),
        )
    if _is_on(config, Renewal, ConfigRenewal, settings.renewal_timeout):
        condition = _is_null(columns["renewal_id"])
        if config.has(ConfigRenewal):
            condition &= columns["renewal_timeout"].is_not(None)
        yield _Old(
            condition,
            False,
            f"{columns['renewal_id'].name} is NULL: the cookies of these sessions"
            " stopped working when renewal was switched on, and their users have to"
            " log in again",
            delete(table).where(condition),
        )


def _is_on(
    config: SessionConfig, kind: type[Feature], own: type[Feature], timeout: int | None
) -> bool:
    return config.has(own) or (config.has(kind) and timeout is not None)


def _unset(config: SessionConfig) -> Iterator[_Old]:
    """Yield the settings that sessions don't have, because the column is newer."""
    table: Any = config.table.mapper.local_table
    for setting in SETTINGS:
        if setting.name not in config.own_settings or _takes_none(setting):
            continue
        column = config.table.columns[setting.name]
        is_null = _is_null(column)
        value = getattr(config.settings, setting.name)
        yield _Old(
            is_null,
            False,
            f"{column.name} is NULL: these sessions follow the application's setting,"
            f" which is {value!r} now",
            update(table).values({column.key: value}).where(is_null),
        )


def _takes_none(setting: Setting) -> bool:
    try:
        setting.parse(None)
    except ValueError:
        return False
    return True


def _is_null(column: Any) -> ColumnElement[bool]:
    # For a JSON column, too, this is the database's NULL.
    return type_coerce(column, Integer).is_(null())


def _printed(statement: Any, dialect: Dialect) -> str:
    """Return the statement as an administrator can run it."""
    # Other styles of parameters double each percent sign.
    kind: Any = type(dialect)
    plain = kind(paramstyle="named")
    compiled = statement.compile(dialect=plain, compile_kwargs={"literal_binds": True})
    head, _, condition = str(compiled).rpartition(" WHERE ")
    head = head.replace(" SET ", "\nSET ", 1)
    condition = condition.replace(" AND ", "\nAND ")
    return f"{head}\nWHERE {condition};"
