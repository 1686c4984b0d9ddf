"""When a session was last used, give or take some minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from ..feature import Due, Feature, Use, Values
from ..settings import DefaultSettings

__all__ = ["LastSeen", "LastSeenMixin"]


class LastSeenMixin:
    """Note when the session was last used, at most every ``last_seen_delay`` seconds.

    The column ``last_seen`` is in seconds since the epoch.
    """

    if TYPE_CHECKING:
        last_seen: Mapped[int | None]

    last_seen = mapped_column(BigInteger)


class LastSeen(Feature):
    """Notes a use now and then, which doesn't conflict with anything."""

    mixin = LastSeenMixin
    columns: ClassVar[tuple[str, ...]] = ("last_seen",)

    def begin(self, settings: DefaultSettings, now: int) -> dict[str, Any]:
        return {"last_seen": now}

    def due(self, values: Values, settings: DefaultSettings, use: Use) -> Due | None:
        seen = values["last_seen"]
        if not use.extends:
            return None
        if seen is not None and use.now <= seen + settings.last_seen_delay:
            return None
        return Due({"last_seen": seen}, {"last_seen": use.now})
