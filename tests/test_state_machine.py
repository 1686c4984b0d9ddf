"""Whole request histories, played through the real application and through a model.

``PSS_STATE_MACHINE_EXAMPLES`` says how many histories to play; then they are not the
same each time.
"""

from __future__ import annotations

import base64
import copy
import os
import pickle
import time
from typing import Any

import pytest
import time_machine
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pyramid.response import Response
from sqlalchemy import create_engine, event, select
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm.exc import StaleDataError
from webob import Request

from pyramid_sqlalchemy_sessions import (
    AESGCMSerializer,
    CookieCryptoErrorEvent,
    FullyFeaturedSession,
    InvalidCookieErrorEvent,
    RenewalViolationEvent,
    SettingsError,
)
from tests.application import Application, Failure
from tests.model_of_sessions import (
    COLUMNS,
    NEW,
    RUNTIME,
    Answer,
    Conflict,
    Sessions,
    Ticket,
    Use,
    Work,
)
from tests.stories.transactions import elsewhere

EXAMPLES = os.environ.get("PSS_STATE_MACHINE_EXAMPLES")

KEYS = [bytes(range(number, number + 32)) for number in range(4)]

#: What the applications have for settings; what is left out is off.
PROFILES = [
    {"idle_timeout": 100, "extension_delay": 10},
    {"idle_timeout": 100, "cookie_max_age": 150},
    {"absolute_timeout": 300},
    {"renewal_timeout": 50},
    {"renewal_timeout": 50, "renewal_try_every": 20, "renewal_grace": 0},
    {
        "idle_timeout": 100,
        "absolute_timeout": 300,
        "renewal_timeout": 50,
        "cookie_max_age": 500,
        "renewal_grace": 30,
    },
    {},
]
DEFAULTS = {
    **dict.fromkeys(RUNTIME),
    "cookie_path": "/",
    "cookie_httponly": True,
    "renewal_try_every": 5,
}

EVENTS = {
    InvalidCookieErrorEvent: "malformed",
    CookieCryptoErrorEvent: "forged",
    RenewalViolationEvent: "stolen",
}


class Models(DeclarativeBase):
    """The declarative base of the model below."""


class Full(FullyFeaturedSession, Models):
    """A session with all features."""

    __tablename__ = "full_session"


# What a view can do: the same by name for real sessions and for those of the model.


class RealDeeds:
    """What can be done to a real session."""

    def __init__(self, session: Any):
        self.session = session

    def read(self) -> Any:
        session = self.session
        data = copy.deepcopy(dict(session))
        key = None if session.new else session.id.bytes
        kind = session.new, session.is_late, key
        return *kind, data, session.userid, session.authenticated, session.peek_flash()

    def assign(self, key: str, value: Any) -> Any:
        self.session[key] = value

    def add(self, key: str) -> Any:
        self.session[key] = self.session.get(key, 0) + 1

    def remove(self, key: str) -> Any:
        return self.session.pop(key, None)

    def append(self) -> Any:
        self.session.setdefault("list", []).append(1)

    def change_in_place(self) -> Any:
        present = self.session.get("list")
        if present is not None:
            present.append(2)

    def clear(self) -> Any:
        self.session.clear()

    def announce(self) -> Any:
        self.session.changed()

    def flash(self, message: str) -> Any:
        self.session.flash(message)

    def pop(self) -> Any:
        return self.session.pop_flash()

    def log_in(self, userid: int | None) -> Any:
        self.session.userid = userid

    def prove(self, userid: int) -> Any:
        """Log in, or in again."""
        self.session.authenticate(userid)

    def token(self) -> Any:
        return self.session.get_csrf_token()

    def rotate(self) -> Any:
        self.session.rotate()

    def invalidate(self) -> Any:
        self.session.invalidate()

    def configure(self, changes: dict[str, Any]) -> Any:
        try:
            with self.session.settings as edited:
                for name, value in changes.items():
                    edited[name] = value
        except (SettingsError, ValueError) as error:
            return type(error).__name__
        return None

    def edit(self, changes: dict[str, Any]) -> Any:
        """Edit settings, but never save them."""
        try:
            self.session.settings.edit()
        except SettingsError as error:
            return type(error).__name__
        for name, value in changes.items():
            self.session.settings[name] = value
        return None


