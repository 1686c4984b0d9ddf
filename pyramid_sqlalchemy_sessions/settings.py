"""The table of settings: for each its type, default and rule, on one line."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Generic, TypeVar

from pyramid.settings import falsey, truthy

from .exceptions import ConfigurationError

__all__ = (
    "SETTINGS",
    "DefaultSettings",
    "Setting",
    "check_combination",
    "parse_settings",
    "shown",
    "suggest",
)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Kind(Generic[_T]):
    """What a setting may hold, in words and as code.

    `convert` takes ini text or a Python value. The ValueError that it raises is without
    words: `valid` has them.
    """

    valid: str
    convert: Callable[[object], _T]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value.strip()


def _matching(pattern: str, valid: str) -> _Kind[str]:
    def convert(value: object) -> str:
        text = _text(value)
        if not re.fullmatch(pattern, text):
            raise ValueError
        return text

    return _Kind(valid, convert)


def _whole_number(low: int, high: int, unit: str) -> _Kind[int]:
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

    return _Kind(f"a whole number ({unit}) from {low} to {high}", convert)


def _optional(kind: _Kind[_T]) -> _Kind[_T | None]:
    def convert(value: object) -> _T | None:
        if value is None or (
            isinstance(value, str) and value.strip().lower() in ("", "none")
        ):
            return None
        return kind.convert(value)

    return _Kind(f"{kind.valid}, or None", convert)


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
# WebOb fails on all other characters, or replaces them by a backslash and digits, so
# that the browser would keep a cookie for a path or domain that does not exist and
# never send it back.
_SENDABLE = r"A-Za-z0-9!#$%&'()*+\-./:<=>?@\[\]^_`{|}~"
_SENDABLE_WORDS = 'ASCII characters other than control characters and " , ; \\'

_IDENTIFIER = _Kind("a Python identifier", _identifier_text)
_NAME = _matching(
    _COOKIE_NAME,
    "a cookie name of RFC 6265 (ASCII letters, digits and !#$%&'*+-.^_`|~) that neither"
    " starts with $ nor is the name of a cookie attribute",
)
_PATH = _matching(
    rf"/[ {_SENDABLE}]{{0,254}}",
    f"a path that starts with / and has up to 255 {_SENDABLE_WORDS}",
)
_DOMAIN = _Kind(
    "a host name of 1 to 255 ASCII letters, digits, hyphens and dots, such as"
    " example.com (no http://, no port, no IP address)",
    _domain_text,
)
_FLAG = _Kind("true or false", _flag_value)
_AUTO_FLAG = _Kind("true, false or auto", _auto_flag_value)
_SAMESITE = _Kind("Lax, Strict, None or empty", _samesite_text)
_SECONDS = _whole_number(1, 100_000_000, "seconds")
_SHORT = _whole_number(1, 32767, "seconds")
_SHORT_OR_ZERO = _whole_number(0, 32767, "seconds")
_PERCENT = _whole_number(1, 100, "percent")
_PREFIX4 = _whole_number(0, 32, "bits")
_PREFIX6 = _whole_number(0, 128, "bits")


def _setting(
    default: _T, kind: _Kind[_T], mixin: str | None = None, runtime: str | None = None
) -> _T:
    return field(
        default=default,
        metadata={
            "valid": kind.valid,
            "convert": kind.convert,
            "mixin": mixin,
            "runtime": runtime,
        },
    )


_OWN_COOKIE = "ConfigCookieMixin"
_OWN_IDLE = "ConfigIdleMixin"
_OWN_RENEWAL = "ConfigRenewalMixin"


@dataclass(frozen=True, slots=True)
class DefaultSettings:
    """Hold the settings of one session factory, from which its sessions start.

    Each line is one setting: name, type, default, kind, the mixin that it belongs to
    (without that mixin it can't be given), and the mixin with which a session can have
    its own value. Times are in seconds. `cookie_secure` None means `auto`: Secure if
    the request's scheme is https. `cookie_samesite` None leaves the attribute out; the
    text "None" means SameSite=None.

    The constructor checks nothing; `parse_settings` does.
    """

    dbsession_name: str = _setting("dbsession", _IDENTIFIER)
    cookie_name: str = _setting("session", _NAME)
    cookie_max_age: int | None = _setting(
        None, _optional(_SECONDS), runtime=_OWN_COOKIE
    )
    cookie_path: str = _setting("/", _PATH, runtime=_OWN_COOKIE)
    cookie_domain: str | None = _setting(None, _optional(_DOMAIN), runtime=_OWN_COOKIE)
    cookie_secure: bool | None = _setting(None, _AUTO_FLAG, runtime=_OWN_COOKIE)
    cookie_httponly: bool = _setting(True, _FLAG, runtime=_OWN_COOKIE)
    cookie_samesite: str | None = _setting("Lax", _SAMESITE)
    cookie_partitioned: bool = _setting(False, _FLAG)
    idle_timeout: int | None = _setting(
        None, _optional(_SECONDS), "IdleMixin", _OWN_IDLE
    )
    absolute_timeout: int | None = _setting(
        None, _optional(_SECONDS), "AbsoluteMixin", "ConfigAbsoluteMixin"
    )
    renewal_timeout: int | None = _setting(
        None, _optional(_SECONDS), "RenewalMixin", _OWN_RENEWAL
    )
    renewal_try_every: int = _setting(5, _SHORT, "RenewalMixin", _OWN_RENEWAL)
    # Of no mixin: a rotation, which every model has, leaves requests on their way, too.
    renewal_grace: int = _setting(60, _SHORT_OR_ZERO)
    extension_delay: int | None = _setting(
        None, _optional(_SHORT), "IdleMixin", _OWN_IDLE
    )
    extension_chance: int = _setting(100, _PERCENT, "IdleMixin", _OWN_IDLE)
    extension_deadline: int = _setting(1, _SHORT, "IdleMixin", _OWN_IDLE)
    last_seen_delay: int = _setting(300, _SHORT, "LastSeenMixin")
    client_address_prefix4: int = _setting(24, _PREFIX4, "ClientAddressMixin")
    client_address_prefix6: int = _setting(48, _PREFIX6, "ClientAddressMixin")


@dataclass(frozen=True, slots=True)
class Setting:
    """Describe one setting.

    `valid` is its rule in words. `mixin` names the model mixin that it belongs to,
    `runtime` the one with which a session can have its own value; each is None if there
    is no such mixin.
    """

    name: str
    default: object
    valid: str
    convert: Callable[[object], Any]
    mixin: str | None
    runtime: str | None

    def parse(self, value: object, prefix: str | None = None) -> Any:
        """Return the value that an ini text or a Python value stands for.

        What was parsed once is parsed into itself. Raises ValueError, and nothing else,
        which names the setting (as an ini file does, if there is a prefix), the value
        and what would be valid.
        """
        try:
            return self.convert(value)
        except ValueError:
            raise ValueError(
                f"{prefix or ''}{self.name} must be {self.valid}, not {shown(value)}"
            ) from None


SETTINGS: tuple[Setting, ...] = tuple(
    Setting(line.name, line.default, **line.metadata)
    for line in fields(DefaultSettings)
)


def parse_settings(
    values: Mapping[str, object], prefix: str | None = None
) -> DefaultSettings:
    """Check the settings that an application gives, and add the defaults.

    The values are ini texts or Python values. Raises `ConfigurationError`, and nothing
    else, for an unknown name, an invalid value or an invalid combination. With a prefix
    the error spells settings as an ini file does, otherwise as Python does.
    """
    known = [setting.name for setting in SETTINGS]
    for name in values:
        if name not in known:
            hint = suggest(name, known, prefix or "")
            raise ConfigurationError(f"{shown(name)} is not a setting; {hint}")
    try:
        settings = DefaultSettings(
            **{
                setting.name: setting.parse(values[setting.name], prefix)
                for setting in SETTINGS
                if setting.name in values
            }
        )
        check_combination(settings, prefix)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    return settings


def check_combination(settings: DefaultSettings, prefix: str | None = None) -> None:
    """Raise ValueError if settings that are valid one by one contradict each other.

    Those of one session are checked as `dataclasses.replace(defaults, **own)`. The
    prefix is that of `parse_settings`.
    """
    start = prefix or ""

    def demand_less(less: str, more: str, reason: str = "") -> None:
        low, high = getattr(settings, less), getattr(settings, more)
        if low is not None and high is not None and low >= high:
            raise ValueError(
                f"{start}{less} ({low}) must be less than {start}{more} ({high})"
                f"{reason}"
            )

    demand_less("idle_timeout", "absolute_timeout")
    demand_less("extension_delay", "idle_timeout")
    if settings.extension_chance < 100:
        reason = f" when {start}extension_chance is below 100"
        demand_less("extension_deadline", "idle_timeout", reason)
        demand_less("extension_delay", "extension_deadline", reason)
    for reason, name, demanded in _browsers_demand(settings):
        value = getattr(settings, name)
        if value != demanded:
            raise ValueError(
                f"{start}{reason} needs {assigned(name, demanded, prefix)}; now it is"
                f" {_spelled(name, value, prefix)}"
            )


def _browsers_demand(settings: DefaultSettings) -> Iterator[tuple[str, str, object]]:
    """Yield reason, setting and value of what browsers insist on for our cookie.

    The prefixes are those of RFC 6265bis, section 4.1.3, in any case: browsers ignore
    it (section 5.4). Partitioned is that of CHIPS (draft-cutler-httpbis-partitioned-
    cookies, section 2.1).
    """
    if settings.cookie_samesite == "None":
        yield "cookie_samesite with the value None", "cookie_secure", True
    if settings.cookie_partitioned:
        yield "cookie_partitioned", "cookie_secure", True
    name = settings.cookie_name.lower()
    if name.startswith("__secure-"):
        yield "cookie_name with __Secure- in front", "cookie_secure", True
    if name.startswith("__host-"):
        reason = "cookie_name with __Host- in front"
        yield reason, "cookie_secure", True
        yield reason, "cookie_path", "/"
        yield reason, "cookie_domain", None


def assigned(name: str, value: object, prefix: str | None = None) -> str:
    """Return a setting with its value, as an ini file or (no prefix) Python has it."""
    spelled = _spelled(name, value, prefix)
    return f"{name}={spelled}" if prefix is None else f"{prefix}{name} = {spelled}"


def _spelled(name: str, value: object, prefix: str | None) -> str:
    if name == "cookie_secure" and value is None:
        value = "auto"
    if prefix is None:
        return shown(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def suggest(name: str, known: Sequence[str], prefix: str = "") -> str:
    """Return a hint for an unknown name: the most similar known one, or else all."""
    from difflib import get_close_matches  # only errors need it

    similar = get_close_matches(name.lower(), known, n=1)
    if similar:
        return f"did you mean {prefix}{similar[0]}?"
    return f"known are {', '.join(prefix + name for name in known)}"


def shown(value: object) -> str:
    """Return the repr of a value for an error message, in 100 characters at most."""
    try:
        text = repr(value)
    except Exception:
        # Users' own classes, and integers of more than 4300 digits.
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 100 else f"{text[:99]}…"
