"""What the sessions of one factory have in common."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, case, literal, or_

from .cookie import CookieAttributes, SessionCookie
from .exceptions import ConfigurationError, InconsistentDataError
from .feature import Feature
from .features import features_of
from .isolation import Isolation
from .model import BASE_COLUMNS, BaseMixin, EncryptedDataMixin, JSONDataMixin
from .sealing import Seal
from .serializer import Serializer, keys_of
from .setting_kinds import shown
from .settings import SETTINGS, DefaultSettings, assigned, parse_settings
from .table import Table

__all__ = ["TIMEOUTS", "SessionConfig"]

log: logging.Logger = logging.getLogger(__name__)

TIMEOUTS = frozenset({"idle_timeout", "absolute_timeout", "renewal_timeout"})
_MOST_WARNINGS = 100
_BY_NAME = {setting.name: setting for setting in SETTINGS}


def _now() -> int:
    return int(time.time())


@dataclass(frozen=True)
class SessionConfig:
    """What the sessions of one factory have in common, made once at start-up."""

    settings: DefaultSettings
    cookie: SessionCookie
    table: Table
    features: tuple[Feature, ...]
    timeouts: tuple[Feature, ...]  # those that let a session expire
    keepers: tuple[Feature, ...]  # those for which something can be due
    restarters: tuple[Feature, ...]  # those that start again with other settings
    witnesses: tuple[Feature, ...]  # those that note something of a request
    own_settings: tuple[str, ...]  # those that each session has for itself
    own_columns: tuple[str, ...]  # those that the application changes
    setting_columns: tuple[str, ...]  # those of them that hold own settings
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

        `values` are the settings that are given, perhaps with `data_keys`, and with the
        `prefix` that names have in the ini file, which is for the errors. Raises
        ConfigurationError.
        """
        given = dict(values)
        prefix: str | None = given.pop("prefix", None)
        data_keys: object = given.pop("data_keys", None)
        _check_serializer(serializer)
        settings = parse_settings(given, prefix)
        if not (isinstance(model_class, type) and issubclass(model_class, BaseMixin)):
            raise ConfigurationError(
                f"{prefix or ''}model_class must be a mapped class with BaseMixin among"
                f" its bases, not {shown(model_class)}"
            )
        if settings.cookie_samesite == "None" and not settings.cookie_partitioned:
            log.warning(
                "%s, but not %s: in frames on other sites, more and more browsers don't"
                " send cookies that aren't partitioned. If this site isn't shown in"
                " such frames, it doesn't need cookie_samesite = None at all.",
                assigned("cookie_samesite", "None", prefix),
                assigned("cookie_partitioned", True, prefix),
            )
        features = features_of(model_class)
        _check_mixins(given, settings, model_class, prefix)
        names = [*BASE_COLUMNS, *(name for each in features for name in each.columns)]
        is_json = issubclass(model_class, JSONDataMixin)
        seal = _seal_of(model_class, data_keys, settings.encrypted_accept_plain)
        expired = partial(_expired, features, settings)
        try:
            table = Table(model_class, names, is_json, seal, expired)
        except ConfigurationError as exc:
            raise ConfigurationError(f"{prefix or ''}model_class: {exc}") from exc
        return cls(
            settings,
            SessionCookie(settings.cookie_name, serializer),
            table,
            features,
            _those_with("has_expired", features),
            _those_with("due", features),
            _those_with("restart", features),
            _those_with("note", features),
            tuple(name for each in features for name in each.settings),
            tuple(name for each in features for name in each.own_columns),
            tuple(n for each in features if each.settings for n in each.own_columns),
            clock,
            frozenset(kind for each in features for kind in type(each).__mro__),
        )

    def settings_of(self, values: Mapping[str, Any]) -> DefaultSettings:
        """Return the settings of a session, from the values of its columns.

        Raises InconsistentDataError if the row holds something that can't be a setting.
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

    def columns_for(
        self, settings: DefaultSettings, names: Container[str], since: int
    ) -> dict[str, Any]:
        """Return the columns that hold a session's own settings with these names."""
        columns: dict[str, Any] = {}
        for feature in self.features:
            if any(name in names for name in feature.settings):
                columns.update(feature.columns_for(settings, since))
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
        """Return the SQL for "expired at ``now``", or None if nothing can expire."""
        at = literal(now, BigInteger)
        return _expired(self.features, self.settings, self.table.columns, at)

    def cause(self, now: int) -> ColumnElement[str]:
        """Return the SQL for the cause of a session's expiry, at ``now``."""
        columns, at = self.table.columns, literal(now, BigInteger)
        conditions = [
            (each.expired(columns, self.settings, at), each.cause)
            for each in self.timeouts
        ]
        known = [
            (is_over, cause) for is_over, cause in conditions if is_over is not None
        ]
        return case(*known)

    @cached_property
    def may_be_lasting(self) -> bool:
        """Whether cookies can have a max-age, so that they have to be sent again."""
        is_own = "cookie_max_age" in self.own_settings
        return is_own or self.settings.cookie_max_age is not None

    def has(self, feature: type[Feature]) -> bool:
        """Tell whether the model has the feature."""
        return feature in self._kinds

    def lacking(self, feature: type[Feature]) -> str:
        """Say that the model doesn't have the feature, and what to do."""
        return (
            f"the model {self.table.model_class.__qualname__} lacks"
            f" {feature.mixin.__name__}: add it to the bases of the class, and its"
            " columns to the table"
        )

    def warn_once(self, message: str, level: int = logging.WARNING) -> None:
        """Log a message the first time only, and not too many different ones."""
        if message not in self._warned and len(self._warned) < _MOST_WARNINGS:
            self._warned.add(message)
            log.log(level, message)


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


def _seal_of(model_class: type, data_keys: object, accepts_plain: bool) -> Seal | None:
    is_encrypted = issubclass(model_class, EncryptedDataMixin)
    if is_encrypted and data_keys is not None:
        return Seal(keys_of(data_keys, "data_keys"), accepts_plain)
    if is_encrypted:
        raise ConfigurationError(
            f"the model {model_class.__qualname__} has EncryptedDataMixin, so the"
            " factory needs data_keys: the keys of secret_key, the first of which"
            " encrypts (factory_args_from_settings() gives them)"
        )
    if data_keys is not None:
        raise ConfigurationError(
            f"data_keys is given, but the model {model_class.__qualname__} lacks"
            " EncryptedDataMixin: add it to the bases of the class, and migrate the"
            " table, or leave data_keys out"
        )
    return None


def _check_mixins(
    given: Mapping[str, Any],
    settings: DefaultSettings,
    model_class: type,
    prefix: str | None,
) -> None:
    """Refuse a setting that's given for a mixin that the model lacks.

    That's so whatever its value, because it wouldn't do anything.
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
