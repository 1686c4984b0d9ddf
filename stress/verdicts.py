"""What is wrong with a history: the invariants, and the requests that broke them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from stress.histories import (
    AGAIN,
    CAUGHT,
    CRASHED,
    DONE,
    ERROR,
    REFUSED,
    History,
    Op,
    Part,
    Violation,
)
from stress.serial_order import Event, by_session, circles
from stress.verdicts_of_cookies import judge_cookies

#: The share of requests that may be refused although they're tried again.
REFUSALS = 0.01


def judge(history: History, *, is_retried: bool = False) -> list[Violation]:
    """Return whatever is wrong with the history."""
    return [
        *versions(history),
        *serial_order(history),
        *values(history),
        *messages(history),
        *messages_again(history),
        *itself(history),
        *errors(history, is_retried),
        *judge_cookies(history),
    ]


def _parts(history: History) -> Iterator[tuple[Op, Part]]:
    """The parts of requests whose reads reached a client."""
    for op in history.ops:
        if op.status in (DONE, CAUGHT, CRASHED):
            for part in op.parts:
                yield op, part


def versions(history: History) -> Iterator[Violation]:
    """Nothing is overwritten unseen, and nothing is read that wasn't stored."""
    writers: dict[tuple[str | None, str], dict[int, tuple[Op, str | None]]]
    writers = defaultdict(dict)
    doubtful: set[tuple[str | None, str, int, str | None]] = set()
    for op, part in _parts(history):
        if not part.is_stored:
            continue
        for register, (n, token) in part.writes.items():
            if part.is_doubtful:
                doubtful.add((part.mark, register, n, token))
                continue
            other, _ = writers[part.mark, register].setdefault(n, (op, token))
            if other is not op:
                yield Violation(
                    "lost update",
                    f"two requests wrote {register} {n}",
                    (other.name, op.name),
                )
    for op, part in _parts(history):
        for register, (n, token) in part.reads.items():
            writer, written = writers[part.found, register].get(n, (None, None))
            if n == 0 or token == written:
                continue
            if (part.found, register, n, token) in doubtful:
                continue
            yield _unstored(history, op, f"{register} {n} of {token}", token, writer)
        if part.reads.get("p") != part.reads.get("q") and {"p", "q"} <= set(part.reads):
            yield Violation(
                "torn read",
                f"p is {part.reads['p']}, q is {part.reads['q']}",
                (op.name,),
            )
        for n, token in enumerate(part.items or (), 1):
            writer, written = writers[part.found, "box"].get(n, (None, None))
            if token != written and (part.found, "box", n, token) not in doubtful:
                yield _unstored(history, op, f"item {n} of {token}", token, writer)


def _unstored(
    history: History, op: Op, what: str, token: str | None, writer: Op | None
) -> Violation:
    other = history.op_of(token) if token else None
    ops = tuple(each.name for each in (other, writer, op) if each)
    return Violation("unstored write seen", f"{op.name} read {what}", ops)


def serial_order(history: History) -> Iterator[Violation]:
    """The requests to one session have an order, which agrees with real time."""
    events = []
    for op, part in _parts(history):
        mark = part.mark if part.is_stored else part.found
        reads = {register: n for register, (n, _) in part.reads.items()}
        writes = {register: n for register, (n, _) in part.writes.items()}
        if mark and (reads or writes):
            if not part.is_stored or part.is_doubtful:
                writes = {}
            events.append((mark, Event(op.name, op.start, op.end, reads, writes)))
    for mark, each in by_session(events).items():
        for circle in circles(each):
            steps = "; ".join(map(str, circle))
            names = tuple(edge.before for edge in circle)
            yield Violation("no serial order", f"session {mark}: {steps}", names)


def values(history: History) -> Iterator[Violation]:
    """A value that was replaced doesn't come back, and each one was stored."""
    seen: dict[tuple[str, str], dict[str, list[Op]]] = defaultdict(
        lambda: defaultdict(list)
    )
    stored = {
        value
        for op in history.ops
        for part in op.stored
        for value in part.values_written.values()
    }
    for op, part in _parts(history):
        observed = dict(part.values)
        if part.is_stored:
            observed |= part.values_written
        for name, value in observed.items():
            mark = part.mark if part.is_stored else part.found
            if mark and value:
                seen[mark, name][value].append(op)
            if name == "blind" and value and value not in stored:
                yield _unstored(history, op, f"{name} of {value}", value, None)
    for (_, name), by_value in seen.items():
        for value, ops in by_value.items():
            first = min(ops, key=lambda op: op.end)
            last = max(ops, key=lambda op: op.start)
            between = [
                op
                for other, others in by_value.items()
                if other != value
                for op in others
                if first.end < op.start and op.end < last.start
            ]
            if between:
                yield Violation(
                    "value came back",
                    f"{name} is {value} again after it was another one",
                    (first.name, between[0].name, last.name),
                )


