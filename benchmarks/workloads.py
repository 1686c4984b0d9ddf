"""The workloads: what one request does with its session, and what it may cost."""

from __future__ import annotations

import pickle
from typing import NamedTuple

__all__ = ["RIVALRIES", "WORKLOADS", "Rivalry", "Workload", "payload"]


class Workload(NamedTuple):
    """One row of the table.

    ``action`` names the method of a contender that does it. ``model`` says what the
    stored session has besides its data: nothing (``plain``), the id of a user
    (``userid``), a user who is loaded eagerly (``user``), the id of a user and a CSRF
    token (``full``), or an idle timeout that each request extends (``idle``). ``size``
    is the length of the pickled data in bytes. ``cookie`` is ``valid``, ``tampered`` or
    ``none``.

    ``sql``, ``extra_trips`` and ``target`` are the goals of ``contender``: the SQL
    statements, the round trips to the database above those of the floor, and the ratio
    of its time to the floor's. ``isolation`` is the isolation level if it isn't the
    database's default, ``backend`` the only kind of database where the row means
    something.
    """

    name: str
    title: str
    action: str
    sql: int
    target: float
    model: str = "plain"
    size: int = 1_000
    cookie: str = "valid"
    contender: str = "sessions"
    extra_trips: int = 0
    isolation: str | None = None
    backend: str | None = None


WORKLOADS = (
    Workload("untouched", "session not touched", "untouched", 0, 1.01),
    Workload("read", "read one key, 1 KB", "read", 1, 1.05),
    Workload("read-20k", "read one key, 20 KB", "read", 1, 1.10, size=20_000),
    Workload(
        "userid", "read userid only, 20 KB", "read_userid", 1, 1.05, "userid", 20_000
    ),
    Workload("write", "write one key", "write", 2, 1.05),
    Workload("assign", "assign the value that is there", "assign", 1, 1.10),
    Workload("create", "create", "create", 1, 1.05, cookie="none"),
    Workload("idle", "read, idle extension due", "extend", 2, 1.10, "idle"),
    # Two transactions: see "Idle extensions" in docs/transactions.rst.
    Workload(
        "idle-serializable",
        "the same at SERIALIZABLE",
        "extend",
        2,
        1.35,
        "idle",
        extra_trips=2,
        isolation="SERIALIZABLE",
        backend="postgresql",
    ),
    Workload("user", "read, eagerly loaded user", "read_user", 1, 1.45, "user"),
    Workload("full", "read data, userid, CSRF token", "read_full", 1, 1.05, "full"),
    Workload("tampered", "tampered cookie", "read_missing", 0, 1.06, cookie="tampered"),
    Workload(
        "cryptography",
        "read, with cryptography",
        "read",
        1,
        0.82,
        contender="sessions-cryptography",
    ),
    Workload(
        "listening-once",
        "read, listeners set up once",
        "read",
        1,
        0.85,
        contender="sessions-listening-once",
    ),
)


class Rivalry(NamedTuple):
    """The target for our time as a ratio to another contender's, in one row.

    ``target`` is without cryptography, and ``fast_target`` with it; None if there is
    none.
    """

    rival: str
    workload: str
    target: float | None
    fast_target: float | None = None


RIVALRIES = (
    Rivalry("django", "read", 1.00, 0.85),
    Rivalry("django", "read-20k", 1.00, 0.85),
    Rivalry("django", "write", 0.70),
    Rivalry("django", "create", 0.70),
    Rivalry("litestar", "read", 0.30),
    Rivalry("litestar", "read-20k", 0.30),
    Rivalry("flask-session", "read", None, 1.00),
    Rivalry("flask-session", "read-20k", None, 1.00),
    Rivalry("flask-session", "untouched", 1.00),
    Rivalry("flask-session", "write", 1.00),
    Rivalry("flask-session", "assign", 1.00),
    Rivalry("flask-session", "create", 1.00),
    Rivalry("flask-session", "idle", 1.00),
    Rivalry("flask-session", "tampered", 1.00),
)


def payload(size: int) -> dict[str, object]:
    """Return data of at least this size, of the kinds that sessions hold."""
    data: dict[str, object] = {"key": "value", "counter": 0}
    while len(pickle.dumps(data, 4)) < size:
        number = len(data)
        data[f"entry {number}"] = {
            "id": number,
            "name": f"thing number {number}, and some more words about it",
            "tags": ["red", "blue"],
            "price": number / 4,
        }
    return data
