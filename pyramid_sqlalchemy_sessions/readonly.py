"""Values that can't be changed, for when nothing could store the change any more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NoReturn
from uuid import UUID

from .exceptions import TransactionRequiredError

__all__ = ["NO_INSTANCE", "NO_PERSISTING", "TOO_LATE", "read_only"]

NO_INSTANCE = (
    "session.instance is an object of the request's transaction, and there is none now:"
    " use it in a view"
)
NO_PERSISTING = (
    "the session cannot be written now: that takes the request's transaction, and a"
    " cookie that a login hasn't just replaced"
)
TOO_LATE = (
    "the session cannot be changed here: the request's transaction is over and its"
    " response is made. Change it in the view, or in a new transaction:"
    " with request.tm: ..."
)

#: Types whose values can't change.
CONSTANT = frozenset(
    {
        *(str, int, bool, bytes, float, complex, frozenset, type(None)),
        *(date, datetime, time, timedelta, Decimal, UUID),
    }
)


def _refuse(*args: Any, **kw: Any) -> NoReturn:
    raise TransactionRequiredError(TOO_LATE)


class _List(list[Any]):
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse

    def __reduce__(self) -> Any:
        return list, (list(self),)


class _Dict(dict[Any, Any]):
    clear = pop = popitem = setdefault = update = _refuse
    __setitem__ = __delitem__ = __ior__ = _refuse

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


class _Set(set[Any]):
    add = clear = discard = pop = remove = update = _refuse
    difference_update = intersection_update = symmetric_difference_update = _refuse
    __iand__ = __ior__ = __isub__ = __ixor__ = _refuse

    def __reduce__(self) -> Any:
        return set, (set(self),)


def read_only(value: Any, warn: Callable[[str], None]) -> Any:
    """Return the value as one that raises TransactionRequiredError when it's changed.

    That's so for lists, dicts, sets and bytearrays, and for what they hold. Changes to
    anything else can't be noticed: there's a warning if it isn't a constant.
    """
    kind: type[Any] = type(value)
    if kind is list:
        return _List(read_only(each, warn) for each in value)
    if kind is dict:
        return _Dict({key: read_only(each, warn) for key, each in value.items()})
    if kind is set:
        return _Set(value)
    if kind is tuple:
        return tuple(read_only(each, warn) for each in value)
    if kind is bytearray:
        return bytes(value)
    if kind not in CONSTANT:
        warn(
            f"A {kind.__name__} is read from a session after the response was made:"
            " changes to it wouldn't be stored, and can't be noticed."
        )
    return value
