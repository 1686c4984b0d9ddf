"""Patch: what was changed between two marks, to apply to another state of the row."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import Any

from .document import DocumentPatch
from .queues import QueuesPatch
from .state import End, State

__all__ = ["Patch"]


@dataclass(frozen=True)
class Patch:
    """What was done to a session, coalesced: the last value of each key or column.

    Upkeep columns, such as ``idle_expire``, are never in it.
    """

    #: What the changes were made to, which is still expected to be there.
    base: State
    #: The sessions that were ended; the rest was done to the new one after them.
    ended: tuple[End, ...]
    data: DocumentPatch
    flash: QueuesPatch
    values: dict[str, Any]
    seen: frozenset[str]
    #: The id of a new session, if it was asked for.
    id: uuid.UUID | None
    is_rotated: bool
    is_forced: bool
    by: Any

    @classmethod
    def between(cls, before: State, now: State) -> Patch:
        """Return what was changed and read since the mark.

        ``now`` was ``before.begun()`` when the mark was set.
        """
        ended = now.ended
        start = State(now.config, None) if ended else before
        values = {
            name: now.values[name]
            for name in now.config.own_columns
            if now.values[name] != start.values[name]
        }
        data, flash = now.data.patch(start.data), now.flash.patch()
        seen = frozenset({*now.seen, *values})
        return cls(
            before,
            ended,
            data,
            flash,
            values,
            seen,
            None if now.loaded is not None else now.values["id"],
            now.is_rotated,
            now.is_forced,
            now.by,
        )

    @property
    def is_change(self) -> bool:
        """Whether anything was changed, not just read."""
        return bool(
            self.ended
            or self.values
            or self.is_rotated
            or self.is_forced
            or self.data.replaced
            or self.data.entries
            or self.flash.cleared
            or self.flash.popped
            or self.flash.pushed
        )

    @property
    def is_of_row(self) -> bool:
        """Whether it was done to a session that is stored, whatever is rolled back."""
        return self.base.loaded is not None and self.base.found is not None

    def for_late(self) -> Patch:
        """Return what's left of it for a cookie that was replaced in the meantime.

        Nothing that comes from the old session goes into another one.
        """
        if self.ended:
            return self
        data = DocumentPatch(False, {}, frozenset(), False)
        flash = QueuesPatch(False, frozenset(), self.flash.pushed, frozenset())
        return replace(self, data=data, flash=flash)

    def clash(self, now: State) -> str | None:
        """Return what's in the way of applying it to the row as it is now, or None.

        An end wins over everything. Otherwise, no key or column that was read or
        changed here may have been changed by another request, and neither may the user
        or, for a rotation, the cookie.
        """
        # What a transaction wrote that was rolled back is not to be found any more.
        is_same_transaction = now.found is self.base.found
        before = self.base.loaded if is_same_transaction else self.base.found
        after = now.loaded
        if self.ended or before is None or after is None:
            return None
        if before["version"] == after["version"]:
            return None
        columns = {"userid"} & before.keys() | self.seen
        if self.is_rotated:
            columns |= {"rotated", "rotated_from"}
        for name in sorted(columns):
            if before[name] != after[name]:
                return f"the column {name!r}"
        original = State(self.base.config, before)
        if original.data.clash(self.data, now.data):
            return "a key"
        if original.flash.clash(self.flash, now.flash):
            return "a queue of flash messages"
        return "a part (and changed() was called here)" if self.is_forced else None

    def apply(self, target: State) -> None:
        """Apply it to the target."""
        if self.ended:
            end = self.ended[0]
            target.end(end.request, end.cause)
        if target.loaded is None and target.values["id"] is None:
            target.values["id"] = self.id
        target.assign(self.values)
        target.seen |= self.seen
        target.data.apply(self.data)
        target.flash.apply(self.flash)
        if self.is_rotated:
            target.rotate(self.by)
        elif target.loaded is None:
            target.by = target.by or self.by
        target.is_forced |= self.is_forced
        target.is_used |= self.is_change
