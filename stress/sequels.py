"""Two requests of one browser, one right after the other, to two machines."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from stress.machines import Clock, begin, wait
from stress.workers import ask

#: Sessions are started in batches, and then a renewal is due.
BATCH = 50
A_WHILE = 20


@dataclass(frozen=True)
class Sequel:
    """What the two requests are.

    ``first`` makes the first one, on the given port, and returns the cookie for the
    second one, for which ``status`` is the right answer. ``session`` has settings.
    """

    first: Callable[[int, str], str]
    status: int
    session: dict[str, int] = field(default_factory=dict)


def _log_in(port: int, cookie: str) -> str:
    return begin(port)


def _log_out(port: int, cookie: str) -> str:
    status, _, body = ask(port, "/end", cookie)
    if status != 200:
        raise RuntimeError(body)
    return cookie


def _renew(port: int, cookie: str) -> str:
    _, headers, _ = ask(port, "/read", cookie)
    return headers["Set-Cookie"].partition(";")[0]


#: A session starts, and should be there; it ends, and shouldn't be there; it gets a new
#: cookie, which should be good.
LOG_IN = Sequel(_log_in, 200)
LOG_OUT = Sequel(_log_out, 410)
RENEW = Sequel(_renew, 200, {"renewal_timeout": 1})


@dataclass
class Tries:
    """The results of the second requests."""

    wrong: int = 0
    errors: int = 0
    #: How long the wrong answers went on, in seconds.
    longest: float = 0.0
    #: What the second requests took, in seconds.
    times: list[float] = field(default_factory=list)

    @property
    def remark(self) -> str:
        """What else the row of the table says."""
        typical, worst = statistics.median(self.times), max(self.times)
        said = f"answers take {typical * 1000:.1f} ms, at most {worst * 1000:.0f} ms"
        if self.longest:
            said += f"; wrong for up to {self.longest * 1000:.0f} ms"
        return said


def play(sequel: Sequel, ports: list[int], clock: Clock, number: int) -> Tries:
    """Make the two requests so many times, each time with another session."""
    tries = Tries()
    for _ in range(number // BATCH):
        for cookie in _sessions(ports, clock):
            brought = sequel.first(ports[0], cookie)
            _bring(ports[1], brought, sequel.status, tries)
    return tries


def _sessions(ports: list[int], clock: Clock) -> list[str]:
    """Start sessions that both machines know, and let their renewal be due."""
    cookies = [begin(ports[0]) for _ in range(BATCH)]
    for cookie in cookies:
        wait(lambda cookie=cookie: ask(ports[1], "/read", cookie)[0] == 200, "no login")
    clock.push(A_WHILE)
    return cookies


def _bring(port: int, cookie: str, status: int, tries: Tries) -> None:
    start = time.monotonic()
    answer, _, _ = ask(port, "/read", cookie)
    tries.times.append(time.monotonic() - start)
    if answer not in (200, 410):
        tries.errors += 1
    elif answer != status:
        tries.wrong += 1
        # A session that was taken to be stolen never comes back.
        with contextlib.suppress(TimeoutError):
            wait(lambda: ask(port, "/read", cookie)[0] == status, "never", patience=3)
            tries.longest = max(tries.longest, time.monotonic() - start)
