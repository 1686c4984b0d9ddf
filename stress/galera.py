"""Break a Galera cluster of three nodes in many ways, and look for wrong answers.

Run ``python -m stress.galera [SCENARIO ...]`` in the checkout. It starts the cluster by
itself (see ``stress/galera_cluster.py`` for what it needs), with a worker of the real
application at each node, prints one table, and fails if something happened that,
according to the documentation, doesn't happen.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator

from stress.galera_cluster import Cluster, cluster, missing
from stress.galera_conflicts import conflicts, reads
from stress.galera_faults import all_killed, isolated, isolated_reads, killed
from stress.galera_staleness import login, logout, renewal
from stress.rows import Row, print_row, print_titles

SCENARIOS: dict[str, Callable[[Cluster], Iterator[Row]]] = {
    "conflicts": conflicts,
    "reads": reads,
    "login": login,
    "logout": logout,
    "renewal": renewal,
    "killed": killed,
    "all-killed": all_killed,
    "isolated": isolated,
    "isolated-reads": isolated_reads,
}


def main() -> None:
    """Play the scenarios, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", default=SCENARIOS)
    arguments = parser.parse_args()
    for name in arguments.scenarios:
        if name not in SCENARIOS:
            parser.error(f"{name}: valid are {', '.join(SCENARIOS)}")
    reason = missing()
    if reason is not None:
        parser.exit(2, f"{reason}\n")
    # So that no server is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    broken = 0
    print_titles()
    with cluster() as nodes:
        for name in arguments.scenarios:
            for row in SCENARIOS[name](nodes):
                print_row(name, row)
                broken += row.breaks_promise
    parser.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
