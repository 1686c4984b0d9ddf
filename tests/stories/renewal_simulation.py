"""A simulation of browsers whose cookies are renewed, and of thieves of old cookies.

Browsers send overlapping requests to the real application, on SQLite. Requests take
their time to arrive and to be answered; answers are lost, and arrive in another order.
A browser has what the answer that arrived last has set. Time is simulated, so that
hours pass in milliseconds.

What is delayed is delayed by less than the grace: a request from the moment at which
the browser sends it until the application looks for the session, an answer from the
commit until the browser has it. (Where the renewal timeout is shorter than the grace,
neither may take longer than the timeout: a second renewal ends the grace of the first.)
A view takes as long as it likes. Nothing else is promised, and nothing else is
simulated.

``test_renewal_simulation`` looks at a few renewals, ``stress/simulate_renewals.py`` at
as many as wanted.
"""

from __future__ import annotations

import heapq
import itertools
import random
import uuid
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import greenlet
from pyramid.threadlocal import manager as threadlocals
from sqlalchemy import create_engine, event

from pyramid_sqlalchemy_sessions import (
    AESGCMSerializer,
    BaseMixin,
    IdleMixin,
    RenewalMixin,
    RenewalViolationEvent,
)
from pyramid_sqlalchemy_sessions.cookie import Ticket
from tests.application import Application, Base, Failure, environ_of_get

START = 2_000_000_000
HOUR = 3600


class Renewed(RenewalMixin, IdleMixin, BaseMixin, Base):
    """A session that is renewed, and can end."""

    __tablename__ = "simulated_session"


@dataclass(frozen=True)
class World:
    """What is simulated."""

    renewals: int
    seed: int
    renewal_timeout: int = 60
    renewal_try_every: int = 5
    renewal_grace: int = 10
    idle_timeout: int = 100 * HOUR
    cookie_max_age: int | None = None
    #: How many browsers there are at a time.
    browsers: int = 20
    #: How often a cookie that has just come is stolen.
    thefts: float = 0.02
    #: The longest delays of requests and of answers, in parts of the grace.
    way_there: float = 1
    way_back: float = 1
    #: How often a view is slow, and how slow at most, in parts of the grace.
    slow_views: float = 0.3
    slowest_view: float = 3
    #: Let the application's clock jump back by hours, and forth again.
    jumps: bool = False


@dataclass
class Result:
    """What happened."""

    requests: int = 0
    renewals: int = 0
    lost_answers: int = 0
    #: Requests that arrived with the previous renewal id, and were let in.
    in_grace: int = 0
    #: Answers that put an older cookie in the place of a newer one.
    set_back: int = 0
    retries: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    thefts: int = 0
    noticed: int = 0
    jumps: int = 0
    #: Honest browsers that lost their session, with what went before.
    logged_out: list[str] = field(default_factory=list)
    #: Stolen cookies that were let in after the grace, or taught the thief a new one.
    unnoticed: list[str] = field(default_factory=list)

    def add(self, other: Result) -> None:
        """Take in what happened elsewhere."""
        for name, value in vars(other).items():
            if isinstance(value, Counter):
                getattr(self, name).update(value)
            else:
                setattr(self, name, getattr(self, name) + value)


class Browser:
    """What an honest browser knows, and what the simulation knows of its session."""

    def __init__(self, name: int):
        self.name = name
        self.jar: str | None = None
        self.is_gone = False  # its session was stolen and deleted
        self.history: deque[str] = deque(maxlen=25)
        #: The renewal ids, oldest first, and when each was taken over.
        self.known: list[uuid.UUID] = []
        self.taken_over: dict[uuid.UUID, float] = {}

    def age(self, renewal_id: uuid.UUID) -> int:
        """Return how many ids are newer."""
        return len(self.known) - 1 - self.known.index(renewal_id)


@dataclass
class Request:
    """A request under way."""

    browser: Browser
    cookie: str | None
    writes: bool = False
    fails: bool = False
    pause: float = 0
    way_back: float = 0
    is_lost: bool = False
    is_thief: bool = False
    # What the application made of it.
    loaded: float = 0
    tries: int = 0
    was_new: bool = False
    violations: int = 0
    answer: str | None = None
    error: Exception | None = None