class ModelDeeds:
    """The same for a session of the model."""

    def __init__(self, sessions: Sessions, use: Use):
        self.sessions = sessions
        self.use = use

    @property
    def row(self) -> Any:
        return self.use.work.row

    def _write(self) -> Any:
        self.use.work.is_active = True
        return self.row

    def _see(self, key: str) -> Any:
        self.use.work.seen.add(key)
        return self.row.data

    def read(self) -> Any:
        row, work = self.row, self.use.work
        work.has_seen_all = work.has_seen_flash = True
        messages = list(row.flash.get("", ()))
        key = None if work.is_new else row.id
        kind = work.is_new, work.late is not None, key
        return *kind, dict(row.data), row.userid, row.authenticated, messages

    def assign(self, key: str, value: Any) -> Any:
        self._write()
        self._see(key)[key] = value

    def add(self, key: str) -> Any:
        self._write()
        data = self._see(key)
        data[key] = data.get(key, 0) + 1

    def remove(self, key: str) -> Any:
        self._write()
        data = self._see(key)
        if key in data:
            self.use.work.removed.add(key)
        return data.pop(key, None)

    def append(self) -> Any:
        self._write()
        self._see("list").setdefault("list", []).append(1)

    def change_in_place(self) -> Any:
        if "list" in self._see("list"):
            self._write().data["list"].append(2)

    def clear(self) -> Any:
        self.use.work.has_seen_all = True
        self._write().data.clear()

    def announce(self) -> Any:
        self._write()
        self.use.work.is_forced = True

    def flash(self, message: str) -> Any:
        self._write().flash.setdefault("", []).append(message)
        self.use.work.pushed.append(message)

    def pop(self) -> Any:
        work = self.use.work
        work.has_seen_flash = True
        if not self.row.flash:
            return []
        work.has_popped = True
        work.pushed.clear()
        return self._write().flash.pop("")

    def log_in(self, userid: int | None) -> Any:
        if self.use.work.late is not None and userid is None:
            self.sessions.invalidate(self.use)
        else:
            self._write()
            self.use.work.log_in(userid)

    def prove(self, userid: int) -> Any:
        was = self._write().userid
        self.use.work.log_in(userid)
        if was == userid:
            self.use.work.rotate()
        self.row.authenticated = self.use.now

    def token(self) -> Any:
        self.use.work.has_seen_token = True
        if self.row.csrf_token is None:
            self._write().csrf_token = NEW
        return ...  # any

    def rotate(self) -> Any:
        self._write()
        self.use.work.rotate()

    def invalidate(self) -> Any:
        self.sessions.invalidate(self.use)

    def configure(self, changes: dict[str, Any]) -> Any:
        work = self.use.work
        changes = {**work.edits, **changes}
        work.edits.clear()
        if not is_valid({**self.row.settings, **changes}):
            return "ValueError"
        work.configure(changes, self.use.now)
        return None

    def edit(self, changes: dict[str, Any]) -> Any:
        self.use.work.edits.update(changes)
        return None


def is_valid(merged: dict[str, Any]) -> bool:
    """Tell whether settings go together."""
    idle, absolute = merged["idle_timeout"], merged["absolute_timeout"]
    delay = merged["extension_delay"]
    return not (
        idle == 0
        or (idle is not None and absolute is not None and idle >= absolute)
        or (idle is not None and delay is not None and delay >= idle)
    )


