"""Renewals as they happen on everyday networks, and what a copied cookie is good for.

``EverydaySimulation`` counts how often an honest user is taken for a thief. Unlike
``renewal_simulation`` it promises nothing about delays: they come from a model of a
network, and 2 % of the requests are uploads that take 20 to 60 seconds to arrive.

``Theft`` lets a thief and a user share a cookie, and measures how long that goes well
for the thief.

Both drive the real application in simulated time. A request that comes with the current
cookie before a renewal is due changes nothing, so it isn't sent. That's what makes a
hundred thousand renewals possible.

``python -m stress.measure_renewals`` writes the figures of the page on security.
"""

from __future__ import annotations

import heapq
import random
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any
from unittest import mock

from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from pyramid_sqlalchemy_sessions import AESGCMSerializer, RenewalViolationEvent
from pyramid_sqlalchemy_sessions.cookie import Ticket
from tests.application import Application
from tests.stories.renewal_simulation import (
    HOUR,
    START,
    Browser,
    Renewed,
    Request,
    Simulation,
    World,
    call,
    notice,
)


@dataclass(frozen=True)
class Network:
    """How long requests and answers take on their way, in seconds."""

    #: A log-normal distribution.
    median: float
    spread: float
    #: How often one of them stalls, and for how long.
    stalls: float
    stall: tuple[float, float]
    #: How often an answer doesn't arrive. Requests get lost half as often.
    lost: float


NETWORKS = {
    "desktop": Network(0.03, 0.6, 0.002, (1, 10), 0.005),
    "mobile": Network(0.12, 0.9, 0.02, (2, 40), 0.03),
}
#: How often a request is an upload, and how long that takes to arrive.
UPLOADS, UPLOAD = 0.02, (20, 60)


class EverydaySimulation(Simulation):
    """Users who look at pages: one request, and what the page loads."""

    def __init__(self, world: World, directory: Path, network: Network):
        super().__init__(world, directory)
        self.network = network

    def _live(self, browser: Browser) -> None:
        """Look at a page, and at the next one after a while."""
        if browser.is_gone or self.result.renewals >= self.world.renewals:
            return
        draw = self._random
        self._send(browser)
        # What the page loads, mostly when it's there. Sometimes tabs are restored.
        wait = 0 if draw.random() < 0.2 else 0.2 + 4 * self.network.median
        for _ in range(draw.choice((0, 1, 2, 4))):
            self._after(wait + draw.random() * 0.2, lambda: self._send(browser))
        pause = draw.expovariate(1 / 20)
        if draw.random() < 0.02:
            pause += draw.uniform(0, HOUR)
        self._after(pause, lambda: self._live(browser))

    def _send(self, browser: Browser) -> None:
        if browser.is_gone:
            return
        draw, network = self._random, self.network
        there, back = self._way(), self._way()
        if draw.random() < UPLOADS:
            there += draw.uniform(*UPLOAD)
        request = Request(
            browser,
            browser.jar,
            writes=draw.random() < 0.25,
            way_back=back,
            is_lost=draw.random() < network.lost,
        )
        if draw.random() < 0.05:
            request.pause = draw.expovariate(1 / 2)
        if draw.random() < network.lost / 2:
            return
        if self.is_of_no_effect(request, self.now + there + request.pause):
            self.result.requests += 1
            return
        self._under_way += 1
        self._after(there, lambda: self._handle(request, self._forget))

    def _way(self) -> float:
        draw, network = self._random, self.network
        delay = network.median * draw.lognormvariate(0, network.spread)
        if draw.random() < network.stalls:
            delay += draw.uniform(*network.stall)
        return delay

    def is_of_no_effect(self, request: Request, commit: float) -> bool:
        """Tell whether it can only find that there's nothing to do."""
        browser, ticket = request.browser, self._ticket(request.cookie)
        if ticket is None or ticket.renewal_id != browser.known[-1]:
            return False
        since = browser.taken_over.get(ticket.renewal_id)
        return since is not None and commit < since + self.world.renewal_timeout - 1


@dataclass(frozen=True)
class Terms:
    """Who uses a copied cookie, and how often."""

    #: Seconds from one request of the thief to the next one.
    thief_every: int
    #: Seconds from one visit of the user to the next one, on average.
    user_every: int
    #: Does the thief wait with a new cookie until the user has it as well?
    is_patient: bool
    renewal_timeout: int = 600
    renewal_grace: int = 60
    #: When to stop watching.
    longest: int = 24 * HOUR


@dataclass
class Loot:
    """What became of some copied cookies."""

    #: How long each thief was in, in seconds. ``longest``: wasn't noticed.
    times: list[float] = field(default_factory=list)
    noticed: int = 0
    #: How often it was the user's own request that ended the session.
    ended_by_user: int = 0

    def figures(self) -> dict[str, float]:
        """Return the median, what 90 % don't exceed, and the shares."""
        deciles = quantiles(self.times, n=10, method="inclusive")
        return {
            "median": round(deciles[4]),
            "ninety": round(deciles[8]),
            "noticed": self.noticed / len(self.times),
            "ended_by_user": self.ended_by_user / max(1, self.noticed),
        }


