"""The CSRF token of a session, in a column of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sqlalchemy import LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from ..feature import Feature, Values

__all__ = ["CSRF", "CSRFMixin"]


class CSRFMixin:
    """Give the session a CSRF token: ``request.session.get_csrf_token()``.

    The column ``csrf_token`` holds 20 random bytes. It doesn't have a length: that
    would make Alembic's ``check`` report a difference on MariaDB every time.
    """

    if TYPE_CHECKING:
        csrf_token: Mapped[bytes | None]

    csrf_token = mapped_column(LargeBinary)


class CSRF(Feature):
    """A session that has a token is worth storing; a rotated one gets another."""

    mixin = CSRFMixin
    columns: ClassVar[tuple[str, ...]] = ("csrf_token",)
    own_columns: ClassVar[tuple[str, ...]] = columns

    def is_empty(self, values: Values) -> bool:
        return values["csrf_token"] is None
