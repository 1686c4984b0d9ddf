"""Values that can't be changed, for when nothing could store the change any more."""

from __future__ import annotations

from typing import Any, NoReturn

from .exceptions import TransactionRequiredError

__all__ = ["TOO_LATE", "read_only"]

TOO_LATE = (
    "the session cannot be changed here: the request's transaction is over and its"
    " response is made. Change it in the view, or in a new transaction:"
    " with request.tm: ..."
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


def read_only(value: Any) -> Any:
    """Return the value as one that raises TransactionRequiredError when it's changed.

    That's so for lists, dicts, sets and bytearrays, and in what they hold. Anything
    else is returned as it is.
    """
    kind: type[Any] = type(value)
    if kind is list:
        return _List(map(read_only, value))
    if kind is dict:
        return _Dict({key: read_only(each) for key, each in value.items()})
    if kind is set:
        return _Set(value)
    if kind is tuple:
        return tuple(map(read_only, value))
    return bytes(value) if kind is bytearray else value