class Simulation:
    """Plays the requests in the order of time.

    Each request runs in a greenlet, so that a view can pause while others go on.
    """

    def __init__(self, world: World, directory: Path):
        self.world = world
        self.result = Result()
        self.now: float = START
        self._offset = 0  # how wrong the application's clock is
        self._random = random.Random(world.seed)
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._under_way = 0
        self._browsers: dict[int, Browser] = {}
        self._serializer = AESGCMSerializer(bytes(range(32)))
        self._engine = create_engine(
            f"sqlite:///{directory / 'simulation.sqlite'}", max_overflow=-1
        )
        event.listen(self._engine, "connect", _hurry)
        Renewed.__table__.create(self._engine)
        self._application = Application(
            self._engine,
            Renewed,
            settings={"retry.attempts": 5},
            configure=self._configure,
            idle_timeout=world.idle_timeout,
            extension_delay=30,
            renewal_timeout=world.renewal_timeout,
            renewal_try_every=world.renewal_try_every,
            renewal_grace=world.renewal_grace,
            cookie_max_age=world.cookie_max_age,
        )
        self._application.view = self._view

    def _configure(self, config: Any) -> None:
        config.include("pyramid_retry")
        config.add_subscriber(notice, RenewalViolationEvent)

    def run(self) -> Result:
        """Let the browsers live until there were enough renewals."""
        with mock.patch("time.time", self._clock):
            for name in range(self.world.browsers):
                self._open_browser(name)
            if self.world.jumps:
                self._after(100, self._jump)
            while self._agenda:
                if self.result.renewals >= self.world.renewals and not self._under_way:
                    break
                self.now, _, act = heapq.heappop(self._agenda)
                act()
        self._engine.dispose()
        return self.result

    def _clock(self) -> float:
        return self.now + self._offset

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now + seconds, next(self._count), act))

    # Browsers.

    def _open_browser(self, name: int) -> None:
        """Let a browser get a session, and begin to live."""
        browser = self._browsers[name] = Browser(name)
        request = Request(browser, None, writes=True)
        self._handle(request)
        assert request.answer
        self._arrive(browser, request.answer)
        self._after(self._random.random() * 10, lambda: self._live(browser))

    def _live(self, browser: Browser) -> None:
        """Send some requests, and some more after a while."""
        if browser.is_gone or self.result.renewals >= self.world.renewals:
            return
        draw = self._random
        for _ in range(draw.choice((1, 1, 2, 4))):
            self._after(draw.random() ** 2 * 2, lambda: self._send(browser))
        silence = draw.choices(
            (
                draw.uniform(0.1, 3),
                draw.uniform(3, 30),
                draw.uniform(1, 3) * self.world.renewal_timeout,
                draw.uniform(0, 5 * HOUR),
            ),
            (40, 15, 42, 3),
        )
        self._after(silence[0], lambda: self._live(browser))

    def _send(self, browser: Browser) -> None:
        if browser.is_gone:
            return
        draw, world = self._random, self.world
        request = Request(
            browser,
            browser.jar,
            writes=draw.random() < 0.25,
            fails=draw.random() < 0.05,
            way_back=self._delay(world.way_back),
            is_lost=draw.random() < 0.15,
        )
        if draw.random() < world.slow_views:
            longest = world.slowest_view * world.renewal_grace
            request.pause = draw.random() ** 3 * longest
        self._under_way += 1
        if draw.random() < 0.03:  # the request is lost
            self._after(1, self._forget)
        else:
            self._after(
                self._delay(world.way_there),
                lambda: self._handle(request, self._forget),
            )

    def _forget(self) -> None:
        self._under_way -= 1

    def _delay(self, longest: float) -> float:
        """Draw a delay: most are short, and some are almost too long."""
        draw, most = self._random, longest * self.world.renewal_grace
        kind = draw.random()
        if kind < 0.6:
            return min(0.02 + 0.2 * draw.random(), most)
        if kind < 0.95:
            return most * draw.random()
        return most * (1 - 0.01 * draw.random())

    # The server.

    def _handle(
        self, request: Request, then: Callable[[], None] = lambda: None
    ) -> None:
        """Let the application handle the request, as far as it gets without a pause."""
        if request.browser.is_gone and not request.is_thief:
            then()
            return
        hub = greenlet.getcurrent()

        def call() -> None:
            self._call(request)

        worker = greenlet.greenlet(call, hub)
        stack: list[Any] = []

        def go_on() -> None:
            nonlocal stack
            # Pyramid's stack of requests belongs to a thread.
            threadlocals.stack, outer = stack, threadlocals.stack
            pause = worker.switch()
            threadlocals.stack, stack = outer, threadlocals.stack
            if worker.dead:
                self._handled(request)
                then()
            else:
                self._after(pause, go_on)

        request.loaded = self.now
        go_on()

    def _call(self, request: Request) -> None:
        call(self._application, request)

    def _view(self, request: Any) -> None:
        mine: Request = request.environ["simulation.request"]
        mine.tries += 1
        session = request.session
        mine.was_new |= session.new
        count = session.get("n", 0)
        if mine.pause and mine.tries == 1:
            hub = greenlet.getcurrent().parent
            hub.switch(mine.pause)
        if mine.writes:
            session["n"] = count + 1
        if mine.fails:
            raise Failure

    def _handled(self, request: Request) -> None:
        """Judge what the application has done, and send the answer on its way."""
        result, browser = self.result, request.browser
        result.requests += 1
        result.retries += max(0, request.tries - 1)
        if request.error and not isinstance(request.error, Failure):
            result.failed[type(request.error).__name__] += 1
        if browser.is_gone:
            return
        sent = self._ticket(request.cookie)
        answer = self._ticket(request.answer)
        self._note(request, sent, answer)
        if answer is not None and answer.renewal_id not in browser.known:
            browser.known.append(answer.renewal_id)
            if sent is None:
                browser.taken_over[answer.renewal_id] = self.now
        if request.is_thief:
            return
        if sent is not None:
            if request.was_new or request.violations:
                self._logged_out(browser)
                return
            self._follow(browser, sent, request)
        if request.error:
            return
        if request.is_lost:
            result.lost_answers += 1
        elif request.answer is not None and sent is not None:
            self._under_way += 1
            self._after(request.way_back, lambda: self._arrive(browser, request.answer))
            self._after(request.way_back, self._forget)

    def _follow(self, browser: Browser, sent: Ticket, request: Request) -> None:
        """Know which renewal ids have been taken over, and when."""
        renewal_id = sent.renewal_id
        if renewal_id not in browser.taken_over:
            if request.error is None:
                browser.taken_over[renewal_id] = self.now
                self.result.renewals += 1
        elif browser.known[-1] in browser.taken_over and browser.age(renewal_id):
            self.result.in_grace += 1

    def _arrive(self, browser: Browser, cookie: str) -> None:
        """Let the browser keep the cookie of an answer."""
        if browser.is_gone:
            return
        old, new = self._ticket(browser.jar), self._ticket(cookie)
        if new is None:
            browser.history.append(f"{self.now:.2f} the cookie is deleted")
            browser.jar = None
            return
        if old is not None and browser.age(old.renewal_id) < browser.age(
            new.renewal_id
        ):
            self.result.set_back += 1
        browser.history.append(f"{self.now:.2f} has id {self._place(browser, new)}")
        browser.jar = cookie
        if self._random.random() < self.world.thefts:
            self._after(self._delay(1), lambda: self._steal(browser, cookie))

    def _logged_out(self, browser: Browser) -> None:
        self.result.logged_out.append("\n".join(browser.history))
        self._replace(browser)

    def _replace(self, browser: Browser) -> None:
        browser.is_gone = True
        self._after(1, lambda: self._open_browser(browser.name))

    # Thieves.

    def _steal(self, browser: Browser, cookie: str) -> None:
        """Use a stolen cookie when it is old: in its grace, or after it."""
        if browser.is_gone or self.result.renewals >= self.world.renewals:
            return
        draw = self._random
        stolen = self._ticket(cookie)
        assert stolen is not None
        place = browser.known.index(stolen.renewal_id)
        newer = [
            browser.taken_over[each]
            for each in browser.known[place + 1 :]
            if each in browser.taken_over
        ]
        if not newer:  # not old yet
            self._after(
                draw.random() * self.world.renewal_timeout,
                lambda: self._steal(browser, cookie),
            )
            return
        # Whole seconds: it may be noticed a second later.
        if newer[0] + self.world.renewal_grace + 1 < self.now:
            self._replay(browser, cookie, True)
            return
        is_graced = self.now < newer[0] + self.world.renewal_grace - 1
        if is_graced and len(newer) == 1 and draw.random() < 0.5:
            self._replay(browser, cookie, False)
        wait = newer[0] + self.world.renewal_grace + 1 - self.now
        wait += draw.choice((0.001, draw.random() * 100, draw.random() * HOUR))
        self._after(wait, lambda: self._steal(browser, cookie))

    def _replay(self, browser: Browser, cookie: str, is_late: bool) -> None:
        result = self.result
        request = Request(browser, cookie, is_thief=True)
        request.writes = self._random.random() < 0.5
        request.fails = self._random.random() < 0.2
        self._handle(request)
        new = self._ticket(request.answer)
        if not is_late:
            stolen = self._ticket(cookie)
            if new is not None and stolen is not None and new.id == stolen.id:
                result.unnoticed.append("\n".join(browser.history))
            return
        result.thefts += 1
        stolen = self._ticket(cookie)
        assert stolen is not None
        with self._engine.connect() as connection:
            found = connection.exec_driver_sql(
                "SELECT 1 FROM simulated_session WHERE id = ?", (stolen.id.hex,)
            ).first()
        if request.violations == 1 and request.was_new and found is None:
            result.noticed += 1
        else:
            result.unnoticed.append("\n".join(browser.history))
        self._replace(browser)

    # The clock.

    def _jump(self) -> None:
        """Set the clock back; set it right when nothing is under way.

        A jump forth would cut short the grace of requests and answers on their way.
        """
        if self._offset and not self._under_way:
            self._offset = 0
            self.result.jumps += 1
            self._note_all("the clock is right again")
        elif not self._offset:
            self._offset = -int(self._random.uniform(1, 5 * HOUR))
            self._note_all(f"the clock jumps by {self._offset}")
            self.result.jumps += 1
        else:
            self._after(0.5, self._jump)
            return
        self._after(self._random.uniform(1, HOUR), self._jump)

    # Notes.

    def _note_all(self, what: str) -> None:
        for browser in self._browsers.values():
            browser.history.append(f"{self.now:.2f} {what}")

    def _ticket(self, cookie: str | None) -> Ticket | None:
        if not cookie:
            return None
        return Ticket.from_bytes(self._serializer.loads(cookie.encode("ascii")))

    def _place(self, browser: Browser, ticket: Ticket | None) -> str:
        if ticket is None:
            return "-"
        known = browser.known
        return (
            str(known.index(ticket.renewal_id)) if ticket.renewal_id in known else "?"
        )

    def _note(
        self, request: Request, sent: Ticket | None, answer: Ticket | None
    ) -> None:
        browser = request.browser
        came = "none" if request.answer is None else self._place(browser, answer)
        browser.history.append(
            f"{self.now:.2f} answers id {self._place(browser, sent)}"
            f" of {request.loaded:.2f} with {came}"
            + (" (thief)" if request.is_thief else "")
            + (" (lost)" if request.is_lost else "")
            + (f" (in {request.tries} tries)" if request.tries > 1 else "")
            + (f" ({request.error!r})" if request.error else "")
            + (" NEW SESSION" if request.was_new else "")
        )


def call(application: Application, request: Request) -> None:
    """Let the application answer the request: fast, without WebTest."""
    cookie = f"session={request.cookie}" if request.cookie else None
    environ = environ_of_get(cookie, **{"simulation.request": request})
    answer: list[Any] = []
    try:
        application.wsgi(environ, lambda *args: answer.extend(args))
    except Exception as exc:
        request.error = exc
        return
    for name, value in answer[1]:
        if name == "Set-Cookie":
            request.answer = value.partition(";")[0].partition("=")[2]


def notice(violation: RenewalViolationEvent) -> None:
    """Count a violation of the request that is simulated."""
    violation.request.environ["simulation.request"].violations += 1


def _hurry(connection: Any, record: Any) -> None:
    """Keep the database in memory as far as possible: nobody is going to need it."""
    for pragma in ("journal_mode = MEMORY", "synchronous = OFF"):
        connection.execute(f"PRAGMA {pragma}")
