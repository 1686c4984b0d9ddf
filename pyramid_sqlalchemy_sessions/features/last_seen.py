"""When a session was last used, give or take some minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from ..feature import Change, Feature
from ..record import Record
from ..visit import Visit

__all__ = ["LastSeen", "LastSeenMixin"]


class LastSeenMixin:
    """Note when the session was last used, at most every ``last_seen_delay`` seconds.

    The column ``last_seen`` is in seconds since the epoch.
    """

    if TYPE_CHECKING:
        last_seen: Mapped[int | None]

    last_seen = mapped_column(BigInteger)


class LastSeen(Feature):
    """A use now and then leaves a trace, which conflicts with nothing."""

    mixin = LastSeenMixin
    columns: ClassVar[tuple[str, ...]] = ("last_seen",)

    def begin(self, record: Record, now: int) -> None:
        record.values["last_seen"] = now

    def act(self, visit: Visit, record: Record) -> Change | None:
        seen, now = record.values["last_seen"], visit.now
        if seen is not None and now <= seen + record.settings.last_seen_delay:
            return None
        return Change({"last_seen": seen}, {"last_seen": now})
