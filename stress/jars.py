"""The cookies of all browsers, which several processes share."""

from __future__ import annotations

from multiprocessing.managers import BaseManager
from typing import NamedTuple


class Held(NamedTuple):
    """The cookie that a browser has, and the request whose answer brought it."""

    value: str | None = None
    brought_by: str | None = None


class Jars:
    """The cookies of all browsers, and those that are dead."""

    def __init__(self) -> None:
        self._held: dict[int, Held] = {}
        self._dead: list[tuple[float, Held]] = []

    def take(self, browser: int) -> Held:
        """Return the cookie of the browser."""
        return self._held.get(browser, Held())

    def put(self, browser: int, held: Held) -> None:
        """Give the browser another cookie."""
        self._held[browser] = held

    def drop(self, browser: int, value: str | None) -> None:
        """Take the cookie from the browser, unless it has another one by now."""
        if self.take(browser).value == value:
            self.put(browser, Held())

    def bury(self, held: Held, until: float) -> None:
        """Keep a dead cookie to be tried, until it would count as stolen."""
        self._dead = [*self._dead[-50:], (until, held)]

    def dig_up(self, number: float, now: float) -> Held:
        """Return a dead cookie, if there is any."""
        dead = [held for until, held in self._dead if now < until]
        return dead[int(number * len(dead))] if dead else Held()


class Post(BaseManager):
    """Where the jars are."""


Post.register("Jars", Jars)