@dataclass
class _Person:
    """The user or the thief, with a cookie."""

    cookie: str
    #: What a patient thief is going to use next, and when.
    spare: str | None = None
    patient_until: float = 0


class Theft:
    """Let thieves copy cookies, one after the other."""

    def __init__(self, terms: Terms, seed: int):
        self.terms = terms
        self.now: float = START
        self._random = random.Random(seed)
        self._serializer = AESGCMSerializer(bytes(range(32)))
        self._engine = create_engine("sqlite://", poolclass=StaticPool)
        Renewed.__table__.create(self._engine)
        self._application = Application(
            self._engine,
            Renewed,
            configure=lambda config: config.add_subscriber(
                notice, RenewalViolationEvent
            ),
            renewal_timeout=terms.renewal_timeout,
            renewal_grace=terms.renewal_grace,
        )
        self._application.view = self._view
        # The renewal id that the row has, since when, and the next one.
        self._current: uuid.UUID | None = None
        self._candidate: uuid.UUID | None = None
        self._renewed = 0.0

    def run(self, times: int) -> Loot:
        """Steal so many cookies, and tell what became of them."""
        loot = Loot()
        with mock.patch("time.time", self._clock):
            for _ in range(times):
                self._steal(loot)
        self._engine.dispose()
        return loot

    def _steal(self, loot: Loot) -> None:
        draw, terms = self._random, self.terms
        self._application.clear()
        self.now = START + draw.random()
        cookie = self._ask(None).answer
        assert cookie
        self._current, self._renewed = self._renewal_id(cookie), self.now
        self._candidate = None
        user, thief = _Person(cookie), _Person(cookie)
        self.now += draw.random() * terms.renewal_timeout
        start = self.now
        agenda = [(start, "thief"), (start + self._pause(), "user")]
        while agenda[0][0] < start + terms.longest:
            self.now, what = heapq.heappop(agenda)
            if what == "thief":
                is_in = self._use_as_thief(thief)
                heapq.heappush(agenda, (self._next_poll(thief), "thief"))
            else:
                is_in = self._use(user)
                if what == "user":  # The page loads something.
                    heapq.heappush(agenda, (self.now + 1, "page"))
                    heapq.heappush(agenda, (self.now + self._pause(), "user"))
            if not is_in:
                loot.noticed += 1
                loot.ended_by_user += what != "thief"
                loot.times.append(self.now - start)
                return
        loot.times.append(terms.longest)

    def _next_poll(self, thief: _Person) -> float:
        every = self.terms.thief_every
        then = self.now + every * self._random.uniform(0.9, 1.1)
        if thief.spare or self._renewal_id(thief.cookie) != self._current:
            return then
        # Until a renewal is due nothing changes.
        due = self._renewed + self.terms.renewal_timeout - 1
        return max(then, due - every * self._random.random())

    def _clock(self) -> float:
        return self.now

    def _pause(self) -> float:
        return self._random.expovariate(1 / self.terms.user_every)

    def _use_as_thief(self, thief: _Person) -> bool:
        if thief.spare and self.now >= thief.patient_until:
            thief.cookie, thief.spare = thief.spare, None
        elif thief.spare:
            return True
        old = thief.cookie
        is_in = self._use(thief)
        if self.terms.is_patient and thief.cookie != old:
            thief.cookie, thief.spare = old, thief.cookie
            thief.patient_until = self.now + self.terms.renewal_timeout / 2
        return is_in

    def _use(self, person: _Person) -> bool:
        """Send a request, and tell whether it was let in."""
        renewal_id = self._renewal_id(person.cookie)
        is_due = self.now >= self._renewed + self.terms.renewal_timeout - 1
        if renewal_id == self._current and not is_due:
            return True
        request = self._ask(person.cookie)
        if request.violations:
            return False
        assert not request.was_new
        if renewal_id == self._candidate:
            self._current, self._renewed = renewal_id, self.now
            self._candidate = None
        if request.answer:
            person.cookie = request.answer
            self._candidate = self._renewal_id(request.answer)
        return True

    def _ask(self, cookie: str | None) -> Request:
        request = Request(Browser(0), cookie)
        call(self._application, request)
        assert request.error is None
        return request

    def _view(self, request: Any) -> None:
        mine: Request = request.environ["simulation.request"]
        mine.was_new = request.session.new
        if not mine.cookie:
            request.session["n"] = 1

    def _renewal_id(self, cookie: str) -> uuid.UUID | None:
        data = self._serializer.loads(cookie.encode("ascii"))
        return Ticket.from_bytes(data).renewal_id
