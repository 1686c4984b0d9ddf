"""On which page a session began, or its user logged in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote

from sqlalchemy import String
from sqlalchemy.orm import mapped_column

from ..feature import Feature
from ..settings import DefaultSettings

__all__ = ["EntryPage", "EntryPageMixin"]


class EntryPageMixin:
    """Note the page on which the session began, or on which its user changed.

    The column ``entry_page`` holds its path, quoted as in a URL, cut to the length of
    the column. A model that wants more or less declares the column anew.
    """

    entry_page = mapped_column(String(200))


class EntryPage(Feature):
    """The path of the request that the session began with."""

    mixin = EntryPageMixin
    columns: ClassVar[tuple[str, ...]] = ("entry_page",)
    own_columns: ClassVar[tuple[str, ...]] = columns

    def note(
        self, environ: Mapping[str, Any], settings: DefaultSettings, columns: Any
    ) -> dict[str, Any]:
        path = quote(environ.get("PATH_INFO", ""), encoding="latin-1")
        return {"entry_page": path[: columns["entry_page"].type.length]}
