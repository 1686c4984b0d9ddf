"""The idle timeout: a session ends when it hasn't been used for a while."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import BigInteger, ColumnElement, Integer, case
from sqlalchemy.orm import Mapped, mapped_column

from ..feature import Due, Feature, Use, Values
from ..settings import DefaultSettings

__all__ = ["ConfigIdle", "ConfigIdleMixin", "Idle", "IdleMixin"]


class IdleMixin:
    """Let sessions end when they haven't been used for ``idle_timeout`` seconds.

    (OWASP ASVS 5.0, 7.3.1: an inactivity timeout.)
    """

    if TYPE_CHECKING:
        idle_expire: Mapped[int | None]

    #: The last second of the session, unless it's used before then.
    idle_expire = mapped_column(BigInteger)


class ConfigIdleMixin(IdleMixin):
    """Let each session have its own idle timeout. NULL means none."""

    if TYPE_CHECKING:
        idle_timeout: Mapped[int | None]
        extension_delay: Mapped[int | None]
        extension_chance: Mapped[int | None]
        extension_deadline: Mapped[int | None]

    idle_timeout = mapped_column(Integer)
    extension_delay = mapped_column(Integer)
    extension_chance = mapped_column(Integer)
    extension_deadline = mapped_column(Integer)


class Idle(Feature):
    """Using a session extends it: a write always does, and a read now and then."""

    mixin: ClassVar[type] = IdleMixin
    cause = "idle"
    columns: ClassVar[tuple[str, ...]] = ("idle_expire",)

    def begin(self, settings: DefaultSettings, now: int) -> dict[str, Any]:
        timeout = settings.idle_timeout
        return {"idle_expire": None if timeout is None else now + timeout}

    def ends(self, values: Values, settings: DefaultSettings) -> int | None:
        # NULL: the timeout was switched on after the row was written.
        return None if settings.idle_timeout is None else values["idle_expire"]

    def has_expired(self, values: Values, settings: DefaultSettings, now: int) -> bool:
        end = self.ends(values, settings)
        return end is not None and now > end

    def due(self, values: Values, settings: DefaultSettings, use: Use) -> Due | None:
        timeout, expire = settings.idle_timeout, values["idle_expire"]
        if timeout is None:
            return None
        extended = use.now + timeout
        if expire is not None:
            passed = extended - expire
            is_due = use.is_write or _is_due(settings, use, passed)
            if not (use.extends and passed > 0 and is_due):
                return None
        return Due({}, {}, extend_to=extended)

    def expired(
        self,
        columns: Mapping[str, ColumnElement[Any]],
        settings: DefaultSettings,
        now: ColumnElement[int],
    ) -> ColumnElement[bool] | None:
        return None if settings.idle_timeout is None else _is_over(columns, now)

    def extended(
        self,
        columns: Mapping[str, ColumnElement[Any]],
        settings: DefaultSettings,
        now: ColumnElement[int],
    ) -> dict[str, ColumnElement[Any]]:
        if settings.idle_timeout is None:
            return {}
        return _later(columns, now + settings.idle_timeout)


class ConfigIdle(Idle):
    """The same, with the session's own timeout."""

    mixin = ConfigIdleMixin
    settings: ClassVar[tuple[str, ...]] = (
        "idle_timeout",
        "extension_delay",
        "extension_chance",
        "extension_deadline",
    )
    columns: ClassVar[tuple[str, ...]] = ("idle_expire", *settings)
    own_columns: ClassVar[tuple[str, ...]] = settings

    def due(self, values: Values, settings: DefaultSettings, use: Use) -> Due | None:
        due = super().due(values, settings, use)
        # Another request may just have made the timeout shorter.
        return due and due._replace(guard={"idle_timeout": values["idle_timeout"]})

    def restart(
        self, values: Values, settings: DefaultSettings, now: int
    ) -> dict[str, Any]:
        is_same = values["idle_timeout"] == settings.idle_timeout
        return {} if is_same else self.begin(settings, now)

    def expired(
        self,
        columns: Mapping[str, ColumnElement[Any]],
        settings: DefaultSettings,
        now: ColumnElement[int],
    ) -> ColumnElement[bool] | None:
        return columns["idle_timeout"].is_not(None) & _is_over(columns, now)

    def extended(
        self,
        columns: Mapping[str, ColumnElement[Any]],
        settings: DefaultSettings,
        now: ColumnElement[int],
    ) -> dict[str, ColumnElement[Any]]:
        return _later(columns, now + columns["idle_timeout"])


def _is_over(
    columns: Mapping[str, ColumnElement[Any]], now: ColumnElement[int]
) -> ColumnElement[bool]:
    return columns["idle_expire"].is_not(None) & (columns["idle_expire"] < now)


def _later(
    columns: Mapping[str, ColumnElement[Any]], expire: ColumnElement[int]
) -> dict[str, ColumnElement[Any]]:
    """Let the session expire then, unless it already expires later."""
    present = columns["idle_expire"]
    return {"idle_expire": case((present > expire, present), else_=expire)}


def _is_due(settings: DefaultSettings, use: Use, passed: int) -> bool:
    """Tell whether a read extends, ``passed`` seconds after the last extension."""
    if settings.extension_delay is not None and passed <= settings.extension_delay:
        return False
    return (
        settings.extension_chance == 100
        or passed > settings.extension_deadline
        or use.draw() < settings.extension_chance
    )
