"""The user id of a session, in a column of its own."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from sqlalchemy import BigInteger, Enum, Integer, TypeDecorator, Uuid
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import Mapped, Session, mapped_column

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


class _Table(Protocol):
    """What is asked of the model's table."""

    columns: dict[str, Any]

    def dialect(self, dbsession: Session) -> Dialect: ...


def userid_for(table: _Table, value: Any, dbsession: Callable[[], Session]) -> Any:
    """Return a user id as its column holds it.

    Text is converted if the column is an integer or a UUID. Raises TypeError for
    anything else that isn't of the column's type. The application's own types convert
    values themselves, and may ask which database it is.
    """
    column_type = table.columns["userid"].type
    if value is None:
        return None
    if isinstance(column_type, TypeDecorator):
        if _converts(column_type):
            return _by_decorator(column_type, value, table.dialect(dbsession()))
        column_type = column_type.impl_instance
    if isinstance(column_type, Uuid):
        return _uuid_for(column_type, value)
    try:
        kind: type[Any] = column_type.python_type
    except NotImplementedError:
        return value
    is_flag = isinstance(value, bool) and kind is not bool
    if isinstance(value, kind) and not is_flag:
        if kind is not str or not isinstance(column_type, Enum):
            return value
        if value in column_type.enums:
            return value
        raise _refused(value, "one of the texts of its Enum")
    if isinstance(value, str) and kind is int and _INTEGER.fullmatch(value):
        return int(value)
    raise _refused(value, _NAMES.get(kind, kind.__name__))


def _converts(column_type: TypeDecorator[Any]) -> bool:
    kind = type(column_type)
    return kind.process_bind_param is not TypeDecorator.process_bind_param


def _by_decorator(column_type: TypeDecorator[Any], value: Any, dialect: Dialect) -> Any:
    """Return a text as it'll come back, so that another spelling is the same user."""
    refused = _refused(value, f"what {type(column_type).__name__} takes")
    try:
        stored = column_type.process_bind_param(value, dialect)
    except Exception:
        raise refused from None
    if isinstance(value, str):
        try:
            return column_type.process_result_value(stored, dialect)
        except NotImplementedError:  # it comes back as it's stored
            return stored
        except ValueError:
            raise refused from None
        except Exception:  # it can only read what the driver returns
            return value
    return value


def _uuid_for(column_type: Uuid[Any], value: Any) -> Any:
    try:
        found = value if isinstance(value, uuid.UUID) else uuid.UUID(value)
    except (AttributeError, TypeError, ValueError):
        raise _refused(value, "a UUID") from None
    return found if column_type.as_uuid else str(found)


def _refused(value: Any, expected: str) -> TypeError:
    return TypeError(
        f"a userid of this model must be {expected}, not {type(value).__name__};"
        " declare the column 'userid' with another type if your users have other ids"
    )


_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_NAMES = {int: "an int", str: "a str"}
