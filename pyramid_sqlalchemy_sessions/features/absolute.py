"""The absolute timeout: a session ends some time after it began, no matter what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import BigInteger, ColumnElement
from sqlalchemy.orm import Mapped, mapped_column

from ..feature import Feature, Values
from ..setting_kinds import LONGEST
from ..settings import DefaultSettings

__all__ = ["Absolute", "AbsoluteMixin", "ConfigAbsolute", "ConfigAbsoluteMixin"]


class AbsoluteMixin:
    """Let sessions end ``absolute_timeout`` seconds after they were made.

    (OWASP ASVS 5.0, 7.3.2: an absolute maximum session lifetime.)
    """


class ConfigAbsoluteMixin(AbsoluteMixin):
    """Let each session have its own absolute timeout. NULL means none."""

    if TYPE_CHECKING:
        absolute_expire: Mapped[int | None]

    #: The last second of the session.
    absolute_expire = mapped_column(BigInteger)


class Absolute(Feature):
    """However much a session is used, it ends."""

    mixin: ClassVar[type] = AbsoluteMixin
    cause = "absolute"

    def ends(self, values: Values, settings: DefaultSettings) -> int | None:
        timeout = settings.absolute_timeout
        return None if timeout is None else values["created"] + timeout

    def has_expired(self, values: Values, settings: DefaultSettings, now: int) -> bool:
        end = self.ends(values, settings)
        return end is not None and now > end

    def expired(
        self,
        columns: Mapping[str, ColumnElement[Any]],
        settings: DefaultSettings,
        now: ColumnElement[int],
    ) -> ColumnElement[bool] | None:
        if settings.absolute_timeout is None:
            return None
        return columns["created"] < now - settings.absolute_timeout


class ConfigAbsolute(Absolute):
    """The same, with the session's own end."""

    mixin = ConfigAbsoluteMixin
    columns: ClassVar[tuple[str, ...]] = ("absolute_expire",)
    own_columns: ClassVar[tuple[str, ...]] = columns
    settings: ClassVar[tuple[str, ...]] = ("absolute_timeout",)

    def settings_in(self, values: Values) -> dict[str, Any]:
        expire = values["absolute_expire"]
        if expire is None:
            return {"absolute_timeout": None}
        # If it was set again later, it may be longer than a timeout could be at first.
        return {"absolute_timeout": min(expire - values["created"], LONGEST)}

    def columns_for(self, settings: DefaultSettings, since: int) -> dict[str, Any]:
        timeout = settings.absolute_timeout
        return {"absolute_expire": None if timeout is None else since + timeout}

    def ends(self, values: Values, settings: DefaultSettings) -> int | None:
        end: int | None = values["absolute_expire"]
        return end

    def expired(
        self,
        columns: Mapping[str, ColumnElement[Any]],
        settings: DefaultSettings,
        now: ColumnElement[int],
    ) -> ColumnElement[bool] | None:
        expire = columns["absolute_expire"]
        return expire.is_not(None) & (expire < now)
