"""The user id of a session, in a column of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import Integer
from sqlalchemy.orm import Mapped, mapped_column

from ..feature import Feature
from ..record import Record

__all__ = ["Userid", "UseridMixin"]


class UseridMixin:
    """Give the session a user: ``request.session.userid``.

    The column ``userid`` is an Integer. A model whose users have other keys
    declares it anew: as UUID or String, say, usually with a foreign key.
    """

    if TYPE_CHECKING:
        userid: Mapped[Any]

    userid = mapped_column(Integer)


class Userid(Feature):
    """A session that has a user is worth storing."""

    mixin = UseridMixin
    columns: ClassVar[tuple[str, ...]] = ("userid",)

    def is_empty(self, record: Record) -> bool:
        return record.values["userid"] is None
