"""A feature of the model: the questions that the core asks, and their answers."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from sqlalchemy import ColumnElement

from .cookie import Ticket
from .settings import DefaultSettings

__all__ = ["Due", "Feature", "Use", "Values", "Verdict"]

#: The values of the library's columns in a row by name, without the documents.
Values = Mapping[str, Any]


class Verdict(enum.Enum):
    """What is found when a stored session is loaded with a cookie."""

    VALID = enum.auto()
    #: Its time is over: it's deleted, unless another request extended it.
    EXPIRED = enum.auto()
    #: The cookie can't open it: the session starts new, and the row stays.
    USELESS = enum.auto()
    #: The cookie was replaced a moment ago: the session is empty, and isn't stored.
    LATE = enum.auto()
    #: The cookie must have been copied: the session is deleted, whatever happens.
    VIOLATED = enum.auto()


@dataclass(frozen=True)
class Use:
    """How a request uses a stored session."""

    ticket: Ticket
    #: When the request came to the session, and when it commits, in seconds.
    now: int
    commit: int
    #: Whether it wrote something, or called a method that could have.
    is_write: bool
    #: Whether it may extend the session, or start to renew it.
    extends: bool
    #: Whether it rotates the session, which sends another cookie.
    rotates: bool
    #: Draws a number below 100, for what happens with a percentage. It draws only once.
    draw: Callable[[], int]


class Due(NamedTuple):
    """What's due for a row besides the user's changes.

    It's done only if the columns of ``guard`` still hold these values. If they don't,
    another request has done it already, and nothing is lost. The version isn't checked.
    """

    guard: dict[str, Any]
    changes: dict[str, Any]
    #: What ``idle_expire`` becomes, unless it's later already.
    extend_to: int | None = None
    #: What the cookie carries then.
    ticket: Ticket | None = None

    @property
    def is_something(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.changes) or self.extend_to is not None

    def without_extension(self) -> Due:
        """Return what's left when the row has been extended."""
        guard = {n: v for n, v in self.guard.items() if n != "idle_timeout"}
        return self._replace(guard=guard, extend_to=None)


class Feature:
    """One ability that a mixin gives to the model.

    A feature is a stateless object, made once per session factory for each mixin that
    the model has. It answers questions and changes nothing. Each answer is "nothing" by
    default.
    """

    #: The mixin of the model that switches the feature on.
    mixin: ClassVar[type]
    #: The columns of the mixin, which are loaded with the session.
    columns: ClassVar[tuple[str, ...]] = ()
    #: Those of them that the application changes, through the session.
    own_columns: ClassVar[tuple[str, ...]] = ()
    #: The settings that each session has for itself.
    settings: ClassVar[tuple[str, ...]] = ()
    #: The cause in events when the feature lets a session expire.
    cause: ClassVar[str] = ""

    def settings_in(self, values: Values) -> dict[str, Any]:
        """Return the session's own settings, from its columns."""
        return {name: values[name] for name in self.settings}

    def columns_for(self, settings: DefaultSettings, since: int) -> dict[str, Any]:
        """Return the columns for the session's own settings, given at ``since``."""
        return {name: getattr(settings, name) for name in self.settings}

    def is_empty(self, values: Values) -> bool:
        """Tell whether there's nothing that makes a new session worth storing."""
        return True

    def begin(self, settings: DefaultSettings, now: int) -> dict[str, Any]:
        """Return the columns of a session that is about to be inserted."""
        return {}

    def has_expired(self, values: Values, settings: DefaultSettings, now: int) -> bool:
        """Tell whether the session's time is over."""
        return False

    def due(self, values: Values, settings: DefaultSettings, use: Use) -> Due | None:
        """Return what's due for a stored session, just before the commit."""
        return None

    def note(
        self, environ: Mapping[str, Any], settings: DefaultSettings, columns: Any
    ) -> dict[str, Any]:
        """Return what to note when a session starts or its user changes."""
        return {}

    def rotate(self, values: Values, now: int) -> dict[str, Any]:
        """Return what changes when the session's cookie is replaced at once."""
        return {}

    def restart(
        self, values: Values, settings: DefaultSettings, now: int
    ) -> dict[str, Any]:
        """Return what changes when a stored session has other settings from now on.

        ``values`` are those of before.
        """
        return {}

    def ends(self, values: Values, settings: DefaultSettings) -> int | None:
        """Return the last second of the session, None if there is none."""
        return None

    def extended(
        self,
        columns: Mapping[str, ColumnElement[Any]],
        settings: DefaultSettings,
        now: ColumnElement[int],
    ) -> dict[str, ColumnElement[Any]]:
        """Return SQL for the new values of columns in a row that's used at ``now``."""
        return {}

    def expired(
        self,
        columns: Mapping[str, ColumnElement[Any]],
        settings: DefaultSettings,
        now: ColumnElement[int],
    ) -> ColumnElement[bool] | None:
        """Return the SQL for "expired at ``now``", or None if there's no timeout.

        It's true or false, and never NULL, so that its negation finds the live
        sessions.
        """
        return None
