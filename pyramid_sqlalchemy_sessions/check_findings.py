"""What ``pyramid_session_check`` finds."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Finding", "error", "hint", "ok"]


class Finding(NamedTuple):
    """One entry of the report: its level, its subject, and what there is to say."""

    level: str
    subject: str
    text: str
    #: A statement that fixes it.
    sql: str = ""


def ok(subject: str, text: str) -> Finding:
    """Say that all is well."""
    return Finding("ok", subject, text)


def hint(subject: str, text: str, sql: str = "") -> Finding:
    """Say what works, but could be better."""
    return Finding("hint", subject, text, sql)


def error(subject: str, text: str, sql: str = "") -> Finding:
    """Say what doesn't work, or loses something."""
    return Finding("error", subject, text, sql)
