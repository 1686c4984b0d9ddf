"""What requests did to sessions, and when: the history that verdicts are about."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pyramid_sqlalchemy_sessions import AESGCMSerializer, CookieCryptoError

#: How often a register was written, and the token of the last write.
Version = tuple[int, "str | None"]

DONE, CAUGHT, CRASHED, REFUSED, ERROR = "done", "caught", "crashed", "refused", "error"


#: A message that's flashed repeatedly; all others are tokens.
AGAIN = "again"


class Cookie(NamedTuple):
    """What a session cookie says."""

    id: str
    renewal_id: str | None

    @classmethod
    def open(cls, serializer: AESGCMSerializer, value: str) -> Cookie | None:
        """Return what the value of a cookie says, or None if it isn't ours."""
        try:
            plain = serializer.loads(value)
        except (CookieCryptoError, ValueError):
            return None
        rest = plain[16:]
        return cls(
            uuid.UUID(bytes=plain[:16]).hex,
            uuid.UUID(bytes=rest).hex if rest else None,
        )

    def __str__(self) -> str:
        renewal_id = self.renewal_id[:4] if self.renewal_id else "-"
        return f"{self.id[:4]}/{renewal_id}"


@dataclass
class Part:
    """A stretch of a request that is stored as a whole or not at all.

    A view is one part. What it does after it has ended its session is another one, and
    so is what it takes back by a savepoint, and what an exception view does.

    A session has a mark: the token of the request that began it. When another user
    logs in, which clears the session, a plus sign and another token are added.
    """

    #: The mark that the session had, None if it was empty.
    found: str | None
    #: The mark that it has afterwards.
    mark: str | None
    #: Whether it should be stored if the request succeeds.
    counts: bool = True
    #: Whether an exception view did it.
    answers: bool = False
    is_stored: bool = False
    #: Whether it may be lost without an error, because its session had ended, or
    #: belonged to another user, by then.
    is_doubtful: bool = False
    reads: dict[str, Version] = field(default_factory=dict)
    writes: dict[str, Version] = field(default_factory=dict)
    #: The values read of what has no versions, and those written.
    values: dict[str, Any] = field(default_factory=dict)
    values_written: dict[str, Any] = field(default_factory=dict)
    flashed: list[str] = field(default_factory=list)
    popped: list[str] | None = None
    peeked: list[str] | None = None
    #: The user who logs in; "nobody" for a logout, None if neither happens.
    user: str | None = None
    #: Whether the session had another user before, or none.
    changes_user: bool = False
    ends: bool = False
    #: Whether another user's login clears the session.
    clears: bool = False
    rotates: bool = False
    #: Whose sessions are revoked, and the mark of the one that is kept.
    revokes: tuple[str, str | None] | None = None
    #: The id of a session that is ended by it.
    deletes: str | None = None
    #: All items of the list in the session.
    items: list[str] | None = None
    #: What the request itself found to be wrong.
    wrong: list[str] = field(default_factory=list)

    @property
    def lineage(self) -> str | None:
        """The session that was found, without regard to its user."""
        return lineage_of(self.found)


def lineage_of(mark: str | None) -> str | None:
    """Return the mark that the session began with."""
    return mark.partition("+")[0] if mark else None


