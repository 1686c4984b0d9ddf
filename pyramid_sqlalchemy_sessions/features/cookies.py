"""The attributes of the cookie, which each session can have for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sqlalchemy import Boolean, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from ..feature import Feature

__all__ = ["ConfigCookie", "ConfigCookieMixin"]


class ConfigCookieMixin:
    """Let each session have its own cookie attributes: max-age, path, domain, flags.

    ``cookie_secure`` NULL stands for ``auto``.
    """

    if TYPE_CHECKING:
        cookie_max_age: Mapped[int | None]
        cookie_path: Mapped[str | None]
        cookie_domain: Mapped[str | None]
        cookie_secure: Mapped[bool | None]
        cookie_httponly: Mapped[bool | None]

    cookie_max_age = mapped_column(Integer)
    cookie_path = mapped_column(String(255))
    cookie_domain = mapped_column(String(255))
    cookie_secure = mapped_column(Boolean)
    cookie_httponly = mapped_column(Boolean)


class ConfigCookie(Feature):
    """The cookie is sent with the attributes that the session has."""

    mixin = ConfigCookieMixin
    settings: ClassVar[tuple[str, ...]] = (
        "cookie_max_age",
        "cookie_path",
        "cookie_domain",
        "cookie_secure",
        "cookie_httponly",
    )
    columns: ClassVar[tuple[str, ...]] = settings
    own_columns: ClassVar[tuple[str, ...]] = settings
