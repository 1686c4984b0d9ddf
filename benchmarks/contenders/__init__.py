"""The applications that are compared: one line here and one small class each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .base import Contender

__all__ = ["CONTENDERS", "OTHERS", "contender_class", "why_not"]


def _redis_answers() -> bool:
    from .redis_sessions import redis_answers

    return redis_answers()


class _Entry(NamedTuple):
    label: str
    place: str
    needs: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    server: tuple[str, Callable[[], bool]] | None = None


#: For each: the head of its column, where its class is, the packages that it needs,
#: those that it mustn't find, and the server that it needs besides the database.
CONTENDERS = {
    "floor": _Entry("floor", "floor.Floor", without=("cryptography",)),
    "sessions": _Entry("ours", "sessions.Sessions", without=("cryptography",)),
    "sessions-cryptography": _Entry(
        "ours+c.", "sessions.Sessions", needs=("cryptography",)
    ),
    "sessions-listening-once": _Entry(
        "ours+l.", "sessions.ListeningOnce", without=("cryptography",)
    ),
    "encrypted": _Entry("encrypted", "sessions.Encrypted", without=("cryptography",)),
    "encrypted-cryptography": _Entry(
        "encr.+c.", "sessions.Encrypted", needs=("cryptography",)
    ),
    "signed-cookie": _Entry("cookie", "signed_cookie.SignedCookie"),
    "pyramid_session_redis": _Entry(
        "Redis",
        "redis_sessions.RedisSessions",
        needs=("pyramid_session_redis",),
        server=("Redis", _redis_answers),
    ),
    "django": _Entry(
        "Django",
        "django_sessions.DjangoSessions",
        needs=("django",),
        # It would prefer this to psycopg2, which the others use.
        without=("psycopg",),
    ),
    "flask-session": _Entry(
        "Flask-S.",
        "flask_sessions.FlaskSessions",
        needs=("flask_session", "flask_sqlalchemy"),
    ),
    "litestar": _Entry(
        "Litestar",
        "litestar_sessions.LitestarSessions",
        needs=("litestar", "advanced_alchemy"),
    ),
}

#: What ours is compared with, unless the command line names others.
OTHERS = tuple(
    name
    for name in CONTENDERS
    if name
    not in (
        "floor",
        "sessions",
        "sessions-listening-once",
        "encrypted",
        "encrypted-cryptography",
    )
)


def why_not(name: str) -> str | None:
    """Say why a contender can't take part here, or return None if it can."""
    entry = CONTENDERS[name]
    missing = [each for each in entry.needs if find_spec(each) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if entry.server is not None:
        server, answers = entry.server
        if not answers():
            return f"no {server} answers"
    return None


def contender_class(name: str) -> type[Contender]:
    """Return the class: in a process of its own, as this may hide packages there."""
    entry = CONTENDERS[name]
    for package in entry.without:
        sys.modules[package] = None  # type: ignore[assignment]
    module, _, class_name = entry.place.partition(".")
    found: type[Contender] = getattr(import_module(f".{module}", __name__), class_name)
    return found