def messages(history: History) -> Iterator[Violation]:
    """Each message was stored, and is popped once or still there."""
    flashed: dict[str, tuple[Op, str | None]] = {}
    popped: dict[str, Op] = {}
    doubtful: set[str] = set()
    last_seen: dict[str | None, set[str]] = {}
    looks: dict[str | None, list[tuple[Op, set[str]]]] = defaultdict(list)
    for op in history.ops:
        for part in op.stored:
            tokens = [token for token in part.flashed if token != AGAIN]
            doubtful.update(tokens if part.is_doubtful else ())
            flashed |= {token: (op, part.mark) for token in tokens}
    for op, part in _parts(history):
        if part.popped is None and part.peeked is None:
            continue
        tokens = part.peeked if part.popped is None else part.popped
        tokens = [token for token in tokens or () if token != AGAIN]
        found = set(tokens)
        looks[part.found].append((op, found))
        if op.kind == "final":
            last_seen[part.found] = found
        if len(found) != len(tokens):
            yield Violation("message twice", f"in one queue: {tokens}", (op.name,))
        for token in found:
            # A request may pop its own message, which no session had before.
            is_own = history.op_of(token) is op
            if not is_own and flashed.get(token, (None, None))[1] != part.found:
                yield _unstored(history, op, f"message {token}", token, None)
            elif part.popped is not None and part.is_stored and not part.is_doubtful:
                other = popped.setdefault(token, op)
                if other is not op:
                    yield Violation(
                        "message twice", f"{token} popped", (other.name, op.name)
                    )
    for token, (op, mark) in flashed.items():
        pop = popped.get(token)
        is_left = token in last_seen.get(mark, ())
        if token in doubtful:
            continue
        if pop is None and not is_left and mark in last_seen:
            yield Violation("message lost", token, (op.name,))
        for look, found in looks[mark]:
            if token in found and pop is not None and pop.end < look.start:
                yield Violation(
                    "message twice", f"{token} after its pop", (pop.name, look.name)
                )
            later = is_left or (pop is not None and look.end < pop.start)
            if token not in found and op.end < look.start and later:
                yield Violation(
                    "message missed",
                    f"{token}, though it was there",
                    (op.name, look.name, pop.name if pop else None),
                )


def messages_again(history: History) -> Iterator[Violation]:
    """A message that's added several times is popped as often, or is still there."""
    sums: dict[str, int] = defaultdict(int)
    ops: dict[str, list[str]] = defaultdict(list)
    left: dict[str, int] = {}
    for op in history.ops:
        for part in op.stored:
            taken = part.popped or []
            if op.kind == "final" and part.found:
                taken = part.peeked or []
                left[part.found] = taken.count(AGAIN)
            change = part.flashed.count(AGAIN) - taken.count(AGAIN)
            if change and part.mark and not part.is_doubtful:
                sums[part.mark] += change
                ops[part.mark].append(op.name)
    for mark, number in sums.items():
        if number and mark in left:
            rule = "message lost" if number > 0 else "message twice"
            yield Violation(rule, f"{abs(number)} of {mark}", tuple(ops[mark]))


def itself(history: History) -> Iterator[Violation]:
    """No request sees its own session contradict itself."""
    for op, part in _parts(history):
        if op.kind == "final" and part.found is None:
            continue  # it strayed
        for text in part.wrong:
            yield Violation("contradiction", text, (op.name,))


def errors(history: History, is_retried: bool) -> Iterator[Violation]:
    """Nothing fails except by a conflict, and with retries hardly anything does."""
    refused = [op for op in history.ops if op.status == REFUSED]
    for op in history.ops:
        if op.status == ERROR:
            yield Violation("error", op.error or "", (op.name,))
        if op.logged and not any(part.answers for part in op.parts):
            yield Violation("error logged", op.logged[0], (op.name,))
    if is_retried and len(refused) > REFUSALS * len(history.ops):
        yield Violation(
            "refused",
            f"{len(refused)} of {len(history.ops)} requests",
            tuple(op.name for op in refused[:3]),
        )
