"""The panel beside the pages, and how the pages show values."""

from __future__ import annotations

import inspect
from datetime import datetime, timezone
from typing import Any
from zlib import crc32

from pyramid.httpexceptions import HTTPNotFound
from pyramid.interfaces import ISessionFactory
from pyramid.request import Request
from pyramid.view import view_config

from .models import WebSession

#: The columns that the panel always shows. It shows others if they have changed.
FIRST = ("id", "userid", "data", "flash")

#: Columns in seconds since the epoch.
TIMES = {
    *("created", "authenticated", "sent", "last_seen", "idle_expire"),
    *("absolute_expire", "rotated", "renewed", "renewal_tried"),
}


@view_config(route_name="panel", renderer="templates/panel.jinja2", http_cache=0)
def panel(request: Any) -> dict[str, Any]:
    """Show what is stored, and mark what has changed since the last time.

    The pages show it in a frame. A browser asks for the frame after the page, whose
    transaction is committed by then, so the frame shows what the page left behind.
    """
    settings = cookie_settings(request)
    row = look(request)
    facts = {
        column.name: "" if row is None else show_column(request, row, column.name)
        for column in WebSession.__table__.columns
    }
    cookie = request.cookies.get(settings.cookie_name, "")
    changed = mark_changes(request, {**facts, "cookie": cookie})
    shown = [*FIRST, *(name for name in facts if name in changed - {*FIRST})]
    return {
        "cookie": cookie,
        "settings": settings,
        "row": row,
        "facts": facts,
        "changed": changed,
        "shown": shown,
        "folded": [name for name in facts if name not in shown],
    }


def show_column(request: Any, row: WebSession, name: str) -> str:
    """Return a column's value as the panel shows it."""
    value = getattr(row, name)
    if name == "data":
        items = shortened(dict(request.session)).items()
        return "\n".join(f"{key!r}: {item!r}" for key, item in items) or "{}"
    if name == "userid" and value is not None:
        return f"{value} ({request.identity.name})"
    if name in TIMES:
        return clock(value)
    return str(value) if name in ("flash", "user_agent") else shorten(value)


def mark_changes(request: Any, facts: dict[str, str]) -> set[str]:
    """Return the names of the facts that differ from what this browser was shown last.

    The panel's own cookie keeps a checksum of each. In a new row only the id counts as
    changed.
    """
    sums = {name: f"{crc32(text.encode()):x}" for name, text in facts.items()}
    seen = request.cookies.get("panel", "").split("-")
    if len(seen) != len(sums):
        seen = [f"{crc32(b''):x}"] * len(sums)
    request.response.set_cookie(
        "panel", "-".join(sums.values()), path="/panel", httponly=True, samesite="Lax"
    )
    before = dict(zip(sums, seen, strict=True))
    changed = {name for name in sums if sums[name] != before[name]}
    return changed & {"id", "cookie"} if "id" in changed else changed


def look(request: Any) -> Any:
    """Return the row of the session, or None, and leave it as it is.

    A request that reads a session extends its idle timeout, and takes part in the
    renewal of its cookie. Both are stored when the transaction is committed, but this
    one will be rolled back.
    """
    row = request.session.instance
    if row is not None:
        request.tm.doom()
    return row


@view_config(route_name="replay")
def replay(request: Any) -> Any:
    """Show the panel as it is for someone who has only the old cookie."""
    before = request.session.get("before")
    if before is None:
        raise HTTPNotFound
    request.response.text = panel_of(request, before["cookie"]).text
    return request.response


def panel_of(request: Any, cookie: str) -> Any:
    """Return the panel's response to a request with this cookie."""
    other_request = Request.blank(
        request.route_path("panel"),
        base_url=request.application_url,
        cookies={cookie_settings(request).cookie_name: cookie},
    )
    return request.invoke_subrequest(other_request, use_tweens=True)


def cookie_settings(request: Any) -> Any:
    """Return the settings of the sessions."""
    return request.registry.getUtility(ISessionFactory).settings


def clock(seconds: int | None) -> str:
    """Return the date and the time of day."""
    if seconds is None:
        return "NULL"
    time = datetime.fromtimestamp(seconds, timezone.utc)
    return time.strftime("%Y-%m-%d %H:%M:%S UTC")


def shorten(value: Any) -> str:
    """Return the beginning: a page should never show a whole session id."""
    if value is None:
        return "NULL"
    text = value.hex() if isinstance(value, bytes) else str(value)
    return text[:8] + "…" if len(text) > 9 else text


def shortened(value: Any) -> Any:
    """Return the value with its long texts cut off."""
    if isinstance(value, dict):
        return {key: shortened(item) for key, item in value.items()}
    return value[:16] + "…" if isinstance(value, str) and len(value) > 17 else value


def source(*things: Any) -> str:
    """Return the code of views, for their page to show."""
    return "\n\n".join(map(inspect.getsource, things))
