"""The browser that a session began in, or that its user logged in with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from ..feature import Feature
from ..settings import DefaultSettings

__all__ = ["UserAgent", "UserAgentMixin"]


class UserAgentMixin:
    """Note the browser when a session starts, or its user changes.

    The column ``user_agent`` holds what the browser says about itself, cut to the
    length of the column, or NULL if it says nothing. If you want more or less, declare
    the column again in your model.
    """

    if TYPE_CHECKING:
        user_agent: Mapped[str | None]

    user_agent = mapped_column(String(200))


class UserAgent(Feature):
    """The name of the browser, in characters that can be shown."""

    mixin = UserAgentMixin
    columns: ClassVar[tuple[str, ...]] = ("user_agent",)
    own_columns: ClassVar[tuple[str, ...]] = columns

    def note(
        self, environ: Mapping[str, Any], settings: DefaultSettings, columns: Any
    ) -> dict[str, Any]:
        length = columns["user_agent"].type.length
        given = environ.get("HTTP_USER_AGENT", "")
        # PostgreSQL doesn't take a NUL in text, and the others don't belong in a page.
        shown = "".join(each if each.isprintable() else " " for each in given[:length])
        return {"user_agent": shown.strip() or None}
