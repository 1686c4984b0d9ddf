"""Print what updates of sessions leave behind in PostgreSQL.

Run ``python -m benchmarks.updates [--quick]`` in the checkout. It starts its own
PostgreSQL, from the programs of Debian's package ``postgresql``, fills a table with
sessions, and updates them in random order, one in each transaction, three times as
often as there are sessions. It updates the columns that the library updates, in a loop
on the server. The updates are:

``extension``
    of ``idle_expire`` alone.
``1 KB``, ``20 KB``
    of ``data`` as well, and of ``version``. PostgreSQL keeps the 20 KB outside the
    table (TOAST), and compresses them.

What is counted, for indexes besides the primary key and for fill factors:

``HOT``
    how many of a hundred updates were heap-only: the new row found room in the page of
    the old one, and no index was written.
``log``
    bytes of the write-ahead log for each update and its commit, without full pages.
``pages``
    how many pages a hundred updates change right after a checkpoint. The server writes
    each of them to the log in full (8 KB), once until the next checkpoint.
``before``, ``after``
    how many bytes the table takes for each session, with all that belongs to it.

The table isn't vacuumed in the meantime. The last part is about vacuuming: three tables
with sessions of 20 KB, without autovacuum, with its default, and tuned, get up to 300
updates a second each, for 40 seconds. There, autovacuum looks for work every second
instead of every minute.
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, text
from sqlalchemy.orm import DeclarativeBase

from pyramid_sqlalchemy_sessions import (
    BaseMixin,
    CSRFMixin,
    IdleMixin,
    UseridMixin,
    create_session_model,
)
from stress.servers import PostgreSQL

from .workloads import payload

ROWS = 20_000
QUICK = 2_000
INDEXES = ("", "userid", "created", "idle_expire")
FILL_FACTORS = (100, 90, 80, 70)

# It changes both ends, because the log leaves out what is the same there.
_CHANGED = "set_byte(set_byte(data, 40, {0}), length(data) - 40, {0})"
_WRITE = f"version = version + 1, data = {_CHANGED.format('mod(number, 256)')}, "
_EXTEND = "idle_expire = 1800000000 + number"
UPDATES = {
    "extension": (1_000, f"{_EXTEND} WHERE id = key AND idle_expire < 4000000000"),
    "1 KB": (1_000, f"{_WRITE}{_EXTEND} WHERE id = key AND version > 0"),
    "20 KB": (20_000, f"{_WRITE}{_EXTEND} WHERE id = key AND version > 0"),
}

OFF = "autovacuum_enabled = off, toast.autovacuum_enabled = off"
AUTOVACUUM = {
    "off": OFF,
    "default": "",
    "tuned": "toast.autovacuum_vacuum_scale_factor = 0.02,"
    " toast.autovacuum_vacuum_cost_limit = 1000",
}


class Server(PostgreSQL):
    """A server on which only what's measured is written."""

    @property
    def command(self) -> list[str]:
        """What's run."""
        settings = {
            "autovacuum_naptime": "1s",
            "checkpoint_timeout": "1d",
            "fsync": "off",
            "max_wal_size": "64GB",
            "shared_buffers": "512MB",
            "synchronous_commit": "off",
        }
        return super().command + [f"-c{name}={it}" for name, it in settings.items()]


class Found(NamedTuple):
    """The result of a number of updates."""

    hot: float
    log: float
    before: float
    after: float


class Plan(NamedTuple):
    """What to do with a table."""

    update: str
    rows: int
    index: str = ""
    options: str = OFF
    table: str = "session"
    is_slow: bool = False


def fill(connection: Connection, plan: Plan) -> None:
    """Make the table again, and fill it with sessions."""

    class Base(DeclarativeBase):
        pass

    table = plan.table
    model = create_session_model(
        Base, UseridMixin, CSRFMixin, IdleMixin, BaseMixin, table_name=table
    )
    connection.execute(text(f"DROP TABLE IF EXISTS {table}"))
    model.__table__.create(connection)
    if plan.options:
        connection.execute(text(f"ALTER TABLE {table} SET ({plan.options})"))
    if plan.index:
        connection.execute(text(f"CREATE INDEX ON {table} ({plan.index})"))
    connection.execute(
        text(
            f"INSERT INTO {table} (id, created, version, data, flash, userid,"
            " csrf_token, idle_expire) SELECT gen_random_uuid(), 1700000000 + number,"
            " 1, :data, '{}', number % 10000, :token, 1700003600 + number"
            " FROM generate_series(1, :rows) AS number"
        ),
        {
            "data": pickle.dumps(payload(UPDATES[plan.update][0]), 4),
            "token": bytes(20),
            "rows": plan.rows,
        },
    )
    connection.execute(text(f"VACUUM ANALYZE {table}"))


