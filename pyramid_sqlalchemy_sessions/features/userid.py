"""The user id of a session, in a column of its own."""

from __future__ import annotations

import re
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import BigInteger, Integer
from sqlalchemy.orm import Mapped, mapped_column

from ..feature import Feature, Values

__all__ = ["Userid", "UseridMixin", "userid_for"]


class UseridMixin:
    """Give the session a user: ``request.session.userid``.

    The column ``userid`` is an Integer. If your users have other keys, declare it again
    in your model, for instance as UUID or String, usually with a foreign key.
    """

    if TYPE_CHECKING:
        userid: Mapped[Any]
        authenticated: Mapped[int | None]

    userid = mapped_column(Integer)
    #: When the user last proved who they are, in seconds since the epoch.
    authenticated = mapped_column(BigInteger)


class Userid(Feature):
    """A session that has a user is worth storing."""

    mixin = UseridMixin
    columns: ClassVar[tuple[str, ...]] = ("userid", "authenticated")
    own_columns: ClassVar[tuple[str, ...]] = columns

    def is_empty(self, values: Values) -> bool:
        return values["userid"] is None


def userid_for(column: Any, value: Any) -> Any:
    """Return a user id as its column holds it.

    Text is converted if the column is an integer or a UUID. Raises TypeError for
    anything else that isn't of the column's type.
    """
    try:
        kind: type[Any] = column.type.python_type
    except NotImplementedError:  # a type of the application's own
        return value
    is_flag = isinstance(value, bool) and kind is not bool
    if value is None or (isinstance(value, kind) and not is_flag):
        return value
    if isinstance(value, str):
        if kind is int and _INTEGER.fullmatch(value):
            return int(value)
        if kind is uuid.UUID:
            with suppress(ValueError):
                return uuid.UUID(value)
    raise TypeError(
        f"a userid of this model must be {_NAMES.get(kind, kind.__name__)}, not"
        f" {type(value).__name__}; declare the column 'userid' with another type if"
        " your users have other ids"
    )


_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_NAMES = {int: "an int", uuid.UUID: "a UUID", str: "a str"}
