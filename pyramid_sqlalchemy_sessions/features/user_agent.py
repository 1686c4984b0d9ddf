"""With which browser a session began, or its user logged in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from ..feature import Feature
from ..settings import DefaultSettings

__all__ = ["UserAgent", "UserAgentMixin"]


class UserAgentMixin:
    """Note the browser in which the session began, or in which its user changed.

    The column ``user_agent`` holds what the browser says of itself, cut to the length
    of the column. NULL: it says nothing. A model that wants more or less declares the
    column anew.
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
        # No database takes a NUL in a text, and the others have no place in a page.
        shown = "".join(each if each.isprintable() else " " for each in given[:length])
        return {"user_agent": shown.strip() or None}
