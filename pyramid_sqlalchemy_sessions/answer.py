"""The response's side of a session: at most one cookie, and what caches are told."""

from __future__ import annotations

from typing import Any

from .cookie import vary_on_cookie
from .outcome import Decision
from .session_config import SessionConfig

__all__ = ["Answer"]


class Answer:
    """What the response is going to say, decided while the request is under way.

    A decision that depends on a commit is staged before it, so that anything that can
    fail does so there, and is made final after it.
    """

    def __init__(self, config: SessionConfig, request: Any):
        self._config = config
        self._request = request
        self.decision: Decision | None = None
        self.staged: Decision | None = None
        self._sealed: str | None = None  # the value of the cookie
        self.is_made: bool = False
        self._waiting: Any = None  # the response, if the transaction goes on

    def delete(self, decision: Decision) -> None:
        """Delete the cookie, whatever happens to the transaction."""
        self.decision = decision

    def stage(self, decision: Decision | None) -> None:
        """Decide what happens to the cookie if the commit succeeds."""
        if decision is None:
            return
        if self.staged is not None and not self.staged.is_again:
            decision = decision._replace(is_again=False)
        before = self.staged or self.decision
        if before is not None:
            decision = decision.after(before)
        self.staged = decision
        if decision.ticket is not None:
            self._sealed = self._config.cookie.seal(decision.ticket)

    def take_staged(self) -> Decision | None:
        """Make the staged decision final, and return it."""
        staged, self.staged = self.staged, None
        if staged is not None:
            self.decision = staged
        return staged

    def make(self, response: Any) -> None:
        """Write the headers of the response."""
        vary_on_cookie(response)
        self._send(response)

    def wait(self, response: Any) -> None:
        """Keep the response of a request whose transaction goes on."""
        self.make(response)
        self._waiting = response

    def finish(self) -> None:
        """Write the headers of a response that was waiting."""
        if self._waiting is not None:
            self._send(self._waiting)

    def _send(self, response: Any) -> None:
        cookie, attributes = self._config.cookie, self._config.cookie_attributes
        match self.decision:
            case None:
                return
            case Decision(None, settings):
                cookie.delete(self._request, response, attributes(settings))
            case Decision(_, settings, _, was):
                assert self._sealed is not None
                moved_from = attributes(was) if was else None
                cookie.send(
                    self._request,
                    response,
                    self._sealed,
                    attributes(settings),
                    moved_from,
                )
