"""The table of settings: for each its type, default and rule, on one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from .exceptions import ConfigurationError
from .setting_kinds import (
    AUTO_FLAG,
    DOMAIN,
    FLAG,
    IDENTIFIER,
    NAME,
    PATH,
    PERCENT,
    PREFIX4,
    PREFIX6,
    SAMESITE,
    SECONDS,
    SHORT,
    SHORT_OR_ZERO,
    Kind,
    optional,
    shown,
    suggest,
)

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


def _setting(
    default: _T, kind: Kind[_T], mixin: str | None = None, runtime: str | None = None
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

    dbsession_name: str = _setting("dbsession", IDENTIFIER)
    cookie_name: str = _setting("session", NAME)
    cookie_max_age: int | None = _setting(None, optional(SECONDS), runtime=_OWN_COOKIE)
    cookie_path: str = _setting("/", PATH, runtime=_OWN_COOKIE)
    cookie_domain: str | None = _setting(None, optional(DOMAIN), runtime=_OWN_COOKIE)
    cookie_secure: bool | None = _setting(None, AUTO_FLAG, runtime=_OWN_COOKIE)
    cookie_httponly: bool = _setting(True, FLAG, runtime=_OWN_COOKIE)
    cookie_samesite: str | None = _setting("Lax", SAMESITE)
    cookie_partitioned: bool = _setting(False, FLAG)
    idle_timeout: int | None = _setting(None, optional(SECONDS), "IdleMixin", _OWN_IDLE)
    absolute_timeout: int | None = _setting(
        None, optional(SECONDS), "AbsoluteMixin", "ConfigAbsoluteMixin"
    )
    renewal_timeout: int | None = _setting(
        None, optional(SECONDS), "RenewalMixin", _OWN_RENEWAL
    )
    renewal_try_every: int = _setting(5, SHORT, "RenewalMixin", _OWN_RENEWAL)
    # It has no mixin: rotations, which every model has, overtake requests, too.
    renewal_grace: int = _setting(60, SHORT_OR_ZERO)
    extension_delay: int | None = _setting(
        None, optional(SHORT), "IdleMixin", _OWN_IDLE
    )
    extension_chance: int = _setting(100, PERCENT, "IdleMixin", _OWN_IDLE)
    extension_deadline: int = _setting(1, SHORT, "IdleMixin", _OWN_IDLE)
    last_seen_delay: int = _setting(300, SHORT, "LastSeenMixin")
    client_address_prefix4: int = _setting(24, PREFIX4, "ClientAddressMixin")
    client_address_prefix6: int = _setting(48, PREFIX6, "ClientAddressMixin")
    encrypted_accept_plain: bool = _setting(False, FLAG, "EncryptedDataMixin")


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

        A value that has been parsed stays the same. Raises ValueError, and nothing
        else, which names the setting (as an ini file does, if there is a prefix), the
        value and what would be valid.
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

    The prefixes are those of RFC 6265bis, section 4.1.3, in upper or lower case, which
    browsers ignore (section 5.4). Partitioned is that of CHIPS
    (draft-cutler-httpbis-partitioned-cookies, section 2.1).
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
    """Return a setting with its value, as in an ini file or (no prefix) Python."""
    spelled = _spelled(name, value, prefix)
    return f"{name}={spelled}" if prefix is None else f"{prefix}{name} = {spelled}"


def _spelled(name: str, value: object, prefix: str | None) -> str:
    if name == "cookie_secure" and value is None:
        value = "auto"
    if prefix is None:
        return shown(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
