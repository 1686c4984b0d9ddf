"""From the settings of an application to the arguments of a session factory."""

from __future__ import annotations

import logging
import secrets
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, literal, or_

from .cookie import CookieAttributes, SessionCookie
from .exceptions import ConfigurationError, InconsistentDataError
from .feature import Feature
from .features import features_of
from .isolation import Isolation
from .model import BASE_COLUMNS, BaseMixin, JSONDataMixin
from .serializer import (
    KEY_SIZES,
    AESGCMSerializer,
    Serializer,
    can_be_guessed,
    key_from_text,
)
from .settings import (
    SETTINGS,
    DefaultSettings,
    assigned,
    parse_settings,
    shown,
    suggest,
)
from .table import Table

__all__ = (
    "TIMEOUTS",
    "SessionConfig",
    "factory_args_from_settings",
    "generate_secret_key",
    "refuse_unknown_settings",
)

log: logging.Logger = logging.getLogger(__name__)

TIMEOUTS = frozenset({"idle_timeout", "absolute_timeout", "renewal_timeout"})
_BY_NAME = {setting.name: setting for setting in SETTINGS}
_REMEDY = "make one with the command pyramid_session_secret"


def factory_args_from_settings(
    settings: Mapping[str, Any],
    maybe_dotted: Callable[[Any], Any],
    prefix: str = "session.",
) -> dict[str, Any]:
    """Return what an application's settings mean as arguments of `get_session_factory`.

    `settings` is what `config.get_settings()` returns, `maybe_dotted` is
    `config.maybe_dotted`: it turns a dotted name into what it names and returns
    anything else unchanged. The result has `serializer`, `model_class`, `prefix`, and
    the other settings that are given, as they are given. A setting that isn't given is
    not in the result (version 0.1.0 put its default there): the factory adds the
    defaults, and refuses what is given for a mixin that the model lacks. `prefix` is
    for the factory's errors, which call a setting what your ini file calls it. Names
    that are unknown or lack the prefix are passed over.

    Raises `ConfigurationError` if the secret key or the model class is missing or
    invalid. Nothing else is checked here: `get_session_factory` does that.
    """
    return {
        "serializer": _serializer(settings, prefix),
        "model_class": _model_class(settings, maybe_dotted, prefix),
        "prefix": prefix,
        **{
            setting.name: settings[prefix + setting.name]
            for setting in SETTINGS
            if prefix + setting.name in settings
        },
    }


def refuse_unknown_settings(
    settings: Mapping[str, Any], prefix: str = "session."
) -> None:
    """Raise `ConfigurationError` for a name with the prefix that is not one of ours."""
    if prefix + "serializer" in settings:
        raise ConfigurationError(
            f"{prefix}serializer cannot be given as a setting; give {prefix}secret_key,"
            " or make the factory by hand with get_session_factory(serializer,"
            " model_class)"
        )
    known = ["secret_key", "model_class", *(setting.name for setting in SETTINGS)]
    for name in settings:
        bare_name = name.removeprefix(prefix)
        if name.startswith(prefix) and bare_name not in known:
            raise ConfigurationError(
                f"{shown(name)} is not a setting; {suggest(bare_name, known, prefix)}"
                " (if another library reads it: make the factory by hand, with"
                " session_factory_from_settings() and another prefix)"
            )


def generate_secret_key(size: int = 32) -> str:
    """Return a random key for the setting `secret_key`, as padded urlsafe base64 text.

    `size` is in bytes: 16, 24 or 32 for AES-128, AES-192 or AES-256. Raises ValueError
    for any other.
    """
    if size not in KEY_SIZES:
        raise ValueError(f"size must be 16, 24 or 32 bytes, not {shown(size)}")
    return urlsafe_b64encode(secrets.token_bytes(size)).decode("ascii")


def _serializer(settings: Mapping[str, Any], prefix: str) -> AESGCMSerializer:
    """Return what the key ring makes; no error ever shows one of the keys."""
    text = settings.get(prefix + "secret_key")
    if text is None or text == "":
        raise ConfigurationError(f"{prefix}secret_key is missing; {_REMEDY}")
    keys = text.split() if isinstance(text, str) else []
    if not keys or None in map(key_from_text, keys):
        raise ConfigurationError(
            f"{prefix}secret_key must be the urlsafe base64 text of 16, 24 or 32 bytes,"
            f" or several such keys separated by white space; {_REMEDY}"
        )
    if any(map(can_be_guessed, keys)):
        raise ConfigurationError(
            f"{prefix}secret_key must be random, but repeats a few characters again and"
            f" again, so that it can be guessed; {_REMEDY}"
        )
    return AESGCMSerializer(keys)


