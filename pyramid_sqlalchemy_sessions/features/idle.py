"""The idle timeout: a session ends when it has not been used for a while."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import BigInteger, ColumnElement, Integer, case
from sqlalchemy.orm import Mapped, mapped_column

from ..cookie import Ticket
from ..exceptions import InconsistentDataError
from ..feature import Feature, Verdict
from ..record import Record
from ..settings import DefaultSettings
from ..visit import Visit

__all__ = ["ConfigIdle", "ConfigIdleMixin", "Idle", "IdleMixin"]


class IdleMixin:
    """Let sessions end when they have not been used for ``idle_timeout`` seconds.

    (OWASP ASVS 5.0, 7.3.1: an inactivity timeout.)
    """

    if TYPE_CHECKING:
        idle_expire: Mapped[int | None]

    #: The last second of the session, unless it is used before.
    idle_expire = mapped_column(BigInteger)


class ConfigIdleMixin(IdleMixin):
    """Let each session have its own idle timeout. NULL: none."""

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
    """Whoever uses a session extends it: a write always, a read now and then."""

    mixin: ClassVar[type] = IdleMixin
    cause = "idle"
    columns: ClassVar[tuple[str, ...]] = ("idle_expire",)

    def begin(self, record: Record, now: int) -> None:
        timeout = record.settings.idle_timeout
        record.values["idle_expire"] = None if timeout is None else now + timeout

    def check(self, record: Record, ticket: Ticket, now: int) -> Verdict:
        if record.settings.idle_timeout is None:
            return Verdict.VALID
        expire = record.values["idle_expire"]
        if expire is None:
            raise InconsistentDataError(
                "idle_timeout is set, but idle_expire is NULL in the row of this"
                " session, which was stored while there was no timeout: set the"
                " column in such rows, or delete them (see 'Switching a timeout on'"
                " in the documentation)"
            )
        return Verdict.EXPIRED if now > expire else Verdict.VALID

    def act(self, visit: Visit, record: Record) -> None:
        settings = record.settings
        timeout = settings.idle_timeout
        if timeout is None:
            return
        now: int = visit.now
        expire: int = record.values["idle_expire"] or now
        if now + timeout > expire and (
            record.active
            or _is_due(settings, now - (expire - timeout))
            or record.may_differ()
        ):
            record.extension = now + timeout
            record.pending = True
            visit.is_to_resend = settings.cookie_max_age is not None

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
    """The same, with the timeout that the session has."""

    mixin = ConfigIdleMixin
    settings: ClassVar[tuple[str, ...]] = (
        "idle_timeout",
        "extension_delay",
        "extension_chance",
        "extension_deadline",
    )
    columns: ClassVar[tuple[str, ...]] = ("idle_expire", *settings)

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


def _is_due(settings: DefaultSettings, passed: int) -> bool:
    """Tell whether a read extends, ``passed`` seconds after the last extension."""
    if settings.extension_delay is not None and passed <= settings.extension_delay:
        return False
    return (
        settings.extension_chance == 100
        or passed > settings.extension_deadline
        or secrets.randbelow(100) < settings.extension_chance
    )
