"""What a request did with its session, in order: for the panel and for a log."""

from __future__ import annotations

import logging
from collections.abc import Collection
from types import FrameType
from typing import Any, NamedTuple

from .callers import Line
from .showing import Showing

__all__ = ["TRACES", "Note", "Trace", "call_text", "log", "span"]

#: At DEBUG it gets one line for each request that uses its session.
log: logging.Logger = logging.getLogger(__name__)

#: Where the environ has a list if the traces of the request are kept.
TRACES = "pyramid_sqlalchemy_sessions.traces"

#: More changes than this are counted, but not shown.
MOST_CHANGES = 200

#: What a client sends can be anything.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Note(NamedTuple):
    """One thing that happened."""

    #: What kind of thing, such as "change" or "stored".
    label: str
    text: str
    #: The line of the application that did it, if one did.
    line: Line | None = None
    #: If it says what happened to the changes, how good that is, in Bootstrap's words:
    #: "success", "info", "warning" or "danger". None for everything else.
    style: str | None = None


class Trace:
    """What one request did with one session, without a key, an id or a token."""

    def __init__(
        self, cookie_name: str, attempt: int, attempts: int, in_subrequest: bool
    ):
        self.cookie_name = cookie_name
        self.in_subrequest: bool = in_subrequest
        #: Which attempt of pyramid_retry it is, from 1, and how many there can be.
        self.attempt: int = attempt
        self.attempts: int = attempts
        self.notes: list[Note] = []
        self._brief: list[str] = []
        self._changes = 0

    @property
    def fates(self) -> list[Note]:
        """What happened to the changes, in order."""
        return [note for note in self.notes if note.style is not None]

    def note(
        self,
        label: str,
        text: str,
        line: Line | None = None,
        style: str | None = None,
        brief: str | None = None,
    ) -> None:
        """Add what happened; ``brief`` is the text for the log, without any value."""
        if label == "change":
            self._changes += 1
            if self._changes > MOST_CHANGES:
                return
        self.notes.append(Note(label, text, line, style))
        at = "" if line is None else f" at {line.module}:{line.line}"
        self._brief.append(f"{label}: {text if brief is None else brief}{at}")

    @property
    def omitted(self) -> int:
        """How many changes there were that aren't among the notes."""
        return max(0, self._changes - MOST_CHANGES)

    def write_log(self, request: Any) -> None:
        """Write the line for the log. The path isn't in it: it can hold secrets."""
        route = getattr(request, "matched_route", None)
        method = getattr(request, "method", "")
        log.debug(
            "%s %s, cookie %s, attempt %s of %s: %s",
            method if method in _METHODS else "?",
            "without a route" if route is None else f"route {route.name}",
            self.cookie_name,
            self.attempt,
            self.attempts,
            "; ".join(self._brief),
        )


def span(seconds: int) -> str:
    """Return a time in words: its two largest units."""
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    parts: list[str] = []
    rest = abs(seconds)
    for size, name in units:
        count, rest = divmod(rest, size)
        if count or (name == "s" and not parts):
            parts.append(f"{count} {name}")
    return " ".join(parts[:2])


def call_text(call: FrameType, show: Showing) -> tuple[str, Collection[Any]]:
    """Return a running call of a session's method as code, and the keys it changes."""
    code, given = call.f_code, call.f_locals
    names = code.co_varnames[1 : code.co_argcount]
    match code.co_name:
        case "__setitem__":
            key = given["key"]
            value = show.value_of(key, given["value"])
            return f"session[{show.value(key)}] = {value}", [key]
        case "__delitem__":
            return f"del session[{show.value(given['key'])}]", [given["key"]]
        case "update":
            changed: dict[Any, Any] = given["differing"]
            return f"session.update({show.pairs(changed)})", changed
        case "userid" as name:
            return f"session.{name} = {show.value(given[name])}", []
        case "save" | "__exit__":
            return "session.settings", []
        case name:
            key = given.get("key")
            told = [
                show.value_of(key, given[each])
                if each == "default"
                else show.value(given[each])
                for each in names
                if each not in ("allow_duplicate", "request")
                and (each, given[each]) != ("queue", "")
            ]
            return f"session.{name}({', '.join(told)})", [key] if "key" in given else []