def _model_class(
    settings: Mapping[str, Any], maybe_dotted: Callable[[Any], Any], prefix: str
) -> type[Any]:
    rule = f"{prefix}model_class must be the session model or its dotted name"
    given = settings.get(prefix + "model_class")
    if isinstance(given, str):
        given = given.strip()
    if given is None or given == "":
        raise ConfigurationError(f"{prefix}model_class is missing; {rule}")
    try:
        model_class = maybe_dotted(given)
    except Exception as error:
        # Pyramid raises ValueError and IndexError too, and a module that is imported
        # here may raise anything.
        raise ConfigurationError(
            f"{rule}; {shown(given)} cannot be imported: {_cause(given, error)}"
        ) from error
    if not isinstance(model_class, type):
        raise ConfigurationError(f"{rule}; {shown(given)} is not a class")
    return model_class


def _cause(dotted: object, error: Exception) -> str:
    """Say why a dotted name can't be imported.

    If only its last part is missing, Python talks about a module of that name, although
    the application means a class.
    """
    module_name, _, name = str(dotted).replace(":", ".").rpartition(".")
    module = sys.modules.get(module_name)
    if module is None or hasattr(module, name):
        return str(error)
    if not hasattr(module, "__path__"):
        return f"the module {module_name} has no {name}"
    return (
        f"the package {module_name} has no {name}: import the class in its __init__.py,"
        f" or give the name of its module, too, as in {module_name}.MODULE.{name}"
    )


def _now() -> int:
    return int(time.time())


@dataclass(frozen=True)
class SessionConfig:
    """All that the sessions of one factory have in common, made once at start-up."""

    settings: DefaultSettings
    cookie: SessionCookie
    table: Table
    features: tuple[Feature, ...]
    timeouts: tuple[Feature, ...]  # those that let a session expire
    keepers: tuple[Feature, ...]  # those for which something can be due
    witnesses: tuple[Feature, ...]  # those that note what a request tells
    own_settings: tuple[str, ...]  # those that each session has of its own
    own_columns: tuple[str, ...]  # those that the application changes
    clock: Callable[[], int]
    _kinds: frozenset[type]
    isolation: Isolation = field(default_factory=Isolation, repr=False)
    _warned: set[str] = field(default_factory=set[str], repr=False)

    @classmethod
    def make(
        cls,
        serializer: Serializer,
        model_class: type,
        values: Mapping[str, Any],
        clock: Callable[[], int] = _now,
    ) -> SessionConfig:
        """Check everything, and find out which features the model has.

        `values` are the settings that are given, and perhaps the `prefix` that their
        names have in the ini file, for the errors. Raises ConfigurationError.
        """
        given = dict(values)
        prefix: str | None = given.pop("prefix", None)
        _check_serializer(serializer)
        settings = parse_settings(given, prefix)
        if not (isinstance(model_class, type) and issubclass(model_class, BaseMixin)):
            raise ConfigurationError(
                f"{prefix or ''}model_class must be a mapped class with BaseMixin among"
                f" its bases, not {shown(model_class)}"
            )
        features = features_of(model_class)
        _check_mixins(given, settings, model_class, prefix)
        names = [*BASE_COLUMNS, *(name for each in features for name in each.columns)]
        return cls(
            settings,
            SessionCookie(settings.cookie_name, serializer),
            Table(
                model_class,
                names,
                issubclass(model_class, JSONDataMixin),
                partial(_expired, features, settings),
            ),
            features,
            _those_with("has_expired", features),
            _those_with("due", features),
            _those_with("note", features),
            tuple(name for each in features for name in each.settings),
            tuple(name for each in features for name in each.own_columns),
            clock,
            frozenset(kind for each in features for kind in type(each).__mro__),
        )

    def settings_of(self, values: Mapping[str, Any]) -> DefaultSettings:
        """Return the settings of a session, from the values of its columns.

        Raises InconsistentDataError if there is something in the row that never was a
        setting.
        """
        if not self.own_settings:
            return self.settings
        own: dict[str, Any] = {}
        for feature in self.features:
            for name, value in feature.settings_in(values).items():
                try:
                    own[name] = _BY_NAME[name].parse(value)
                except ValueError:
                    # NULL: the row is older than the column.
                    if value is not None:
                        raise _bad_setting(feature, name) from None
        return replace(self.settings, **own)

    def columns_for(self, settings: DefaultSettings, created: int) -> dict[str, Any]:
        """Return the columns that hold a session's own settings."""
        columns: dict[str, Any] = {}
        for feature in self.features:
            columns.update(feature.columns_for(settings, created))
        return columns

    def cookie_attributes(self, settings: DefaultSettings) -> CookieAttributes:
        """Return the attributes that the settings give to the cookie."""
        return CookieAttributes(
            settings.cookie_max_age,
            settings.cookie_path,
            settings.cookie_domain,
            settings.cookie_secure,
            settings.cookie_httponly,
            settings.cookie_samesite,
            settings.cookie_partitioned,
        )

    def expired(self, now: int) -> ColumnElement[bool] | None:
        """Return the SQL for "expired at the time now"; None if nothing can expire."""
        at = literal(now, BigInteger)
        return _expired(self.features, self.settings, self.table.columns, at)

    @property
    def may_be_lasting(self) -> bool:
        """Whether cookies can have a max-age, so that they have to be sent again."""
        is_own = "cookie_max_age" in self.own_settings
        return is_own or self.settings.cookie_max_age is not None

    def has(self, feature: type[Feature]) -> bool:
        """Tell whether the model has the feature."""
        return feature in self._kinds

    def lacking(self, feature: type[Feature]) -> str:
        """Say that the model does not have the feature, and what to do."""
        return (
            f"the model {self.table.model_class.__qualname__} lacks"
            f" {feature.mixin.__name__}: add it to the bases of the class, and its"
            " columns to the table"
        )

    def warn_once(self, message: str) -> None:
        """Log a warning, the first time only."""
        if message not in self._warned:
            self._warned.add(message)
            log.warning(message)


