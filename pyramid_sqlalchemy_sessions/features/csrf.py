"""The CSRF token of a session, in a column of its own."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from ..feature import Feature
from ..record import Record

__all__ = ["CSRF", "TOKEN_SIZE", "CSRFMixin", "new_token"]

#: In bytes.
TOKEN_SIZE = 20


def new_token() -> bytes:
    """Draw a token: 20 random bytes."""
    return secrets.token_bytes(TOKEN_SIZE)


class CSRFMixin:
    """Give the session a CSRF token: ``request.session.get_csrf_token()``.

    The column ``csrf_token`` holds 20 random bytes. It names no length: a length
    would make Alembic's ``check`` report a difference on MariaDB for ever.
    """

    if TYPE_CHECKING:
        csrf_token: Mapped[bytes | None]

    csrf_token = mapped_column(LargeBinary)


class CSRF(Feature):
    """A session that has a token is worth storing; a rotated one gets another."""

    mixin = CSRFMixin
    columns: ClassVar[tuple[str, ...]] = ("csrf_token",)

    def is_empty(self, record: Record) -> bool:
        return record.values["csrf_token"] is None

    def rotate(self, record: Record) -> dict[str, Any]:
        has_token = record.values["csrf_token"] is not None
        return {"csrf_token": new_token()} if has_token else {}
