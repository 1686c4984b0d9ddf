"""Tell whether requests could have come one after another, in an order that fits time.

Each request has read registers in some version, and written others. That says which of
two requests must have come first: the writer of a version before its readers, and they
before the writer of the next version. A request that was answered when another one was
sent comes before it, too. If all of that makes a circle, there's no such order: the
history isn't strictly serializable. Lost updates, write skew, torn reads and stale
reads all are such circles. See Adya, "Weak Consistency", 1999, and Kingsbury and
Alvaro, "Elle", 2020.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

Register = Hashable


@dataclass(frozen=True)
class Event:
    """What a request has read and written, in which version, and when."""

    name: str
    start: float
    end: float
    reads: Mapping[Register, int]
    writes: Mapping[Register, int]


class Edge(NamedTuple):
    """Why one event comes before another one."""

    before: str
    after: str
    why: str

    def __str__(self) -> str:
        return f"{self.before} before {self.after}: {self.why}"


_Node = int


class Order:
    """Which events must have come before which."""

    def __init__(self, events: Iterable[Event]):
        self.events = sorted(events, key=lambda event: event.end)
        #: Nodes are the events, and a moment after the end of each of them.
        self.moments = len(self.events)
        self.after: list[dict[_Node, str]] = [{} for _ in range(2 * self.moments)]
        self._add_versions()
        self._add_time()

    def _add_versions(self) -> None:
        writers: dict[tuple[Register, int], _Node] = {}
        for node, event in enumerate(self.events):
            for register, n in event.writes.items():
                writers.setdefault((register, n), node)
        for (register, n), node in writers.items():
            self._add(node, writers.get((register, n + 1)), f"wrote {register} {n}")
        for node, event in enumerate(self.events):
            for register, n in event.reads.items():
                writer = writers.get((register, n))
                if writer is not None:
                    self._add(writer, node, f"wrote {register} {n}, which was read")
                next_writer = writers.get((register, n + 1))
                self._add(node, next_writer, f"read {register} {n}, then overwritten")

    def _add_time(self) -> None:
        ends = [event.end for event in self.events]
        for node, event in enumerate(self.events):
            moment = self.moments + node
            self.after[node][moment] = "time"
            if node + 1 < self.moments:
                self.after[moment][moment + 1] = "time"
            last = bisect_left(ends, event.start) - 1
            if last >= 0:
                self.after[self.moments + last][node] = "time"

    def _add(self, before: _Node, after: _Node | None, why: str) -> None:
        if after is not None and after != before:
            self.after[before].setdefault(after, why)

    def circles(self) -> list[list[Edge]]:
        """Return one short circle from each tangle of events."""
        return [self._short_circle(tangle) for tangle in self._tangles()]

    def _tangles(self) -> list[set[_Node]]:
        """Return the strongly connected components, by Tarjan's algorithm."""
        index: dict[_Node, int] = {}
        low: dict[_Node, int] = {}
        stack: list[_Node] = []
        on_stack: set[_Node] = set()
        tangles = []
        for root in range(len(self.after)):
            if root in index:
                continue
            path = [(root, iter(self.after[root]))]
            index[root] = low[root] = len(index)
            stack.append(root)
            on_stack.add(root)
            while path:
                node, successors = path[-1]
                for each in successors:
                    if each not in index:
                        index[each] = low[each] = len(index)
                        stack.append(each)
                        on_stack.add(each)
                        path.append((each, iter(self.after[each])))
                        break
                    if each in on_stack:
                        low[node] = min(low[node], index[each])
                else:
                    path.pop()
                    if path:
                        low[path[-1][0]] = min(low[path[-1][0]], low[node])
                    if low[node] == index[node]:
                        tangle = set(stack[stack.index(node) :])
                        del stack[stack.index(node) :]
                        on_stack -= tangle
                        if len(tangle) > 1:
                            tangles.append(tangle)
        return tangles

    def _short_circle(self, tangle: set[_Node]) -> list[Edge]:
        events = [node for node in tangle if node < self.moments]
        circles = [self._circle_of(node, tangle) for node in events[:100]]
        return min(circles, key=len)

    def _circle_of(self, start: _Node, tangle: set[_Node]) -> list[Edge]:
        """Return the shortest circle through an event; steps in time cost nothing."""
        came_from: dict[_Node, _Node] = {}
        queue = deque([start])
        while queue:
            node = queue.popleft()
            for each, why in self.after[node].items():
                if each == start:
                    return self._edges(node, start, came_from)
                if each in tangle and each not in came_from:
                    came_from[each] = node
                    if why == "time" and each >= self.moments:
                        queue.appendleft(each)
                    else:
                        queue.append(each)
        raise AssertionError("a tangle has a circle through each of its nodes")

    def _edges(
        self, last: _Node, start: _Node, came_from: dict[_Node, _Node]
    ) -> list[Edge]:
        nodes = [start, last]
        while nodes[-1] != start:
            nodes.append(came_from[nodes[-1]])
        nodes.reverse()
        edges: list[Edge] = []
        before = nodes[0]
        for node, after in pairwise(nodes):
            if after >= self.moments:
                continue
            why = self.after[node][after]
            if why == "time":
                why = "was answered before the other one was sent"
            edges.append(Edge(self.events[before].name, self.events[after].name, why))
            before = after
        return edges


def circles(events: Iterable[Event]) -> list[list[Edge]]:
    """Return circles of events, which no order fits; there should be none."""
    return Order(events).circles()


def by_session(
    events: Iterable[tuple[Hashable, Event]],
) -> dict[Hashable, list[Event]]:
    """Sort events by what they belong to."""
    sorted_events: dict[Hashable, list[Event]] = defaultdict(list)
    for session, event in events:
        sorted_events[session].append(event)
    return sorted_events