changes = st.fixed_dictionaries(
    {},
    optional={
        "idle_timeout": st.sampled_from([None, 0, 30, 400]),
        "absolute_timeout": st.sampled_from([None, 60, 350, 900]),
        "renewal_timeout": st.sampled_from([None, 20, 100]),
        "renewal_try_every": st.sampled_from([1, 40]),
        "extension_delay": st.sampled_from([None, 5, 35]),
        "cookie_max_age": st.sampled_from([None, 70, 1000]),
        "cookie_path": st.sampled_from(["/", "/shop"]),
        "cookie_httponly": st.booleans(),
    },
)
keys = st.sampled_from(["a", "b"])
changes_of_data = [
    st.tuples(st.just("assign"), keys, st.integers(0, 2)),
    st.tuples(st.just("add"), keys),
    st.tuples(st.just("remove"), keys),
    st.tuples(st.just("append")),
    st.tuples(st.just("change_in_place")),
    st.tuples(st.just("clear")),
    st.tuples(st.just("announce")),
    st.tuples(st.just("flash"), st.sampled_from("xy")),
    st.tuples(st.just("pop")),
    st.tuples(st.just("token")),
]
changes_of_the_session = [
    st.tuples(st.just("log_in"), st.sampled_from([None, 5, 6])),
    st.tuples(st.just("prove"), st.sampled_from([5, 6])),
    st.tuples(st.just("rotate")),
    st.tuples(st.just("invalidate")),
    st.tuples(st.just("configure"), changes),
    st.tuples(st.just("edit"), changes),
]
reading = st.just([("read",)])
a_deed = st.one_of(
    st.one_of(changes_of_data),
    st.one_of(changes_of_the_session),
    st.tuples(st.just("read")),
)
# Half of the requests just read, or just write.
deeds = st.one_of(
    reading, st.just([("add", "a")]), st.lists(a_deed, min_size=0, max_size=4)
)
ways_to_end = st.sampled_from(
    ["commit", "commit", "commit", "commit", "answered", "raised", "doomed", "flashed"]
)
browsers = st.integers(0, 1)


class Asked:
    """One request: what it is to do, and what became of it."""

    def __init__(self, name: int, cookies: list[str], deeds: list[Any], end: str):
        self.name = name
        self.cookies = cookies
        self.deeds = deeds
        self.end = end
        self.answers: list[Any] = []
        self.response: Any = None
        self.error: Exception | None = None
        self.events: list[str] = []
        self.use: Use | None = None


