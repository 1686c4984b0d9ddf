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
    #: The path at which another cookie is to be deleted, if there is one.
    moved_from: str | None = None

    def instead_of(self, was: dict[str, Any] | None) -> Answer:
        """Return the same for a browser that has a cookie with those settings."""
        assert self.settings is not None
        path = self.settings["cookie_path"] if was is None else was["cookie_path"]
        is_there = path == self.settings["cookie_path"]
        return self._replace(moved_from=None if is_there else path)


class Conflict(Exception):
    """Another request changed what this one read or wrote."""


@dataclass
class Row:
    """A stored session."""

    id: bytes
    created: int
    settings: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)
    flash: dict[str, list[Any]] = field(default_factory=dict)
    userid: int | None = None
    authenticated: int | None = None
    csrf_token: bytes | None = None
    version: int = 1
    idle_expire: int | None = None
    sent: int | None = None
    rotated: int | None = None
    rotated_from: bytes | None = None
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
        timeout, max_age = settings["renewal_timeout"], settings["cookie_max_age"]
        edges = []
        if idle is not None:
            assert self.idle_expire is not None
            edges += [self.idle_expire, self.idle_expire - idle + (delay or 0)]
        if settings["absolute_timeout"] is not None:
            edges.append(self.created + settings["absolute_timeout"])
        if timeout is not None:
            pause = min(grace, timeout)
            assert self.renewed is not None
            edges += [self.renewed + timeout, self.renewed + pause]
            if self.renewal_tried is not None:
                tried = self.renewal_tried
                edges += [tried + settings["renewal_try_every"], tried + pause]
            if self.sent is not None:
                edges.append(self.sent + pause)
        if self.rotated is not None:
            edges.append(self.rotated + grace)
        if max_age is not None and self.sent is not None:
            edges.append(self.sent + (max_age - 1) // 10)
        return edges

    def judge(self, renewal_id: bytes | None, grace: int, now: int) -> str:
        """Tell what a cookie with this renewal id is: good, late, useless or stolen."""
        timeout = self.settings["renewal_timeout"]
        if timeout is None and self.rotated is None:
            return "good"
        if renewal_id is not None:
            if renewal_id in (self.renewal_id, self.renewal_next):
                return "good"
            if renewal_id == self.renewal_previous and grace:
                assert self.renewed is not None
                pause = grace if timeout is None else min(grace, timeout)
                if abs(now - self.renewed) <= pause:
                    return "good"
        by_rotation = renewal_id is None or renewal_id != self.renewal_previous
        is_recent = self.rotated is not None and abs(now - self.rotated) <= grace
        if by_rotation and is_recent and grace:
            return "late"
        if timeout is None or renewal_id is None or self.renewal_id is None:
            return "useless"
        return "useless" if renewal_id == self.rotated_from else "stolen"

    @property
    def rotation(self) -> tuple[int | None, bytes | None]:
        """What says which rotation was the last one."""
        return self.rotated, self.rotated_from


class Due(NamedTuple):
    """What is to be done besides the user's changes, if nobody was faster."""

    guard: dict[str, Any]
    changes: dict[str, Any]
    ticket: Ticket | None


@dataclass
class Work:
    """What a request sees of its session, and does with it."""

    row: Row
    is_new: bool
    #: The id of the session that the cookie stood for, if it came too late.
    late: bytes | None = None
    is_active: bool = False
    is_forced: bool = False
    is_rotated: bool = False
    edits: dict[str, Any] = field(default_factory=dict)  # of settings, not yet saved
    # What it looked at or wrote to.
    seen: set[str] = field(default_factory=set)  # keys of the dict
    has_seen_all: bool = False
    has_seen_flash: bool = False
    has_seen_token: bool = False
    has_set: bool = False  # its settings
    # How it came about.
    removed: set[str] = field(default_factory=set)  # keys, perhaps set again
    has_popped: bool = False
    has_cleared_flash: bool = False
    pushed: list[Any] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether a new session has nothing worth storing."""
        row = self.row
        if self.late is not None:  # after a late cookie only a login is
            return row.userid is None
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

    def log_in(self, userid: int | None) -> None:
        """Let the session belong to this user, who finds nothing of another one."""
        row = self.row
        if row.userid == userid:
            return
        if row.userid is not None and userid is not None:
            row.data.clear()
            row.flash.clear()
            self.has_seen_all = self.has_cleared_flash = True
            self.pushed.clear()
        row.userid, row.authenticated = userid, None
        self.rotate()

    def clashes(self, loaded: Row, row: Row) -> bool:
        """Tell whether another request changed what this one looked at or changed."""
        token = self.has_seen_token or self.row.csrf_token != loaded.csrf_token
        proof = self.row.authenticated != loaded.authenticated
        return (
            self.is_forced
            or row.userid != loaded.userid
            or (token and row.csrf_token != loaded.csrf_token)
            or (proof and row.authenticated != loaded.authenticated)
            or (self.has_set and row.settings != loaded.settings)
            or (self.is_rotated and row.rotation != loaded.rotation)
            or (self.has_seen_flash and row.flash.get("") != loaded.flash.get(""))
            or (self.has_seen_all and [*row.data.items()] != [*loaded.data.items()])
            or any(row.data.get(key) != loaded.data.get(key) for key in self.seen)
        )

    def merge(self, loaded: Row, row: Row) -> None:
        """Do what was changed to the row as it is now."""
        mine = self.row
        if self.has_seen_all:
            row.data = mine.data
        else:
            for key in loaded.data:
                if key not in mine.data:
                    row.data.pop(key, None)
            for key, value in mine.data.items():
                is_anew = key in self.removed
                if is_anew:
                    row.data.pop(key, None)
                if is_anew or key not in loaded.data or loaded.data[key] != value:
                    row.data[key] = value
        if self.has_cleared_flash:
            row.flash.clear()
        if self.has_popped:
            row.flash.pop("", None)
        if self.pushed:
            row.flash.setdefault("", []).extend(self.pushed)
        for name in ("userid", "authenticated", "csrf_token"):
            if getattr(mine, name) != getattr(loaded, name):
                setattr(row, name, getattr(mine, name))

    def configure(self, changes: dict[str, Any], now: int) -> None:
        """Change settings, which count from now."""
        if not changes:
            return
        settings = self.row.settings
        if self.is_new:
            settings.update(changes)
            return
        self.is_active = self.has_set = True
        begins_to_renew = settings["renewal_timeout"] is None
        settings.update(changes)
        if changes.get("absolute_timeout") is not None:
            settings["absolute_timeout"] += max(now - self.row.created, 0)
        if begins_to_renew and settings["renewal_timeout"] is not None:
            self.rotate()


@dataclass
class Use:
    """One request's use of its session."""

    now: int
    work: Work
    #: By ticket: at which rotation it was good in this request; "late" if it came late.
    judged: dict[Ticket, Any]
    loaded: Row | None = None  # as it was found
    ticket: Ticket | None = None
    events: list[str] = field(default_factory=list)
    expired: list[bytes] = field(default_factory=list)
    stolen: list[bytes] = field(default_factory=list)
    must_delete_cookie: bool = False  # whatever becomes of the request
    settings: dict[str, Any] | None = None  # of the session that was found last
    ended: list[bytes] = field(default_factory=list)
    #: The settings of the cookie that the browser has, if it is to be replaced.
    was: dict[str, Any] | None = None
    late_settings: dict[str, Any] | None = None


class Sessions:
    """All stored sessions, and the rules by which they change."""

    def __init__(self, settings: dict[str, Any], grace: int):
        self.settings = settings
        self.grace = grace
        self.rows: dict[bytes, Row] = {}

    # The request begins.

    def find(
        self,
        tickets: list[Ticket | str],
        now: int,
        judged: dict[Ticket, Any] | None = None,
    ) -> Use:
        """Find the session of a request; a text in place of a ticket is an error.

        ``judged`` is what an earlier transaction of the same request thought of them.
        """
        judged = {} if judged is None else judged
        use = Use(now, self.make_work(now), judged, settings=self.settings)
        errors = [each for each in tickets if isinstance(each, str)]
        if errors and len(errors) == len(tickets):
            use.events.append(errors[0])
            use.must_delete_cookie = True
        late = None
        for ticket in dict.fromkeys(tickets):
            row = None if isinstance(ticket, str) else self.rows.get(ticket.id)
            if row is None:
                continue
            assert isinstance(ticket, Ticket)
            use.settings = row.settings
            verdict = self._judge(row, ticket, use)
            if verdict in ("good", "late") and row.is_expired(now):
                use.expired.append(row.id)
            elif verdict == "good":
                # Who has the good cookie, too, has not stolen the other one.
                if row.id in use.stolen:
                    use.stolen.remove(row.id)
                    use.events.remove("stolen")
                use.loaded = copy.deepcopy(row)
                use.ticket = ticket
                use.work = Work(copy.deepcopy(row), is_new=False)
                use.must_delete_cookie = False
                return use
            elif verdict == "late":
                late = late or row.id
                use.late_settings = use.late_settings or dict(row.settings)
            elif verdict == "stolen":
                if row.id not in use.stolen:
                    use.stolen.append(row.id)
                    use.events.append("stolen")
                use.must_delete_cookie = True
        use.work.late = late
        return use

    def _judge(self, row: Row, ticket: Ticket, use: Use) -> str:
        verdict = row.judge(ticket.renewal_id, self.grace, use.now)
        if ticket in use.judged and verdict != "good":
            verdict = "good" if use.judged[ticket] == row.rotation else "late"
        if verdict in ("good", "late"):
            use.judged[ticket] = row.rotation if verdict == "good" else "late"
        return verdict

    def make_work(self, now: int) -> Work:
        """Return what a request without a session begins with."""
        return Work(Row(NEW, now, dict(self.settings)), is_new=True)

    def invalidate(self, use: Use) -> None:
        """End the session that is there, and begin another one."""
        ended = use.work.late if use.work.is_new else use.work.row.id
        if ended is not None:
            use.ended.append(ended)
            settings = use.late_settings if use.loaded is None else use.loaded.settings
            use.was = use.was or settings
        use.work = self.make_work(use.now)

    # The request ends.

    def abort(self, use: Use) -> Answer | None:
        """End a request of which nothing is stored."""
        for each in use.stolen:
            self.rows.pop(each, None)
        return Answer(None, use.settings) if use.must_delete_cookie else None

    def commit(self, use: Use) -> Answer | None:
        """Store what a request did. Raises Conflict."""
        work, loaded = use.work, use.loaded
        row = None
        if not work.is_new:
            assert loaded is not None
            row = self.rows.get(loaded.id)
            if self.changes(use) and (
                row is None
                or (row.version != loaded.version and work.clashes(loaded, row))
            ):
                raise Conflict
        deletion = use.must_delete_cookie
        gone = None
        for each in use.expired:
            expired = self.rows.get(each)
            if expired is not None and expired.is_expired(use.now):
                del self.rows[each]
                deletion = True
                gone = gone or expired.settings
        for each in use.stolen:
            self.rows.pop(each, None)
        for each in use.ended:
            self.rows.pop(each, None)
            deletion = True
        if work.is_new:
            if not work.is_empty:
                if use.was is None and deletion:
                    use.was = gone or use.settings
                return self._insert(use).instead_of(use.was)
            return Answer(None, use.settings) if deletion else None
        return None if row is None else self._update(use, row)

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
        if row.settings["cookie_max_age"] is not None:
            row.sent = use.now
        self.rows[NEW] = row
        return Answer(Ticket(NEW, row.renewal_id), row.settings)

    def _update(self, use: Use, row: Row) -> Answer | None:
        work, loaded, ticket = use.work, use.loaded, use.ticket
        assert loaded is not None
        assert ticket is not None
        changes = self.changes(use)
        settings = work.row.settings
        is_redressed = any(
            settings[name] != loaded.settings[name]
            for name in ("cookie_max_age", "cookie_path", "cookie_httponly")
        )
        # What is due is judged by the new settings.
        present = copy.deepcopy(loaded)
        self._restart(present, settings, use.now)
        extended = self._extended(present, work, use.now)
        due = self._due(present, ticket, use.now, work.is_rotated or is_redressed)
        if changes:
            self._restart(row, settings if work.has_set else row.settings, use.now)
            is_candidate = due is not None and "renewal_id" in due.changes
            if work.is_rotated and is_candidate and self._can_do(due, row):
                row.renewal_id = row.renewal_next  # that's what is replaced
            if row.version == loaded.version:
                row.data, row.flash = work.row.data, work.row.flash
                for name in ("userid", "authenticated", "csrf_token"):
                    setattr(row, name, getattr(work.row, name))
            else:
                work.merge(loaded, row)
            row.version += 1
            self._extend(row, extended)
            if work.is_rotated:
                return self._rotate(row, use.now).instead_of(loaded.settings)
            if is_redressed and settings["cookie_max_age"] is not None:
                row.sent = use.now
        again = None
        if not changes or due is None or due.changes:
            can_do = self._can_do(due, row)
            if can_do or due is None:
                self._extend(row, extended)
            if can_do:
                assert due is not None
                for name, value in due.changes.items():
                    setattr(row, name, value)
                again = due.ticket
        if is_redressed:
            sent = Ticket(row.id, row.renewal_next or row.renewal_id)
            return Answer(sent, row.settings).instead_of(loaded.settings)
        return None if again is None else Answer(again, row.settings)

    def _can_do(self, due: Due | None, row: Row) -> bool:
        return due is not None and all(
            getattr(row, name) == value for name, value in due.guard.items()
        )

    def _restart(self, row: Row, settings: dict[str, Any], now: int) -> None:
        """Let timeouts that are changed count from now."""
        was, row.settings = row.settings, settings
        idle, renewal = settings["idle_timeout"], settings["renewal_timeout"]
        if idle != was["idle_timeout"]:
            row.idle_expire = None if idle is None else now + idle
        before = was["renewal_timeout"]
        if renewal != before and None not in (renewal, before):
            assert row.renewed is not None
            if abs(now - row.renewed) > min(self.grace, before):
                row.renewal_previous = None
            row.renewed = now

    def _rotate(self, row: Row, now: int) -> Answer:
        row.rotated, row.rotated_from, row.renewal_id = now, row.renewal_id, NEW
        row.renewal_next = row.renewal_previous = row.renewal_tried = None
        row.renewed = now
        if row.settings["cookie_max_age"] is not None:
            row.sent = now
        return Answer(Ticket(row.id, NEW), row.settings)

    def _due(
        self, row: Row, ticket: Ticket, now: int, is_sent: bool = False
    ) -> Due | None:
        """Return what is due for the row besides an extension.

        Unless a cookie is sent anyway.
        """
        max_age = row.settings["cookie_max_age"]
        due = self._renewal(row, ticket, now)
        if max_age is None or is_sent:
            return due
        if due is not None and due.ticket is not None:
            return due._replace(changes={**due.changes, "sent": now})
        is_due = row.sent is None or abs(now - row.sent) * 10 >= max_age
        # The cookie is sent again only if it is the one that the session has; in its
        # place the candidate, if there is one.
        is_takeover = due is not None
        if not (is_due and (is_takeover or ticket.renewal_id == row.renewal_id)):
            return due
        if row.renewal_next and not is_takeover:
            ticket = Ticket(row.id, row.renewal_next)
        guard = {"renewal_id": row.renewal_id, "renewal_next": row.renewal_next}
        changes = {} if due is None else due.changes
        return Due(guard, {**changes, "sent": now}, ticket)

    def _renewal(self, row: Row, ticket: Ticket, now: int) -> Due | None:
        settings, received = row.settings, ticket.renewal_id
        candidate, tried = row.renewal_next, row.renewal_tried
        timeout = settings["renewal_timeout"]
        if timeout is None or received is None:
            return None
        if received == candidate:
            takeover = {
                "renewal_id": candidate,
                "renewal_previous": row.renewal_id,
                "renewal_next": None,
                "renewed": now,
            }
            return Due({"renewal_next": candidate}, takeover, None)
        if received != row.renewal_id:  # in its grace
            return None
        guard = {name: getattr(row, name) for name in _OF_RENEWAL}
        if candidate is not None:
            assert tried is not None
            if now <= tried + settings["renewal_try_every"]:
                return None
        else:
            assert row.renewed is not None
            # A cookie that was sent may still be on its way.
            last = max(tried or 0, row.sent or 0)
            if now <= max(row.renewed + timeout, last + min(self.grace, timeout)):
                return None
            candidate = NEW
            guard["sent"] = row.sent
        changes = {"renewal_next": candidate, "renewal_tried": now}
        return Due(guard, changes, Ticket(row.id, candidate))

    def _extended(self, loaded: Row, work: Work, now: int) -> int | None:
        """Return what the idle timeout is to become, None if it isn't due."""
        settings = work.row.settings
        timeout, delay = settings["idle_timeout"], settings["extension_delay"]
        if timeout is None:
            return None
        assert loaded.idle_expire is not None
        passed = now - (loaded.idle_expire - timeout)
        is_write = work.is_active or work.is_rotated or work.differs(loaded)
        if not is_write and delay is not None and passed <= delay:
            return None
        return now + timeout

    def _extend(self, row: Row, expire: int | None) -> None:
        if expire is not None:
            assert row.idle_expire is not None
            row.idle_expire = max(row.idle_expire, expire)

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


_OF_RENEWAL = ("renewal_id", "renewal_next", "renewal_tried")

#: The columns of a row that are compared one by one.
COLUMNS = [each.name for each in fields(Row) if each.name != "settings"]
