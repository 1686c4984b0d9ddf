"""A small model of what sessions do, to compare the real ones with.

It is written from the contract, not from the code: what a request finds, what becomes
of the rows when it commits, and which cookie it answers with. Ids, renewal ids and
tokens are drawn at random, so the model takes those that the application drew and
checks that it never saw them before.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

#: Stands for what is drawn at random, until it is seen.
NEW = b"new"

#: What a session can have of its own.
RUNTIME = (
    "cookie_max_age",
    "cookie_path",
    "cookie_httponly",
    "idle_timeout",
    "absolute_timeout",
    "renewal_timeout",
    "renewal_try_every",
    "extension_delay",
)


class Ticket(NamedTuple):
    """What an authentic cookie says."""

    id: bytes
    renewal_id: bytes | None


class Answer(NamedTuple):
    """What the response is to do with the cookie.

    ``ticket`` is None for a deletion. ``settings`` are those that give the attributes,
    None if they are not known for certain.
    """

    ticket: Ticket | None
    settings: dict[str, Any] | None


class Conflict(Exception):
    """The request would overwrite what another one wrote."""


@dataclass
class Row:
    """A stored session."""

    id: bytes
    created: int
    settings: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)
    flash: dict[str, list[Any]] = field(default_factory=dict)
    userid: int | None = None
    csrf_token: bytes | None = None
    version: int = 1
    idle_expire: int | None = None
    renewal_id: bytes | None = None
    renewal_next: bytes | None = None
    renewal_previous: bytes | None = None
    renewed: int | None = None
    renewal_tried: int | None = None

    def is_expired(self, now: int) -> bool:
        """Tell whether a timeout has passed: now is greater than the expiry."""
        absolute = self.settings["absolute_timeout"]
        return (
            self.settings["idle_timeout"] is not None and now > self.idle_expire
        ) or (absolute is not None and now > self.created + absolute)

    def edges(self, grace: int) -> list[int]:
        """Return the last seconds of all that lasts for a while."""
        settings = self.settings
        idle, delay = settings["idle_timeout"], settings["extension_delay"]
        edges = []
        if idle is not None:
            assert self.idle_expire is not None
            edges += [self.idle_expire, self.idle_expire - idle + (delay or 0)]
        if settings["absolute_timeout"] is not None:
            edges.append(self.created + settings["absolute_timeout"])
        if self.renewed is not None:
            edges += [self.renewed + settings["renewal_timeout"], self.renewed + grace]
        if self.renewal_tried is not None:
            tried = self.renewal_tried
            edges += [tried + settings["renewal_try_every"], tried + grace]
        return edges

    def judge(self, renewal_id: bytes | None, grace: int, now: int) -> str:
        """Tell what a cookie with this renewal id is: good, useless or stolen."""
        if self.settings["renewal_timeout"] is None:
            return "good"
        if renewal_id is None or self.renewal_id is None:
            return "useless"
        if renewal_id in (self.renewal_id, self.renewal_next):
            return "good"
        in_grace = grace > 0 and now <= self.renewed + grace
        if renewal_id == self.renewal_previous and in_grace:
            return "good"
        return "stolen"


@dataclass
class Work:
    """What a request sees of its session, and does with it."""

    row: Row
    is_new: bool
    is_active: bool = False
    is_forced: bool = False
    is_rotated: bool = False
    edits: dict[str, Any] = field(default_factory=dict)  # of settings, not yet saved

    @property
    def is_empty(self) -> bool:
        """Whether a new session has nothing worth storing."""
        row = self.row
        return not (row.data or row.flash) and row.userid is row.csrf_token is None

    def differs(self, loaded: Row) -> bool:
        """Tell whether anything was changed, be it the order of the keys."""
        return self.row != loaded or [*self.row.data] != [*loaded.data]

    def rotate(self) -> None:
        """Draw all secrets anew."""
        if self.is_new:
            return
        self.is_rotated = True
        if self.row.csrf_token is not None:
            self.row.csrf_token = NEW


@dataclass
class Use:
    """One request's use of its session."""

    now: int
    work: Work
    loaded: Row | None = None  # as it was found
    ticket: Ticket | None = None
    events: list[str] = field(default_factory=list)
    expired: list[bytes] = field(default_factory=list)
    stolen: list[bytes] = field(default_factory=list)
    must_delete_cookie: bool = False  # whatever becomes of the request
    settings: dict[str, Any] | None = None  # of the session that was found last
    is_ended: bool = False  # what was found was invalidated


