"""The session's dict as its column holds it: a pickle, or JSON with tags."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Protocol
from uuid import UUID

from .exceptions import InconsistentDataError
from .settings import shown

__all__ = [
    "JSON_CODEC",
    "JSON_TEXT_CODEC",
    "PICKLE_CODEC",
    "Codec",
    "copy_message",
    "json_text",
]

#: The protocol of stored pickles: every supported Python reads and writes it.
PICKLE_PROTOCOL = 4

#: How deep JSON values may be nested. Some engines' JSON libraries stop at a few
#: hundred levels, and what they can write they may not be able to read.
DEEPEST = 200


class Codec(Protocol):
    """Turns the session's dict into what the column takes, and back."""

    def loads(self, raw: Any) -> dict[Any, Any]:
        """Return a new dict, or raise InconsistentDataError if it can't be read."""
        ...

    def dumps(self, content: Mapping[Any, Any]) -> Any:
        """Return what the column takes. TypeError says which value can't be stored."""
        ...

    def form(self, value: Any) -> Any:
        """Return one value in a form that equals another's if they're stored alike."""
        ...

    def check_keys(self, keys: Iterable[Any]) -> None:
        """Raise TypeError for a key that would come back as another one."""
        ...


class PickleCodec:
    """A pickle of protocol 4. Those of 0.1.0 name SQLAlchemy's MutableDict."""

    def loads(self, raw: Any) -> dict[Any, Any]:
        try:
            value: Any = pickle.loads(raw)
        except Exception as exc:
            # These errors say which class is gone. All others may quote what's in the
            # row.
            is_gone = isinstance(exc, (AttributeError, ImportError))
            raise _unreadable(shown(str(exc)) if is_gone else None, exc) from None
        return _checked(value)

    def dumps(self, content: Mapping[Any, Any]) -> bytes:
        try:
            return self.form(content)
        except Exception as exc:
            raise _culprit(content, exc, self.form, "picklable object") from exc

    def form(self, value: Any) -> bytes:
        return pickle.dumps(value, PICKLE_PROTOCOL)

    def check_keys(self, keys: Iterable[Any]) -> None:
        pass


class JSONCodec:
    """JSON, in which a dict with one key that starts with ``$`` is a tag.

    ``{"$decimal": "9.95"}`` stands for a Decimal, and so on: see ``_TAGS``. A dict of
    the application's that looks like one is stored as ``{"$dict": {...}}``.
    """

    def loads(self, raw: Any) -> dict[Any, Any]:
        _checked(raw)
        try:
            content = {key: _untagged(value) for key, value in raw.items()}
        except Exception as exc:
            raise _unreadable(None, exc) from None
        return content

    def dumps(self, content: Mapping[Any, Any]) -> dict[str, Any]:
        try:
            tagged = {key: _tagged(value) for key, value in content.items()}
            json_text(tagged)
        except Exception as exc:
            raise _culprit(content, exc, self.form, "JSON value") from exc
        return tagged

    def form(self, value: Any) -> str:
        return json_text(_tagged(value))

    def check_keys(self, keys: Iterable[Any]) -> None:
        for key in keys:
            if not isinstance(key, str):
                raise TypeError(
                    "the keys of a session that is stored as JSON must be strings, not"
                    f" {shown(key)}"
                )


class JSONTextCodec(JSONCodec):
    """The same JSON as UTF-8 text, for a sealed column."""

    def loads(self, raw: Any) -> dict[Any, Any]:
        try:
            content: Any = json.loads(raw)
        except Exception as exc:
            raise _unreadable(None, exc) from None
        return super().loads(content)

    def dumps(self, content: Mapping[Any, Any]) -> Any:
        return json_text(super().dumps(content)).encode()


PICKLE_CODEC = PickleCodec()
JSON_CODEC = JSONCodec()
JSON_TEXT_CODEC = JSONTextCodec()


def json_text(value: Any) -> str:
    """Return the value as JSON that every database takes.

    Raises TypeError or ValueError for what isn't a JSON value, or can't be UTF-8.
    """
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    text.encode()
    return text


def copy_message(message: Any) -> Any:
    """Return a copy of a flash message, as it will come back from the database.

    Raises TypeError for what isn't a JSON value, and for text that's more than its
    characters, such as markup or a translation string: it'd come back as plain text.
    """
    try:
        if type(message) is str:
            message.encode()
            return message
        _refuse_what_changes(message)
        # An engine may read numbers as Decimal.
        copied = json.dumps(
            message, allow_nan=False, ensure_ascii=False, default=_number
        )
        copied.encode()
        return json.loads(copied)
    except (TypeError, ValueError, RecursionError) as exc:
        raise TypeError(f"a flash message must be a JSON value: {exc}") from exc