def _those_with(name: str, features: Iterable[Feature]) -> tuple[Feature, ...]:
    """Return the features that have an answer of their own to a question."""
    default = getattr(Feature, name)
    return tuple(each for each in features if getattr(type(each), name) is not default)


def _bad_setting(feature: Feature, name: str) -> InconsistentDataError:
    """Return the error for what is in the row, without quoting it."""
    source = "" if name in feature.columns else f" (from {feature.columns[-1]})"
    return InconsistentDataError(
        f"the row of this session holds a bad setting: {name}{source} must be"
        f" {_BY_NAME[name].valid}. Was it written by another program? Correct it, or"
        " delete the row"
    )


def _expired(
    features: tuple[Feature, ...],
    settings: DefaultSettings,
    columns: Mapping[str, ColumnElement[Any]],
    now: ColumnElement[int],
) -> ColumnElement[bool] | None:
    conditions = [feature.expired(columns, settings, now) for feature in features]
    enabled = [each for each in conditions if each is not None]
    return or_(*enabled) if enabled else None


def _check_serializer(serializer: object) -> None:
    # A class has the methods, too, and fails at the first cookie. The error doesn't
    # show the value: it may be the key.
    if isinstance(serializer, type) or not all(
        callable(getattr(serializer, name, None)) for name in ("dumps", "loads")
    ):
        given = "a class" if isinstance(serializer, type) else type(serializer).__name__
        raise ConfigurationError(
            "serializer must be an object with the methods dumps and loads, such as"
            f" AESGCMSerializer(key), not {given}"
        )


def _check_mixins(
    given: Mapping[str, Any],
    settings: DefaultSettings,
    model_class: type,
    prefix: str | None,
) -> None:
    """Refuse what is given for a mixin that the model lacks.

    Whatever the value: whoever gives it believes that it does something.
    """
    mixins = {base.__name__ for base in model_class.__mro__}
    for setting in SETTINGS:
        value = getattr(settings, setting.name)
        if setting.mixin is None:
            continue
        if setting.mixin in mixins:
            if value is None and setting.name in TIMEOUTS:
                log.info(
                    "%s has %s, but the setting %s is not set, so this timeout is off.",
                    model_class.__qualname__,
                    setting.mixin,
                    setting.name,
                )
        elif setting.name in given:
            raise ConfigurationError(
                f"{assigned(setting.name, value, prefix)} is given, but the model"
                f" {model_class.__qualname__} lacks {setting.mixin}: add it to the"
                " bases of the class, and its columns to the table, or leave the"
                " setting out"
            )