class Sessions:
    """All stored sessions, and the rules by which they change."""

    def __init__(self, settings: dict[str, Any], grace: int):
        self.settings = settings
        self.grace = grace
        self.rows: dict[bytes, Row] = {}

    # The request begins.

    def find(self, tickets: list[Ticket | str], now: int) -> Use:
        """Find the session of a request; a text in place of a ticket is an error."""
        use = Use(now, self.make_work(now), settings=self.settings)
        errors = [each for each in tickets if isinstance(each, str)]
        if errors and len(errors) == len(tickets):
            use.events.append(errors[0])
            use.must_delete_cookie = True
        found = [
            (ticket, row, row.judge(ticket.renewal_id, self.grace, now))
            for ticket in dict.fromkeys(tickets)
            if not isinstance(ticket, str) and (row := self.rows.get(ticket.id))
        ]
        # Who has the good cookie, too, has not stolen the other one.
        good = {row.id for _, row, verdict in found if verdict == "good"}
        for ticket, row, verdict in found:
            use.settings = row.settings
            if verdict == "stolen" and row.id in {*good, *use.stolen}:
                continue
            if verdict == "stolen":
                use.events.append("stolen")
                use.stolen.append(row.id)
                use.must_delete_cookie = True
            elif verdict == "good" and row.is_expired(now):
                use.expired.append(row.id)
            elif verdict == "good":
                use.loaded = copy.deepcopy(row)
                use.ticket = ticket
                use.work = Work(copy.deepcopy(row), is_new=False)
                use.must_delete_cookie = False
                break
        return use

    def make_work(self, now: int) -> Work:
        """Return what a request without a session begins with."""
        return Work(Row(NEW, now, dict(self.settings)), is_new=True)

    def invalidate(self, use: Use) -> None:
        """End the session that is there, and begin another one."""
        use.is_ended |= not use.work.is_new
        use.work = self.make_work(use.now)

    # The request ends.

    def abort(self, use: Use) -> Answer | None:
        """End a request of which nothing is stored."""
        for each in use.stolen:
            self.rows.pop(each, None)
        return Answer(None, use.settings) if use.must_delete_cookie else None

    def commit(self, use: Use) -> Answer | None:
        """Store what a request did. Raises Conflict."""
        self._check(use)
        deletion = use.must_delete_cookie
        for each in use.expired:
            row = self.rows.get(each)
            if row is not None and row.is_expired(use.now):
                del self.rows[each]
                deletion = True
        for each in use.stolen:
            self.rows.pop(each, None)
        if use.is_ended:
            assert use.loaded is not None
            self.rows.pop(use.loaded.id, None)
            deletion = True
        answer = Answer(None, use.settings) if deletion else None
        if use.work.is_new:
            return answer if use.work.is_empty else self._insert(use)
        assert use.loaded is not None
        row = self.rows.get(use.loaded.id)
        return None if row is None else self._update(use, row)

    def _check(self, use: Use) -> None:
        if use.loaded is None:
            return
        row = self.rows.get(use.loaded.id)
        if use.is_ended:
            if row is not None and row.version != use.loaded.version:
                raise Conflict
        elif self.changes(use) and (row is None or row.version != use.loaded.version):
            raise Conflict

    def changes(self, use: Use) -> bool:
        """Tell whether the request changed the session that it found."""
        work = use.work
        return work.is_forced or work.is_rotated or work.differs(use.loaded)

    def _insert(self, use: Use) -> Answer:
        row = use.work.row
        if row.settings["idle_timeout"] is not None:
            row.idle_expire = use.now + row.settings["idle_timeout"]
        if row.settings["renewal_timeout"] is not None:
            row.renewal_id, row.renewed = NEW, use.now
        self.rows[NEW] = row
        return Answer(Ticket(NEW, row.renewal_id), row.settings)

    def _update(self, use: Use, row: Row) -> Answer | None:
        work, loaded, ticket = use.work, use.loaded, use.ticket
        assert loaded is not None
        assert ticket is not None
        answer = None
        if self.changes(use):
            row.version += 1
            row.data, row.flash = work.row.data, work.row.flash
            row.userid, row.csrf_token = work.row.userid, work.row.csrf_token
        is_extended = self._extend(row, loaded, work, use.now)
        is_to_send = is_extended and row.settings["cookie_max_age"] is not None
        if work.is_rotated:
            answer = self._rotate(row, use.now)
        elif row.settings["renewal_timeout"] is not None:
            answer = self._renew(row, loaded, ticket, is_to_send, use.now)
        elif is_to_send:
            answer = Answer(Ticket(row.id, None), row.settings)
        return answer

    def _rotate(self, row: Row, now: int) -> Answer:
        del self.rows[row.id]
        row.id = NEW
        self.rows[NEW] = row
        if row.settings["renewal_timeout"] is not None:
            row.renewal_id, row.renewed = NEW, now
            row.renewal_next = row.renewal_previous = row.renewal_tried = None
        return Answer(Ticket(NEW, row.renewal_id), row.settings)

    def _renew(
        self, row: Row, loaded: Row, ticket: Ticket, is_to_send: bool, now: int
    ) -> Answer | None:
        received, candidate = ticket.renewal_id, loaded.renewal_next
        settings = row.settings
        same_cookie = Answer(ticket, settings)
        if received == candidate:
            if row.renewal_next != candidate:  # another request completed it
                return None
            row.renewal_previous, row.renewal_id = loaded.renewal_id, candidate
            row.renewal_next, row.renewed = None, now
            if is_to_send:
                row.renewal_tried = now
            return same_cookie if is_to_send else None
        if received != loaded.renewal_id:  # in its grace
            return None
        is_first = (row.renewal_id, row.renewal_next, row.renewal_tried) == (
            loaded.renewal_id,
            loaded.renewal_next,
            loaded.renewal_tried,
        )
        if candidate is not None:
            is_due = now > loaded.renewal_tried + settings["renewal_try_every"]
        elif now > loaded.renewed + settings["renewal_timeout"]:
            # A cookie that was sent again may still be on its way.
            pause = min(self.grace, settings["renewal_timeout"])
            is_due = loaded.renewal_tried is None or now > loaded.renewal_tried + pause
        else:
            if is_to_send and (row.renewal_id, row.renewal_next) == (received, None):
                row.renewal_tried = now
                return same_cookie
            return None
        if not (is_due and is_first):
            return None
        row.renewal_next = candidate or NEW
        row.renewal_tried = now
        return Answer(Ticket(row.id, row.renewal_next), settings)

    def _extend(self, row: Row, loaded: Row, work: Work, now: int) -> bool:
        """Extend the session if that is due; tell whether it was extended."""
        timeout, delay = row.settings["idle_timeout"], row.settings["extension_delay"]
        if timeout is None:
            return False
        passed = now - (loaded.idle_expire - timeout)
        is_write = work.is_active or work.is_rotated or work.differs(loaded)
        if not is_write and delay is not None and passed <= delay:
            return False
        if row.idle_expire >= now + timeout:
            return False
        row.idle_expire = now + timeout
        return True

    # What was drawn.

    def learn(self, drawn: Ticket) -> None:
        """Take the ids of the row that was inserted, rotated or given a candidate."""
        row = self.rows.pop(NEW, None) or self.rows[drawn.id]
        row.id = drawn.id
        self.rows[drawn.id] = row
        if row.renewal_id == NEW:
            row.renewal_id = drawn.renewal_id
        if row.renewal_next == NEW:
            row.renewal_next = drawn.renewal_id


#: The columns of a row that are compared one by one.
COLUMNS = [each.name for each in fields(Row) if each.name != "settings"]
