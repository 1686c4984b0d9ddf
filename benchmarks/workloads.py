"""The workloads: what one request does with its session, and what it may cost."""

from __future__ import annotations

import pickle
from typing import NamedTuple

__all__ = ["WORKLOADS", "Workload", "payload"]


class Workload(NamedTuple):
    """One row of the table.

    ``action`` names the method of a contender that does it. ``model`` says what the
    stored session has besides its data: nothing (``plain``), the id of a user
    (``userid``), a user who is loaded eagerly (``user``), or the id of a user and a
    CSRF token (``full``). ``size`` is the length of the pickled data in bytes.
    ``cookie`` is ``valid``, ``tampered`` or ``none``. ``sql`` and ``target`` are the
    goals of ``contender``: the SQL statements, and the ratio of its time to the
    floor's.
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
