"""Find out on which connections another transaction can make an UPDATE fail."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from sqlalchemy.engine import Connection, Engine

from .columns import MYSQL

__all__ = ["Isolation"]


class Isolation:
    """Remembers what the engines of one factory do by default."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Engine, dict[str | None, bool]]
        self._known = WeakKeyDictionary()

    def may_conflict(self, connection: Connection) -> bool:
        """Tell whether an UPDATE can fail because another transaction was first.

        That depends on the isolation level of the connection.
        """
        if connection.dialect.name == "sqlite":
            # Python's sqlite3 doesn't begin a transaction before the first write. One
            # that was begun before the read can't write after another one has written.
            driver_connection = connection.connection.driver_connection
            return bool(getattr(driver_connection, "in_transaction", False))
        # None means the engine's default.
        level = connection.get_execution_options().get("isolation_level")
        known = self._known.setdefault(connection.engine, {})
        if level not in known:
            known[level] = _may_conflict(
                connection, level or connection.get_isolation_level()
            )
        return known[level]


def _may_conflict(connection: Connection, level: str) -> bool:
    if level == "SERIALIZABLE":
        return True
    if connection.dialect.name not in MYSQL:
        return level == "REPEATABLE READ"
    cursor = connection.connection.cursor()
    try:
        cursor.execute(_TROUBLE)
        trouble = {row[0] for row in cursor.fetchall()}
    finally:
        cursor.close()
    # At the other levels, and at this one without that variable (it is on by default
    # from MariaDB 11.6.2), an UPDATE of InnoDB sees what was committed in the meantime,
    # but not what's committed on another node of Galera.
    return "wsrep_on" in trouble or (level == "REPEATABLE READ" and bool(trouble))


_TROUBLE = (
    "SHOW VARIABLES WHERE Value = 'ON'"
    " AND Variable_name IN ('innodb_snapshot_isolation', 'wsrep_on')"
)
