"""How the oracle's requests read and write their sessions, and note what they did."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import DeclarativeBase

from pyramid_sqlalchemy_sessions import (
    BaseMixin,
    CSRFMixin,
    IdleMixin,
    JSONDataMixin,
    RenewalMixin,
    UseridMixin,
)
from stress.histories import Op, Part, Version

#: Where the WSGI environment holds the plan of a request.
KEY = "oracle.plan"

#: Where a subrequest's environment holds the deeds of the outer request.
WITHIN = "oracle.within"

#: What is counted up in the dict; ``box`` holds a list, whose length counts.
REGISTERS = ("a", "b", "p", "q", "login", "box")


class Models(DeclarativeBase):
    """The declarative base of the model."""


class Witnessed(UseridMixin, CSRFMixin, IdleMixin, RenewalMixin, BaseMixin, Models):
    """The session that is watched."""

    __tablename__ = "witnessed_session"


class WitnessedAsJSON(
    JSONDataMixin, UseridMixin, CSRFMixin, IdleMixin, RenewalMixin, BaseMixin, Models
):
    """The same, stored as JSON."""

    __tablename__ = "witnessed_json_session"


@dataclass(frozen=True)
class Plan:
    """What a request does, the same in each attempt. ``op`` is where to note it."""

    op: Op
    kind: str
    user: int
    seed: str
    #: How many seconds the view waits.
    pause: float
    #: The id of another session.
    target: str | None = None
    #: Whether the session is neither rotated nor ended, so that it gets renewed.
    is_steady: bool = False


def version_in(data: Any, register: str) -> Version:
    """Return the version of a register in a session, or in a dict."""
    if register == "box":
        items = data.get("box", {"items": []})["items"]
        return (len(items), items[-1] if items else None)
    value = data.get(register)
    return (value[0], value[1]) if value else (0, None)


class Notes:
    """One attempt at a request: its session, and what it notes of it."""

    def __init__(self, request: Any, plan: Plan):
        self.request = request
        self.session = request.session
        self.op = plan.op
        self.plan = plan
        self.random = random.Random(plan.seed)
        self.token = plan.op.name
        self.part = self.open_part()

    def open_part(self, **options: Any) -> Part:
        """Start a part with the session as it is now."""
        mark = self.session.get("mark")
        is_late = getattr(self.session, "is_late", False)
        counts = not is_late and self.plan.kind != "doom"
        part = Part(mark, mark, **{"counts": counts, **options})
        part.counts = part.counts and not is_late
        self.op.parts.append(part)
        return part

    def start_again(self, mark: str) -> None:
        """Go on in a new session, or in this one after it was cleared."""
        answers = self.part.answers
        self.part = Part(None, mark, counts=self.plan.kind != "doom", answers=answers)
        self.op.parts.append(self.part)
        self.session["mark"] = mark

    def own(self) -> None:
        """Give the session a mark."""
        if self.part.mark is None:
            self.part.mark = self.session["mark"] = self.token

    def version(self, register: str) -> Version:
        """Read a register without noting it."""
        return version_in(self.session, register)

    def look(self, register: str) -> int:
        """Read a register and note it; return how often it was written."""
        version = self.version(register)
        if register == "login":
            self._compare_user(self.session.get("login"))
        expected = self.part.writes.get(register) or self.part.reads.get(register)
        if expected is None:
            self.part.reads[register] = version
        elif version != expected:
            self.part.wrong.append(f"{register} is {version}, not {expected}")
        return version[0]

    def _compare_user(self, value: Any) -> None:
        expected = value[2] if value else None
        if self.session.userid != expected:
            self.part.wrong.append(
                f"the user is {self.session.userid}, {expected} by the dict"
            )

    def write(self, register: str, *more: Any) -> None:
        """Count a register up, or append to the list, and note it."""
        n = self.look(register) + 1
        if register == "box":
            if n == 1:
                self.session["box"] = {"items": [self.token]}
            else:
                self.session["box"]["items"].append(self.token)
        else:
            self.session[register] = [n, self.token, *more]
        self.part.writes[register] = (n, self.token)
