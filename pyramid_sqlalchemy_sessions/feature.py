"""What a feature of the model is: the moments at which it can act."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from sqlalchemy import ColumnElement

if TYPE_CHECKING:
    from .cookie import Ticket
    from .record import Record
    from .settings import DefaultSettings
    from .visit import Visit

__all__ = ["Change", "Feature", "Verdict"]


class Verdict(enum.Enum):
    """What a feature finds when a stored session is loaded."""

    VALID = enum.auto()
    #: Its time is over: it is deleted, unless another request extended it.
    EXPIRED = enum.auto()
    #: The cookie is of no use for it: the session starts new and the row stays.
    USELESS = enum.auto()
    #: The cookie must have been stolen or copied: it is deleted, whatever happens.
    VIOLATED = enum.auto()


class Change(NamedTuple):
    """A change of a row that is made only if the row is as expected.

    It is not one that the user made: the version is not looked at. Whoever made the
    same change at the same time was first, and nothing is lost.
    """

    expected: dict[str, Any]
    values: dict[str, Any]
    #: What the cookie is to carry if the row was as expected.
    ticket: Ticket | None = None


class Feature:
    """One ability that a mixin gives to the model.

    A feature is a stateless object that is made once per session factory, for
    each mixin that the model has. The core calls every feature at each of the
    moments below, without knowing which ones there are. Each does nothing by
    default.
    """

    #: The mixin of the model that switches the feature on.
    mixin: ClassVar[type]
    #: The columns of the mixin, which are loaded and stored with the session.
    columns: ClassVar[tuple[str, ...]]
    #: The settings that each session has of its own.
    settings: ClassVar[tuple[str, ...]] = ()
    #: What events call it when the feature lets a session expire.
    cause: ClassVar[str] = ""

    def own_settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the session's own settings, from the values of its columns."""
        return {name: values[name] for name in self.settings}

    def keep_settings(self, values: dict[str, Any], settings: DefaultSettings) -> None:
        """Make the columns of a new session say what its settings are."""
        for name in self.settings:
            values[name] = getattr(settings, name)

    def is_empty(self, record: Record) -> bool:
        """Tell whether there is nothing that makes a new session worth storing."""
        return True

    def begin(self, record: Record, now: int) -> None:
        """Prepare a session that is about to be inserted."""

    def check(self, record: Record, ticket: Ticket, now: int) -> Verdict:
        """Judge a session that has just been loaded with the ticket."""
        return Verdict.VALID

    def act(self, visit: Visit, record: Record) -> Change | None:
        """Decide what is due for a stored session, just before it is written."""
        return None

    def note(self, request: Any, record: Record) -> None:
        """Note what the request tells, when a session begins or its user changes."""

    def rotate(self, record: Record) -> dict[str, Any]:
        """Return new values, secrets above all, for a session that gets a new id.

        They are stored also where they do not differ from what was loaded.
        """
        return {}

    def extended(
        self,
        columns: Mapping[str, ColumnElement[Any]],
        settings: DefaultSettings,
        now: ColumnElement[int],
    ) -> dict[str, ColumnElement[Any]]:
        """Return, as SQL, what columns become in a row that is used at the time now."""
        return {}

    def expired(
        self,
        columns: Mapping[str, ColumnElement[Any]],
        settings: DefaultSettings,
        now: ColumnElement[int],
    ) -> ColumnElement[bool] | None:
        """Return the SQL for "expired at the time now"; None if there is no timeout.

        It is true or false, and never NULL, so that its negation says who is alive.
        """
        return None