def change(connection: Connection, plan: Plan, number: int) -> None:
    """Make so many updates of random rows, each in a transaction."""
    connection.execute(text("SELECT setseed(0.5)"))
    # Autovacuum learns of updates when the statement that made them is over.
    step = 60 if plan.is_slow else number
    for start in range(0, number, step):
        connection.exec_driver_sql(
            f"""
            DO $$ DECLARE keys uuid[]; key uuid;
            BEGIN
                SELECT array_agg(id ORDER BY id) INTO keys FROM {plan.table};
                FOR number IN {start + 1}..{start + step} LOOP
                    key := keys[ceil(random() * {plan.rows})];
                    UPDATE {plan.table} SET {UPDATES[plan.update][1]};
                    COMMIT;
                END LOOP;
            END $$
            """
        )
        time.sleep(0.2 if plan.is_slow else 0)


def _scalar(server: Server, statement: str) -> float:
    return float(server.administer(lambda c: c.scalar(text(statement))))


def _size(server: Server, table: str) -> float:
    return _scalar(server, f"SELECT pg_total_relation_size('{table}')")


def _position(server: Server) -> float:
    return _scalar(server, "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")


def _count(server: Server, column: str, table: str) -> float:
    return _scalar(
        server, f"SELECT {column} FROM pg_stat_user_tables WHERE relname = '{table}'"
    )


def _change(server: Server, plan: Plan, number: int) -> None:
    """Make the updates, and wait for the statistics, which come a moment later."""
    server.administer(lambda c: change(c, plan, number))
    while _count(server, "n_tup_upd", plan.table) < number:
        time.sleep(0.02)


def measure(server: Server, plan: Plan, times: int) -> Found:
    """Fill a table, update each row so many times, and return the result."""
    server.administer(lambda c: fill(c, plan))
    before, position = _size(server, plan.table), _position(server)
    number = plan.rows * times
    _change(server, plan, number)
    log = (_position(server) - position) / number
    hot = _count(server, "n_tup_hot_upd", plan.table) / number
    after = _size(server, plan.table)
    return Found(hot, log, before / plan.rows, after / plan.rows)


def pages(server: Server, plan: Plan) -> float:
    """Return how many pages an update changes, after a checkpoint."""
    count = "SELECT wal_fpi FROM pg_stat_wal"
    number = plan.rows // 20
    server.administer(lambda c: fill(c, plan))
    _write_full_pages(server, "on")
    before = _scalar(server, count)
    _change(server, plan, number)
    found = _scalar(server, count) - before
    _write_full_pages(server, "off")
    return found / number


def _write_full_pages(server: Server, value: str) -> None:
    server.execute(f"ALTER SYSTEM SET full_page_writes = {value}")
    server.execute("SELECT pg_reload_conf()")
    while server.administer(lambda c: c.scalar(text("SHOW full_page_writes"))) != value:
        time.sleep(0.02)
    server.execute("CHECKPOINT")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print, as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.updates", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rows", type=int)
    parser.add_argument("--quick", action="store_true", help="with few rows")
    options = parser.parse_args(arguments)
    rows = options.rows or (QUICK if options.quick else ROWS)
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)  # the server is run by another user
        server = Server(Path(directory, "postgresql"))
        server.start()
        _write_full_pages(server, "off")
        try:
            _print_all(server, rows)
        finally:
            server.stop()


def _print_all(server: Server, rows: int) -> None:
    heads = f"{'update':10}{'HOT':>6}{'log':>7}{'before':>8}{'after':>8}"
    print(f"{rows:,} sessions, {3 * rows:,} updates\n")
    print(f"{'index':13}{heads}{'pages':>7}")
    for index in INDEXES:
        for update in UPDATES:
            plan = Plan(update, rows, index)
            found = _show(measure(server, plan, 3))
            print(f"{index:13}{update:10}{found}{100 * pages(server, plan):7.0f}")
    print(f"\n{'fill factor':13}{heads}")
    for factor in FILL_FACTORS:
        for update in UPDATES:
            options = f"fillfactor = {factor}, {OFF}"
            found = _show(measure(server, Plan(update, rows, options=options), 3))
            print(f"{factor:<13}{update:10}{found}")
    plans = [
        Plan("20 KB", rows // 10, "", options, f"session_{title}", True)
        for title, options in AUTOVACUUM.items()
    ]
    print(f"\n{'autovacuum':13}{heads.replace('log', '   ')}")
    with ThreadPoolExecutor() as pool:
        results = pool.map(lambda plan: measure(server, plan, 6), plans)
        for title, found in zip(AUTOVACUUM, results, strict=True):
            # The log has all three.
            print(f"{title:13}{'20 KB':10}{_show(found, log='')}")


def _show(found: Found, log: str | None = None) -> str:
    if log is None:
        log = f"{found.log:.0f}"
    return f"{100 * found.hot:5.0f}%{log:>7}{found.before:8.0f}{found.after:8.0f}"


if __name__ == "__main__":
    main()