@dataclass
class Op:
    """One request: what it was, how it ended, and when, in seconds of one clock."""

    name: str
    kind: str
    #: The number of the browser; None if this tries a cookie that is dead.
    browser: int | None
    cookie: Cookie | None
    #: The request whose answer brought the cookie.
    brought_by: str | None
    start: float
    end: float = 0.0
    #: When the browser took its cookie.
    taken: float = 0.0
    status: str = ERROR
    error: str | None = None
    #: Where an error came from that a request should never end with.
    trace: list[str] = field(default_factory=list)
    attempts: int = 0
    is_late: bool = False
    violation: bool = False
    parts: list[Part] = field(default_factory=list)
    #: When commits began that had written.
    commits: list[float] = field(default_factory=list)
    #: What was logged as an error, and what as information or a warning.
    logged: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    #: The cookie that was set, None if none was.
    sent: Cookie | None = None
    #: Whether a cookie was deleted.
    deletes_cookie: bool = False
    #: Whether the row that the cookie names was there, and had that renewal id.
    names_row: bool = True
    accepts_renewal_id: bool = True
    checked: float = 0.0
    #: When the answer got to the browser, None if it was lost.
    arrived: float | None = None

    def settle(self) -> None:
        """Note which parts were stored, now that the outcome is known."""
        for part in self.parts:
            if part.answers:
                succeeded = self.status == CAUGHT and not self.logged
                succeeded = succeeded and not self.strays
                part.is_doubtful = bool(self.told)
            else:
                succeeded = self.status == DONE
            part.is_stored = part.counts and succeeded

    @property
    def strays(self) -> bool:
        """Whether an exception view's login went into its own session.

        That's right if another login came first.
        """
        logs_in = any(part.answers and part.user for part in self.parts)
        is_another = self.sent and self.cookie and self.sent.id != self.cookie.id
        return logs_in and bool(self.found and is_another)

    @property
    def stored(self) -> Iterator[Part]:
        """The parts that were stored."""
        return (part for part in self.parts if part.is_stored)

    @property
    def found(self) -> str | None:
        """The session that the request found, without regard to its user."""
        return self.parts[0].lineage if self.parts else None


def described(op: Op, since: float = 0.0) -> str:
    """Return a line about a request."""
    words = [
        f"{op.name:>10}",
        f"{1000 * (op.start - since):9.1f}..{1000 * (op.end - since):.1f} ms",
        "dead cookie" if op.browser is None else f"browser {op.browser}",
        f"{op.kind:12} {op.status}{' LATE' if op.is_late else ''}",
        f"cookie {op.cookie or 'none'} (of {op.brought_by})",
    ]
    if op.sent:
        words.append(f"sets {op.sent}")
    if op.deletes_cookie:
        words.append("deletes cookie")
    words.append("lost" if op.arrived is None else f"arrives {_ms(op.arrived - since)}")
    words += [f"commits {_ms(time - since)}" for time in op.commits]
    if op.attempts > 1:
        words.append(f"{op.attempts} attempts")
    if op.violation:
        words.append("VIOLATION")
    if op.error:
        words.append(op.error)
    lines = [" ".join(words)]
    lines += [f"{'':12}{_of_part(part)}" for part in op.parts]
    lines += [f"{'':12}log: {text}" for text in (*op.logged, *op.told)]
    lines += [f"{'':12}{text}" for text in op.trace]
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"


def _of_part(part: Part) -> str:
    words = ["stored" if part.is_stored else "not stored"]
    words.append(f"found {part.found}")
    for name, value in vars(part).items():
        if name not in ("found", "is_stored", "counts") and value not in (
            None,
            False,
            {},
            [],
        ):
            words.append(f"{name} {value}")
    return ", ".join(words)


@dataclass(frozen=True)
class Violation:
    """An invariant, how it was broken, and the names of the requests involved."""

    rule: str
    text: str
    ops: tuple[str | None, ...] = ()

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


