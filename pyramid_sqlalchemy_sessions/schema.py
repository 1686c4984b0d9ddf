"""What ``pyramid_session_check`` finds in the database."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Column, inspect, text
from sqlalchemy.engine import Connection, Dialect, Inspector
from sqlalchemy.types import TypeEngine

from .check_findings import Finding, error, hint, ok
from .columns import MYSQL, SMALL_PACKET
from .old_rows import findings_of_rows
from .session_config import SessionConfig

__all__ = ["findings_of_database"]


def findings_of_database(
    config: SessionConfig, connection: Connection
) -> Iterator[Finding]:
    """Look at the connection's database without changing anything."""
    dialect = connection.dialect
    version = ".".join(map(str, dialect.server_version_info or ()))
    is_mariadb = getattr(dialect, "is_mariadb", False)
    name = "mariadb" if is_mariadb else dialect.name
    yield ok("database", f"{name} {version}, with {dialect.driver}")
    yield from _of_isolation(config, connection)
    if dialect.name in MYSQL:
        yield from _of_mariadb(connection)
    yield from _of_table(config, connection)


# Transactions.


def _of_isolation(config: SessionConfig, connection: Connection) -> Iterator[Finding]:
    level = connection.get_isolation_level()
    if level == "AUTOCOMMIT" or _commits_by_itself(connection):
        yield error(
            "isolation",
            "AUTOCOMMIT: nothing can be rolled back, neither sessions nor other data",
        )
        return
    if config.isolation.may_conflict(connection):
        meaning = (
            "extensions and renewals are stored after the commit, because the database"
            " may refuse them at this level"
        )
    else:
        meaning = "extensions and renewals are stored with the request"
    yield ok("isolation", f"{level}: no update is lost; {meaning}")


def _commits_by_itself(connection: Connection) -> bool:
    """Tell whether the driver says that it doesn't begin transactions."""
    driver: Any = connection.connection.driver_connection
    getter = getattr(driver, "get_autocommit", None)
    return (getter() if getter else getattr(driver, "autocommit", False)) is True


def _of_mariadb(connection: Connection) -> Iterator[Finding]:
    rows = connection.execute(_VARIABLES)
    variables: dict[str, str] = {name: value for name, value in rows}
    packet = int(variables["max_allowed_packet"])
    yield (ok if packet > SMALL_PACKET else hint)(
        "database",
        f"max_allowed_packet is {packet:,} bytes: no session can be larger",
    )
    charset = variables["character_set_client"]
    if charset != "utf8mb4":
        yield hint(
            "database",
            f"the connection has the character set {charset}: some characters can't"
            " be stored in flash messages; add ?charset=utf8mb4 to the URL",
        )
    if variables.get("innodb_snapshot_isolation") == "ON":
        yield ok(
            "database",
            "innodb_snapshot_isolation is on: at REPEATABLE READ, changing what another"
            " request has just changed is an error, which can be tried again",
        )


_VARIABLES = text(
    "SHOW VARIABLES WHERE Variable_name IN ('max_allowed_packet',"
    " 'character_set_client', 'innodb_snapshot_isolation')"
)


# The table.


def _of_table(config: SessionConfig, connection: Connection) -> Iterator[Finding]:
    table: Any = config.table.mapper.local_table
    inspector = inspect(connection)
    if not inspector.has_table(table.name, schema=table.schema):
        yield error("table", f"{table.fullname} doesn't exist: migrate, or create it")
        return
    found = [
        *_of_columns(config, inspector, connection.dialect),
        *_of_storage(table, inspector, connection.dialect),
    ]
    yield from found
    if not found:
        number = len(table.columns)
        yield ok("table", f"{table.fullname} has the {number} columns of the model")
    if all(finding.level != "error" for finding in found):
        yield from findings_of_rows(config, connection)


def _of_storage(
    table: Any, inspector: Inspector, dialect: Dialect
) -> Iterator[Finding]:
    key = inspector.get_pk_constraint(table.name, schema=table.schema)
    if not key["constrained_columns"]:
        yield error(
            "table", f"{table.fullname} has no primary key: each request reads all rows"
        )
    if dialect.name in MYSQL:
        options = inspector.get_table_options(table.name, schema=table.schema)
        engine = options.get(f"{dialect.name}_engine", "InnoDB")
        if engine != "InnoDB":
            yield error("table", f"{engine} has no transactions: use InnoDB")


def _of_columns(
    config: SessionConfig, inspector: Inspector, dialect: Dialect
) -> Iterator[Finding]:
    table: Any = config.table.mapper.local_table
    ours = {column.name for column in config.table.columns.values()}
    present: dict[str, Any] = {
        each["name"]: each
        for each in inspector.get_columns(table.name, schema=table.schema)
    }
    for column in table.columns:
        if column.name not in present:
            yield error("table", f"the column {column.name} is missing: migrate")
        elif column.name in ours:
            yield from _of_column(column, present[column.name], dialect)
        elif not _can_be_left_out(column):
            yield error("table", f"the column {column.name} {_LEFT_OUT}")
    for name, column in present.items():
        if name not in table.columns and not _fills_itself(column):
            yield error(
                "table", f"the column {name}, which is not in the model, {_LEFT_OUT}"
            )


_LEFT_OUT = "needs a default, or must be nullable: new sessions are stored without it"


def _can_be_left_out(column: Column[Any]) -> bool:
    return bool(
        column.nullable
        or column.default is not None
        or column.server_default is not None
    )


def _fills_itself(column: Mapping[str, Any]) -> bool:
    return bool(
        column["nullable"]
        or column.get("default") is not None
        or column.get("identity")
        or column.get("computed")
        or column.get("autoincrement") is True
    )


def _of_column(
    column: Column[Any], present: Mapping[str, Any], dialect: Dialect
) -> Iterator[Finding]:
    if column.nullable and not present["nullable"]:
        yield error("table", f"the column {column.name} must be nullable, but isn't")
    elif present["nullable"] and not column.nullable:
        yield hint("table", f"the column {column.name} is nullable, but needn't be")
    meant, is_now = (_kind(each, dialect) for each in (column.type, present["type"]))
    if meant != is_now:
        yield hint(
            "table", f"the column {column.name} is {is_now}; it should be {meant}"
        )


def _kind(type_: TypeEngine[Any], dialect: Dialect) -> str:
    """Return the name of a type in the database, without its length and so on."""
    words = re.match("[A-Z ]*", type_.compile(dialect=dialect).upper())
    kind = words[0].split(" CHARACTER SET")[0].strip() if words else ""
    return _SAME.get(kind, kind)


#: Other names that databases give to a type.
_SAME = {
    "BOOL": "TINYINT",  # of MariaDB and MySQL
    "INT": "INTEGER",
    "LONGTEXT": "JSON",  # of MariaDB
}