class Histories(RuleBasedStateMachine):
    """Plays a history, and compares after every step."""

    engine: Any = None
    applications: dict[Any, Application] = {}

    def __init__(self) -> None:
        super().__init__()
        with self.engine.begin() as connection:
            connection.execute(Full.__table__.delete())
        self.travel = time_machine.travel(1_700_000_000, tick=False)
        self.clock = self.travel.start()
        self.ring = [KEYS[0]]
        self.next_key = 1
        # By value: with which key it was made.
        self.made_with: dict[str, bytes] = {}
        self.jars: list[tuple[str, float | None] | None] = [None, None]
        self.before: list[str | None] = [None, None]
        self.seen: list[str] = []
        self.drawn: set[bytes] = set()
        self.events: list[Any] = []

    def teardown(self) -> None:
        self.travel.stop()

    @property
    def now(self) -> int:
        return int(time.time())

    @initialize(number=st.integers(0, len(PROFILES) - 1))
    def begin(self, number: int) -> None:
        """Choose the settings of the application."""
        self.number = number
        profile = dict(PROFILES[number])
        grace = profile.pop("renewal_grace", 60)
        self.sessions = Sessions({**DEFAULTS, **profile}, grace)
        self.application = self.make_application()
        self.play(Asked(0, [], [("add", "a")], "commit"))

    def make_application(self) -> Application:
        """Make the application with the present keys, or take one from before."""
        known = (self.number, *self.ring)
        if known not in self.applications:
            secret = " ".join(base64.urlsafe_b64encode(k).decode() for k in self.ring)
            self.applications[known] = Application(
                self.engine,
                Full,
                settings={"session.secret_key": secret, "tests.events": []},
                configure=configure,
                **PROFILES[self.number],
            )
        return self.applications[known]

    # The rules.

    @rule(name=browsers, deeds=deeds, end=ways_to_end)
    def visit(self, name: int, deeds: list[Any], end: str) -> None:
        """Visit the application with a browser."""
        self.play(Asked(name, self.cookies_of(name), deeds, end))

    @rule(name=browsers, deeds=st.lists(a_deed, min_size=1, max_size=4))
    def visit_and_commit(self, name: int, deeds: list[Any]) -> None:
        """Visit the application, and do something that lasts."""
        self.play(Asked(name, self.cookies_of(name), deeds, "commit"))

    @rule(name=browsers, seconds=st.sampled_from([1, 10, 11, 21, 51, 60, 100]))
    def come_back(self, name: int, seconds: int) -> None:
        """Visit the application some time later."""
        self.clock.shift(seconds)
        self.play(Asked(name, self.cookies_of(name), [("read",)], "commit"))

    @precondition(lambda self: self.sessions.rows)
    @rule(name=browsers, which=st.integers(0, 20), after=st.integers(0, 1), deeds=deeds)
    def come_to_an_edge(
        self, name: int, which: int, after: int, deeds: list[Any]
    ) -> None:
        """Visit the application in the last second of something, or just after it."""
        edges = [
            each
            for row in self.sessions.rows.values()
            for each in row.edges(self.sessions.grace)
        ]
        edges = sorted(each for each in edges if each >= self.now)
        if edges:
            self.clock.move_to(edges[which % len(edges)] + after)
        cookies = self.cookies_of(name)
        if self.before[name] is not None and which % 3 == 0:
            cookies = [self.before[name]]
        self.play(Asked(name, cookies, deeds, "commit"))

    @precondition(lambda self: any(self.before))
    @rule(name=browsers, seconds=st.sampled_from([0, 1, 10, 11, 30]), end=ways_to_end)
    def come_back_late(self, name: int, seconds: int, end: str) -> None:
        """Visit the application with the cookie before the present one."""
        if self.before[name] is not None:
            self.clock.shift(seconds)
            self.play(Asked(name, [self.before[name]], [("read",)], end))

    @precondition(lambda self: self.seen)
    @rule(name=browsers, deeds=deeds, end=ways_to_end, data=st.data())
    def visit_with_two_cookies(
        self, name: int, deeds: list[Any], end: str, data: Any
    ) -> None:
        """Visit with another cookie beside the browser's own."""
        other = data.draw(st.sampled_from(self.seen))
        cookies = [other, *self.cookies_of(name)]
        if data.draw(st.booleans()):
            cookies.reverse()
        self.play(Asked(name, cookies, deeds, end))

    @rule(
        name=browsers,
        how=st.sampled_from([("rotate",), ("log_in", 5), ("prove", 6)]),
        seconds=st.sampled_from([0, 1, 30, 31, 60, 61]),
        deeds=st.one_of(
            deeds, st.sampled_from([[("log_in", None)], [("invalidate",)], [("pop",)]])
        ),
        end=ways_to_end,
    )
    def come_late(
        self, name: int, how: Any, seconds: int, deeds: list[Any], end: str
    ) -> None:
        """Visit with a cookie that was replaced a while ago."""
        cookies = self.cookies_of(name)
        self.play(Asked(name, cookies, [("add", "a"), how], "commit"))
        self.clock.shift(seconds)
        self.play(Asked(name, cookies, deeds, end))

    @rule(name=browsers, which=st.integers(0, 20), deeds=deeds, end=ways_to_end)
    def visit_with_an_old_cookie(
        self, name: int, which: int, deeds: list[Any], end: str
    ) -> None:
        """Visit with an old cookie of the session before the browser's own."""
        cookies = self.cookies_of(name)
        keys = {each[0] for each in self.tickets(cookies)}
        old = [
            each
            for each in self.seen
            if self.made_with[each] in self.ring and self.opened(each).id in keys
        ]
        if old:
            cookies = [old[which % len(old)], *cookies]
        self.play(Asked(name, cookies, deeds, end))

    @rule(
        name=browsers,
        deeds=deeds,
        end=st.sampled_from(["commit", "commit", "commit", "flashed", "answered"]),
        other=browsers,
        other_deeds=deeds,
        other_end=st.sampled_from(["commit", "commit", "commit", "answered"]),
        same=st.sampled_from([True, True, False]),
    )
    def overlap(
        self,
        name: int,
        deeds: list[Any],
        end: str,
        other: int,
        other_deeds: list[Any],
        other_end: str,
        same: bool,
    ) -> None:
        """Visit while another request, perhaps of the same session, is under way."""
        slow = Asked(name, self.cookies_of(name), [("read",), *deeds], end)
        cookies = slow.cookies if same else self.cookies_of(other)
        quick = Asked(name if same else other, cookies, other_deeds, other_end)
        self.play(slow, quick)

    @rule(seconds=st.sampled_from([1, 6, 10, 11, 20, 21, 30, 31, 50, 51, 101, 400]))
    def wait(self, seconds: int) -> None:
        """Let time pass."""
        self.clock.shift(seconds)

    @rule(seconds=st.sampled_from([1, 7, 30]))
    def set_back(self, seconds: int) -> None:
        """Set back the clock."""
        self.clock.shift(-seconds)

    @precondition(lambda self: self.seen)
    @rule(name=browsers, data=st.data())
    def replay(self, name: int, data: Any) -> None:
        """Give an old cookie, of any browser, to a browser."""
        self.jars[name] = data.draw(st.sampled_from(self.seen)), None

    @rule(
        name=browsers,
        what=st.sampled_from(["altered", "altered", "nonsense", "lost"]),
        place=st.integers(0, 40),
    )
    def tamper(self, name: int, what: str, place: int) -> None:
        """Alter a browser's cookie, make it nonsense, or let the browser lose it."""
        cookies = self.cookies_of(name)
        if what == "lost":
            self.jars[name] = None
        elif what == "nonsense" or cookies in ([], ["nonsense"]):
            self.jars[name] = "nonsense", None
        else:
            (value,) = cookies
            other = "A" if value[place] != "A" else "B"
            self.jars[name] = value[:place] + other + value[place + 1 :], None

    @precondition(lambda self: self.next_key < len(KEYS))
    @rule(keep=st.sampled_from([True, True, True, False]))
    def change_key(self, keep: bool) -> None:
        """Encrypt with another key, and keep the old one for decryption, or not."""
        new = KEYS[self.next_key]
        self.next_key += 1
        self.ring = [new, self.ring[0]] if keep else [new]
        self.application = self.make_application()

    # How a request is played.

    def cookies_of(self, name: int) -> list[str]:
        """Return the cookies that a browser has at present."""
        jar = self.jars[name]
        if jar is None:
            return []
        value, expires = jar
        return [value] if expires is None or time.time() < expires else []

    def tickets(self, cookies: list[str]) -> list[Ticket | str]:
        """Return what the model knows of cookies, without decrypting them."""
        found: list[Ticket | str] = []
        for value in cookies:
            if value == "nonsense":
                found.append("malformed")
            elif self.made_with.get(value) in self.ring:
                found.append(self.opened(value))
            else:
                found.append("forged")
        return found

    def opened(self, value: str) -> Ticket:
        """Return what a cookie of the application says."""
        text = AESGCMSerializer([self.made_with[value]]).loads(value)
        return Ticket(text[:16], text[16:] or None)

    def play(self, request: Asked, meanwhile: Asked | None = None) -> None:
        """Play a request through the application, then through the model."""
        self.request(request, meanwhile)
        self.find(request)
        if meanwhile is not None:
            self.find(meanwhile)
            self.finish(meanwhile)
        self.finish(request)

    def request(self, asked: Asked, meanwhile: Asked | None) -> None:
        """Play a request through the application."""
        application = self.application

        def view(request: Any) -> None:
            real = RealDeeds(request.session)
            first = True
            for name, *arguments in asked.deeds:
                asked.answers.append(getattr(real, name)(*arguments))
                if first and meanwhile is not None:
                    elsewhere(self.request, meanwhile, None)
                first = False
            if asked.end == "doomed":
                request.tm.doom()
            elif asked.end != "commit":
                request.environ["tests.end"] = asked.end
                raise Failure

        request = Request.blank("/")
        if asked.cookies:
            header = "; ".join(f"session={each}" for each in asked.cookies)
            request.headers["Cookie"] = header
        application.view = view
        collected = application.registry.settings["tests.events"]
        before = list(collected)
        collected.clear()
        try:
            asked.response = request.get_response(application.wsgi)
        except (Failure, StaleDataError) as error:
            asked.error = error
        asked.events = [EVENTS[type(each)] for each in collected]
        collected[:] = before

    def find(self, asked: Asked) -> None:
        """Let the model find the session, and do what the request does."""
        if not asked.deeds and asked.end != "flashed":
            return
        use = self.sessions.find(self.tickets(asked.cookies), self.now)
        asked.use = use
        deeds = ModelDeeds(self.sessions, use)
        for (name, *arguments), answer in zip(asked.deeds, asked.answers, strict=True):
            expected = getattr(deeds, name)(*arguments)
            assert expected in (..., answer), name

    def finish(self, asked: Asked) -> None:
        """Let the model end the request, and compare what was answered."""
        use = asked.use
        if use is None:
            assert asked.events == []
            assert asked.error is None or asked.end == "raised"
            if asked.response is not None:
                assert "Set-Cookie" not in asked.response.headers
                assert "Vary" not in asked.response.headers
            return
        assert asked.events == use.events
        if asked.end == "commit":
            try:
                answer = self.sessions.commit(use)
                assert asked.error is None
            except Conflict:
                assert isinstance(asked.error, StaleDataError)
                answer = self.sessions.abort(use)
        elif asked.end == "flashed":
            answer = self.commit_of_exception_view(asked, use)
        else:
            answer = self.sessions.abort(use)
        if asked.error is not None:
            expected = Failure if asked.end == "raised" else StaleDataError
            assert isinstance(asked.error, expected)
        else:
            self.compare_response(asked, answer)

    def commit_of_exception_view(self, asked: Asked, use: Use) -> Answer | None:
        """Store what the exception view does, which is to flash a message."""
        answer = self.sessions.abort(use)
        tickets = [
            each
            for each in self.tickets(asked.cookies)
            if isinstance(each, str) or each.id not in use.stolen
        ]
        again = self.sessions.find(tickets, self.now, use.judged)
        if answer is not None:
            again.must_delete_cookie = True
        loaded, row = use.loaded, again.loaded
        if again.work.late is not None:
            row = None if loaded is None else self.sessions.rows.get(loaded.id)
            if row is None or loaded is None or row.userid != loaded.userid:
                return answer  # nothing is stored
            # Its cookie was good before, and has but been rotated.
            row = again.loaded = copy.deepcopy(row)
            again.work = Work(copy.deepcopy(row), is_new=False)
            again.ticket = use.ticket
        if loaded is not None and (row is None or row.userid != loaded.userid):
            return answer  # logged as lost
        ModelDeeds(self.sessions, again).flash("sorry")
        return self.sessions.commit(again)

    # What is compared.

    def compare_response(self, asked: Asked, answer: Answer | None) -> None:
        """Compare the cookie of the response, and give it to the browser."""
        headers = asked.response.headers
        assert headers["Vary"] == "Cookie"
        cookies = headers.getall("Set-Cookie")
        moved_from = None if answer is None else answer.moved_from
        if len(cookies) > 1:
            gone = cookies.pop(0)
            assert gone.startswith("session=;")
            # Of two cookies it isn't said which of them is deleted.
            assert len(asked.cookies) > 1 or f"Path={moved_from}" in gone.split("; ")
        else:
            assert moved_from is None
        assert len(cookies) == (answer is not None)
        if answer is None:
            assert "Cache-Control" not in headers
            return
        assert headers["Cache-Control"] == "private"
        pair, *attributes = cookies[0].split("; ")
        value = pair.removeprefix("session=")
        if answer.ticket is None:
            assert value == ""
        else:
            self.made_with[value] = self.ring[0]
            self.seen.append(value)
            self.compare_ticket(answer.ticket, self.opened(value))
        if len(asked.cookies) < 2 and answer.settings is not None:
            self.compare_attributes(attributes, answer)
        self.keep(asked.name, value, attributes)

    def compare_ticket(self, expected: Ticket, actual: Ticket) -> None:
        """Compare what a cookie says, and learn what was drawn for it."""
        for wanted, got in zip(expected, actual, strict=True):
            if wanted == NEW:
                assert got is not None
                self.check_drawn(got)
            else:
                assert got == wanted
        if NEW in expected:
            self.sessions.learn(actual)

    def check_drawn(self, drawn: bytes) -> None:
        """Check that something random was never drawn before."""
        assert drawn not in self.drawn
        self.drawn.add(drawn)

    def compare_attributes(self, attributes: list[str], answer: Answer) -> None:
        """Compare the attributes of a cookie."""
        own = answer.settings
        assert own is not None
        expected = {f"Path={own['cookie_path']}", "SameSite=Lax"}
        if own["cookie_httponly"]:
            expected.add("HttpOnly")
        max_age = 0 if answer.ticket is None else own["cookie_max_age"]
        if max_age is not None:
            expected.add(f"Max-Age={max_age}")
        present = {each for each in attributes if not each.startswith("expires=")}
        assert present == expected

    def keep(self, name: int, value: str, attributes: list[str]) -> None:
        """Let a browser do what a response tells it."""
        expires = None
        for each in attributes:
            if each.startswith("Max-Age="):
                expires = time.time() + int(each.removeprefix("Max-Age="))
        jar = self.jars[name]
        self.before[name] = jar[0] if jar else None
        self.jars[name] = (value, expires) if value else None

    def rows(self) -> list[Any]:
        """Return what is stored."""
        with self.engine.connect() as connection:
            return list(connection.execute(select(Full.__table__)))

    @invariant()
    def rows_are_equal(self) -> None:
        """Compare all that is stored."""
        rows = {each.id.bytes: each._mapping for each in self.rows()}
        if not hasattr(self, "sessions"):
            return
        assert rows.keys() == self.sessions.rows.keys()
        for row_id, stored in rows.items():
            row = self.sessions.rows[row_id]
            if row.csrf_token == NEW:
                self.check_drawn(stored["csrf_token"])
                row.csrf_token = stored["csrf_token"]
            for name in COLUMNS:
                assert plain(name, stored[name]) == getattr(row, name), name
            assert [*plain("data", stored["data"])] == [*row.data]
            own = {name: stored.get(name) for name in RUNTIME}
            if stored["absolute_expire"] is not None:
                own["absolute_timeout"] = stored["absolute_expire"] - stored["created"]
            assert own == row.settings


