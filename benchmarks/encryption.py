"""What EncryptedDataMixin costs over plain data: python -m benchmarks.encryption

Both take turns, with cryptography and with PyCryptodome. A median of 1.03 (1.01-1.05)
means: 3 percent more time for a whole request, half of the rounds between 1 and 5.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .contenders import why_not
from .databases import DATABASES
from .measure import FLOOR, NOISE, Effort, measure
from .workloads import WORKLOADS

EFFORT = Effort(generations=4, rounds=100, turn=0.004)
ROWS = ("read", "read-20k", "write", "create")
#: Encrypted, plain, and what reading may cost, for 1 KB and for 20 KB.
PAIRS = (
    ("encrypted-cryptography", "sessions-cryptography", (1.05, 1.10)),
    ("encrypted", "sessions", (None, None)),
)


def main(arguments: Sequence[str], effort: Effort = EFFORT) -> None:
    """Measure in these databases, by default in all of the benchmarks."""
    pairs = [pair for pair in PAIRS if not any(map(why_not, pair[:2]))]
    names = [name for pair in pairs for name in pair[:2] if name != "sessions"]
    workloads = [each for each in WORKLOADS if each.name in ROWS]
    for database in arguments or DATABASES:
        print(database.partition("://")[0])
        for result in measure(database, workloads, effort, names):
            noise = result.ratio(NOISE, FLOOR).median
            for encrypted, plain, targets in pairs:
                low, median, high = result.ratio(encrypted, plain)
                target = dict(zip(ROWS, targets, strict=False)).get(
                    result.workload.name
                )
                promised = "" if target is None else f", target {target:.2f}"
                print(
                    f"  {result.workload.title:22}{encrypted:24}{median:.2f}"
                    f" ({low:.2f}-{high:.2f}), plain {result.microseconds(plain):.0f}"
                    f" us, noise {noise:.2f}{promised}"
                )


if __name__ == "__main__":
    main(sys.argv[1:])