class History:
    """The requests of a run, and what can be looked up about them."""

    def __init__(self, ops: list[Op], *, grace: float = 60, renewal: float = 1):
        self.ops = sorted(ops, key=lambda op: op.start)
        self.grace = grace
        #: How long a request may take before a renewal may well have passed it.
        self.patience = renewal / 2
        self.by_name = {op.name: op for op in self.ops}
        self.first = self.ops[0].start if self.ops else 0.0
        #: The session that a cookie with this id belongs to.
        self.lineages: dict[str, str] = {}
        #: What is stored about each session: (request, part), in order of the ends.
        self.ends: dict[str, list[Op]] = defaultdict(list)
        self.may_end: dict[str, list[Op]] = defaultdict(list)
        self.rotations: dict[str, list[Op]] = defaultdict(list)
        #: Requests whose cookies were taken to be stolen.
        self.thefts: dict[str, list[Op]] = defaultdict(list)
        self._users: dict[str, list[tuple[int, Op, Part]]] = defaultdict(list)
        for op in self.ops:
            self._note_lineages(op)
        for op in self.ops:
            self._note_changes(op)
        for op in self.ops:
            self._note_revocations(op)
        for op in self.ops:
            self._note_doubts(op)

    def op_of(self, token: str) -> Op | None:
        """Return the request that a token belongs to."""
        return self.by_name.get(token.rstrip("abcdefghijklmnopqrstuvwxyz"))

    def of_cookie(self, cookie: Cookie | None) -> str | None:
        """Return the session that the cookie was set for."""
        return self.lineages.get(cookie.id) if cookie else None

    def any_end(self, lineage: str) -> list[Op]:
        """Return all requests that ended the session or may have ended it."""
        kinds = (self.ends, self.may_end, self.thefts)
        return [op for kind in kinds for op in kind.get(lineage, ())]

    def user_at(self, lineage: str, time: float) -> str:
        """Return the user whose login had been answered, "nobody" if none had."""
        changes = self._users.get(lineage, [])
        known = [each for each in changes if each[1].end < time]
        last = max(known, key=lambda each: each[0], default=None)
        return (last and last[2].user) or "nobody"

    def slice(self, *names: str | None) -> str:
        """Return lines about these requests."""
        ops = [self.by_name[name] for name in dict.fromkeys(names) if name]
        ops.sort(key=lambda op: op.start)
        return "\n".join(described(op, self.first) for op in ops)

    def _note_lineages(self, op: Op) -> None:
        if op.cookie and op.found:
            self.lineages.setdefault(op.cookie.id, op.found)
        marks = [part.mark for part in op.stored if part.mark]
        if op.sent and marks:
            lineage = lineage_of(marks[-1])
            assert lineage
            self.lineages.setdefault(op.sent.id, lineage)

    def _note_changes(self, op: Op) -> None:
        if op.violation and (stolen := self.of_cookie(op.cookie)):
            self.thefts[stolen].append(op)
        for part in op.stored:
            # A late one that ends does it to the session that its cookie was set for.
            lineage = part.lineage or (self.of_cookie(op.cookie) if op.is_late else "")
            if part.ends and lineage:
                self.ends[lineage].append(op)
            if part.deletes in self.lineages:
                self.ends[self.lineages[part.deletes]].append(op)
            if part.rotates and part.lineage:
                self.rotations[part.lineage].append(op)
            if part.user and part.mark:
                n, _ = part.writes["login"]
                # The count starts again when another user logs in.
                n += 1_000_000 * part.mark.count("+")
                lineage = lineage_of(part.mark)
                assert lineage
                self._users[lineage].append((n, op, part))

    def _note_revocations(self, op: Op) -> None:
        for part in op.stored:
            if part.revokes is None:
                continue
            user, kept = part.revokes
            for lineage, changes in self._users.items():
                known = [each for each in changes if each[1].start < op.end]
                if lineage == kept or all(each[2].user != user for each in known):
                    continue
                self.may_end[lineage].append(op)
                _, last, login = max(known, key=lambda each: each[0])
                # What a late request keeps isn't the session that its cookie is of.
                keeps = op.is_late and lineage == self.of_cookie(op.cookie)
                keeps = keeps or login.is_doubtful
                if login.user == user and last.end < op.start and not keeps:
                    self.ends[lineage].append(op)

    def _note_doubts(self, op: Op) -> None:
        for part in op.stored:
            if part.answers and part.lineage:
                ends = [each for each in self.any_end(part.lineage) if each is not op]
                part.is_doubtful |= any(each.start < op.end for each in ends)
