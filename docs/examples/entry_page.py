"""On which page a session began."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import String
from sqlalchemy.orm import mapped_column

from ..feature import Feature
from ..record import Record

__all__ = ["EntryPage", "EntryPageMixin"]


class EntryPageMixin:
    """Note the page on which the session began.

    The column ``entry_page`` holds its path, quoted as in a URL, cut to the length of
    the column. A model that wants more or less declares the column anew.
    """

    entry_page = mapped_column(String(200))


class EntryPage(Feature):
    """The path of the request that the session began with."""

    mixin = EntryPageMixin
    columns: ClassVar[tuple[str, ...]] = ("entry_page",)

    def note(self, request: Any, record: Record) -> None:
        if record.key is None:  # and not only another user
            length = record.config.table.columns["entry_page"].type.length
            record.values["entry_page"] = request.path[:length]