def plain(name: str, value: Any) -> Any:
    """Return the value of a column as the model has it."""
    if name == "data":
        return pickle.loads(value)
    return getattr(value, "bytes", value)


def configure(config: Any) -> None:
    """Let the application collect its events, and answer some failures."""
    collected = config.registry.settings["tests.events"]
    for kind in EVENTS:
        config.add_subscriber(collected.append, kind)

    def answer(exception: Any, request: Any) -> Response:
        end = request.environ["tests.end"]
        if end == "raised":
            raise exception
        if end == "flashed":
            request.session.flash("sorry")
        return Response(status=500)

    config.add_exception_view(answer, context=Failure)


@pytest.fixture
def engine(tmp_path):
    """An engine on a SQLite file that does not wait for the disk."""
    engine = create_engine(f"sqlite:///{tmp_path / 'histories.sqlite'}")

    @event.listens_for(engine, "connect")
    def hurry(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = MEMORY")

    Models.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.mark.slow
def test_histories(engine):
    """Whatever is played, rows, cookies and events are those of the model."""

    class Played(Histories):
        """Histories on this engine."""

    Played.engine = engine
    Played.applications = {}
    run_state_machine_as_test(
        Played,
        settings=settings(
            max_examples=int(EXAMPLES or 120),
            stateful_step_count=30,
            derandomize=EXAMPLES is None,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
