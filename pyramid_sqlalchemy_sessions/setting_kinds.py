"""What a setting may hold: in words, and as code."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pyramid.settings import falsey, truthy

__all__ = [
    "AUTO_FLAG",
    "DOMAIN",
    "FLAG",
    "IDENTIFIER",
    "LONGEST",
    "NAME",
    "PATH",
    "PERCENT",
    "PREFIX4",
    "PREFIX6",
    "SAMESITE",
    "SECONDS",
    "SHORT",
    "SHORT_OR_ZERO",
    "Kind",
    "optional",
    "shown",
    "suggest",
]


_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Kind(Generic[_T]):
    """What a setting may hold, in words and as code.

    `convert` takes ini text or a Python value. It raises ValueError without a message:
    `valid` is the text for that.
    """

    valid: str
    convert: Callable[[object], _T]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value.strip()


def _matching(pattern: str, valid: str) -> Kind[str]:
    def convert(value: object) -> str:
        text = _text(value)
        if not re.fullmatch(pattern, text):
            raise ValueError
        return text

    return Kind(valid, convert)


def _whole_number(low: int, high: int, unit: str) -> Kind[int]:
    def convert(value: object) -> int:
        # int() alone would take "1_000", "+5" and the digits of other scripts.
        if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value.strip()):
            value = int(value)
        if (
            isinstance(value, bool)
            or not isinstance(value, int)
            or not low <= value <= high
        ):
            raise ValueError
        return int(value)

    return Kind(f"a whole number ({unit}) from {low} to {high}", convert)


def optional(kind: Kind[_T]) -> Kind[_T | None]:
    def convert(value: object) -> _T | None:
        if value is None or (
            isinstance(value, str) and value.strip().lower() in ("", "none")
        ):
            return None
        return kind.convert(value)

    return Kind(f"{kind.valid}, or None", convert)


def _identifier_text(value: object) -> str:
    text = _text(value)
    if not text.isidentifier() or keyword.iskeyword(text):
        raise ValueError
    return text


def _flag_value(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = _text(value).lower()
    if text not in truthy and text not in falsey:
        raise ValueError
    return text in truthy


def _auto_flag_value(value: object) -> bool | None:
    if value is None or (isinstance(value, str) and value.strip().lower() == "auto"):
        return None
    return _flag_value(value)


def _samesite_text(value: object) -> str | None:
    spellings = {"lax": "Lax", "strict": "Strict", "none": "None", "": None}
    text = "" if value is None else _text(value).lower()
    if text not in spellings:
        raise ValueError
    return spellings[text]


def _domain_text(value: object) -> str:
    text = _text(value)
    if len(text) > 255 or not re.fullmatch(r"\.?[\w-]+(\.[\w-]+)*", text, re.ASCII):
        raise ValueError
    # Browsers read a host whose last label is a number as an IPv4 address (WHATWG URL,
    # "ends in a number"), and an address has no domain to share a cookie with.
    if re.fullmatch("[0-9]+|0[xX][0-9a-fA-F]*", text.rpartition(".")[2]):
        raise ValueError
    return text


# A token of RFC 6265. WebOb refuses a leading $ and the names of its attributes.
_COOKIE_NAME = (
    r"(?!\$)"
    r"(?!(?i:comment|domain|expires|httponly|max-age|path|samesite|secure)\Z)"
    r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+"
)
# WebOb fails on all other characters, or replaces them with a backslash and digits, so
# that the browser would keep a cookie for a path or domain that doesn't exist and never
# send it back.
_SENDABLE = r"A-Za-z0-9!#$%&'()*+\-./:<=>?@\[\]^_`{|}~"
_SENDABLE_WORDS = 'ASCII characters other than control characters and " , ; \\'

IDENTIFIER = Kind("a Python identifier", _identifier_text)
NAME = _matching(
    _COOKIE_NAME,
    "a cookie name of RFC 6265 (ASCII letters, digits and !#$%&'*+-.^_`|~) that neither"
    " starts with $ nor is the name of a cookie attribute",
)
PATH = _matching(
    rf"/[ {_SENDABLE}]{{0,254}}",
    f"a path that starts with / and has up to 255 {_SENDABLE_WORDS}",
)
DOMAIN = Kind(
    "a host name of 1 to 255 ASCII letters, digits, hyphens and dots, such as"
    " example.com (no http://, no port, no IP address)",
    _domain_text,
)
FLAG = Kind("true or false", _flag_value)
AUTO_FLAG = Kind("true, false or auto", _auto_flag_value)
SAMESITE = Kind("Lax, Strict, None or empty", _samesite_text)
#: The longest time in seconds: three years.
LONGEST = 100_000_000
SECONDS = _whole_number(1, LONGEST, "seconds")
SHORT = _whole_number(1, 32767, "seconds")
SHORT_OR_ZERO = _whole_number(0, 32767, "seconds")
PERCENT = _whole_number(1, 100, "percent")
PREFIX4 = _whole_number(0, 32, "bits")
PREFIX6 = _whole_number(0, 128, "bits")


def suggest(name: str, known: Sequence[str], prefix: str = "") -> str:
    """Return a hint for an unknown name: the most similar known one, or else all."""
    from difflib import get_close_matches  # only errors need it

    similar = get_close_matches(name.lower(), known, n=1)
    if similar:
        return f"did you mean {prefix}{similar[0]}?"
    return f"the known names are {', '.join(prefix + name for name in known)}"


def shown(value: object) -> str:
    """Return the repr of a value for an error message, in 100 characters at most."""
    try:
        text = repr(value)
    except Exception:
        # That may fail for users' own classes, and for integers of more than 4300
        # digits.
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 100 else f"{text[:99]}…"