def _number(value: Any) -> float:
    if isinstance(value, Decimal):
        return _from_decimal(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _from_decimal(value: Decimal) -> float:
    """Return what was written, if the engine reads numbers as Decimal.

    Every library writes a float with a point or an exponent.
    """
    return int(value) if value.as_tuple().exponent == 0 else float(value)


def _refuse_what_changes(value: Any, depth: int = 0) -> None:
    """Raise an error for a value that JSON wouldn't give back as it is."""
    if depth > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    if isinstance(value, dict):
        for each in value.values():
            _refuse_what_changes(each, depth + 1)
    elif isinstance(value, (list, tuple)):
        for each in value:
            _refuse_what_changes(each, depth + 1)
    elif isinstance(value, str) and type(value) is not str:
        for method, cure in _MORE_THAN_TEXT.items():
            if hasattr(value, method):
                name = type(value).__name__
                raise TypeError(f"{name} would come back as plain text; {cure}")


#: Methods of text that's more than its characters, and what to do about it.
_MORE_THAN_TEXT = {
    "__html__": "store str(value), and mark it as safe where it's shown, if it is",
    "interpolate": "translate it first: request.localizer.translate(value)",
}


def _checked(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise InconsistentDataError(
            "the column 'data' of a stored session holds a"
            f" {type(value).__name__} instead of a dict: delete the row"
        )
    return value if type(value) is dict else dict(value)


def _unreadable(reason: str | None, error: Exception) -> InconsistentDataError:
    return InconsistentDataError(
        "the column 'data' of a stored session cannot be read"
        f" ({reason or type(error).__name__}): was it written by another program, or"
        " does its pickle name a class that is gone? Restore the class, or delete the"
        " row; session.invalidate() does that, too"
    )


def _culprit(
    content: Mapping[Any, Any],
    error: Exception,
    form: Callable[[Any], Any],
    what: str,
) -> TypeError:
    """Return an error that names the key whose value can't be stored."""
    for key, value in content.items():
        try:
            form(value)
        except Exception as exc:
            return TypeError(
                f"the session cannot be stored: its value for {shown(key)}, of type"
                f" {type(value).__name__}, is not a {what}: {_reason(exc)}"
            )
    return TypeError(
        f"the session cannot be stored: one of its keys is not a {what}:"
        f" {_reason(error)}"
    )


def _reason(error: Exception) -> str:
    # Pickle's errors may quote the value.
    return (
        type(error).__name__ if isinstance(error, pickle.PicklingError) else str(error)
    )


def _delta(value: timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


#: Type, tag, to JSON, from JSON.
_TAGS: tuple[tuple[type[Any], str, Callable[[Any], Any], Callable[[Any], Any]], ...] = (
    (datetime, "$datetime", datetime.isoformat, datetime.fromisoformat),
    (date, "$date", date.isoformat, date.fromisoformat),
    (time, "$time", time.isoformat, time.fromisoformat),
    (timedelta, "$timedelta", _delta, lambda parts: timedelta(*parts)),
    (Decimal, "$decimal", str, Decimal),
    (UUID, "$uuid", str, UUID),
    (
        bytes,
        "$bytes",
        lambda value: base64.b64encode(value).decode("ascii"),
        lambda text: base64.b64decode(text, validate=True),
    ),
)
_BASES: tuple[type[Any], ...] = (int, float, list, dict)
_FROM_JSON: dict[str, Callable[[Any], Any]] = {
    **{tag: from_json for _, tag, _, from_json in _TAGS},
    "$int": int,
    "$float": float,
}


def _tagged(value: Any, depth: int = 0) -> Any:
    """Return what JSON can hold instead of a value, ``depth`` levels deep."""
    kind: type[Any] = type(value)
    if kind is str or value is None or kind is bool:
        return value
    if kind is float:
        # As a Decimal, one of 17 digits looks like an int: see _from_decimal.
        return {"$float": repr(value)} if 1e16 <= abs(value) < 1e17 else value
    if kind is int:
        # More than 64 bits is too much for some JSON libraries.
        return value if -(2**63) <= value < 2**63 else {"$int": str(value)}
    if depth > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    if kind is list:
        return [_tagged(each, depth + 1) for each in value]
    if kind is tuple:
        return {"$tuple": [_tagged(each, depth + 2) for each in value]}
    if kind is dict:
        if not all(type(key) is str for key in value):
            items = [[key, each] for key, each in value.items()]
            return {"$items": _tagged(items, depth + 1)}
        if _is_tag(value):
            return {"$dict": {k: _tagged(each, depth + 2) for k, each in value.items()}}
        return {key: _tagged(each, depth + 1) for key, each in value.items()}
    for known, tag, to_json, _ in _TAGS:
        if kind is known:
            return {tag: to_json(value)}
    # Subclasses come back as what they are to JSON.
    if isinstance(value, str):
        return str.__str__(value)  # str() of an enum's member says more
    for base in _BASES:
        if isinstance(value, base):
            return _tagged(base(value), depth)
    raise TypeError(f"Object of type {kind.__name__} is not JSON serializable")


def _is_tag(value: dict[str, Any]) -> bool:
    return len(value) == 1 and next(iter(value)).startswith("$")


def _untagged(value: Any) -> Any:
    """Return a new object of the value that the JSON stands for."""
    if isinstance(value, list):
        return [_untagged(each) for each in value]
    if isinstance(value, Decimal):  # an engine with parse_float=Decimal
        return _from_decimal(value)
    if not isinstance(value, dict):
        return value
    if _is_tag(value):
        ((tag, held),) = value.items()
        if tag == "$dict":
            return {key: _untagged(each) for key, each in held.items()}
        if tag == "$tuple":
            return tuple(_untagged(each) for each in held)
        if tag == "$items":
            return {_untagged(key): _untagged(each) for key, each in held}
        from_json = _FROM_JSON.get(tag)
        if from_json is not None:
            return from_json(_untagged(held))
    return {key: _untagged(each) for key, each in value.items()}
