"""Scene 4: the timeouts of a session, and a stolen cookie.

The library's part is the settings in ``begin`` and the event in ``record_alarm``.
"""

from __future__ import annotations

import logging
import time
from typing import Any
from uuid import UUID

from pyramid.events import subscriber
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.path import DottedNameResolver
from pyramid.view import exception_view_config, view_config
from sqlalchemy import select

from pyramid_sqlalchemy_sessions import (
    RenewalViolationEvent,
    factory_args_from_settings,
)

from .models import Alarm, WebSession
from .panel import clock, cookie_settings, look, panel_of, shorten, source

log = logging.getLogger(__name__)

#: The timeouts that a visitor can choose, and what the form suggests, in seconds.
PROPOSED = {"idle_timeout": 60, "absolute_timeout": 300, "renewal_timeout": 10}


@view_config(route_name="timeouts", renderer="templates/timeouts.jinja2")
def timeouts(request: Any) -> dict[str, Any]:
    return {
        "is_lost": is_lost(request),
        "stolen": request.session.get("stolen"),
        "alarms": latest_alarms(request),
        "proposed": {name: proposed(request, name) for name in PROPOSED},
        "grace": cookie_settings(request).renewal_grace,
        "clock": clock,
        "end": expires(request),
        "code": source(timeouts, expires, begin, bad_timeouts, steal, thief),
    }


def proposed(request: Any, name: str) -> Any:
    """Return what the form shows: the session's own timeout, if it has one."""
    both = request.session.settings, cookie_settings(request)
    own, usual = (getattr(settings, name) for settings in both)
    return PROPOSED[name] if own == usual else own or ""


@view_config(route_name="expires", renderer="json", http_cache=0, extend_session=False)
def expires(request: Any) -> dict[str, Any]:
    """Tell the page's countdown when the session ends, without extending it."""
    return {"expires": request.session.expires, "now": time.time()}


@view_config(route_name="begin", request_method="POST")
def begin(request: Any) -> Any:
    """Give the session timeouts of its own. They count from now."""
    session = request.session
    with session.settings as settings:
        settings.update({name: request.POST[name] for name in PROPOSED})
    session.flash("This session has timeouts of its own now.")
    return HTTPSeeOther(request.route_path("timeouts"))


@exception_view_config(ValueError, route_name="begin")
def bad_timeouts(request: Any) -> Any:
    """Say what's wrong. Nothing has changed."""
    request.session.flash(str(request.exception), "error")
    return HTTPSeeOther(request.route_path("timeouts"))


@view_config(route_name="times", renderer="templates/times.jinja2", http_cache=0)
def times(request: Any) -> dict[str, Any]:
    """Show the clock and the times of the session, in a frame, like the panel."""
    row, now = look(request), time.time()
    settings, stolen = request.session.settings, request.session.get("stolen")
    facts = {"row": row, "now": now, "clock": clock, "shorten": shorten}
    if row is None:
        return facts
    facts |= {"settings": settings, "renewal_due": None, "thief": None}
    if settings.renewal_timeout is not None:
        facts["renewal_due"] = row.renewed + settings.renewal_timeout + 1
    if stolen is not None:
        facts["thief"] = judge(request, row, stolen["cookie"], int(now))
    return facts


# The thief.


@view_config(route_name="steal", request_method="POST")
def steal(request: Any) -> Any:
    """Copy the cookie of this request, as an eavesdropper would."""
    cookie = request.cookies[cookie_settings(request).cookie_name]
    request.session["stolen"] = {"cookie": cookie, "at": int(time.time())}
    return HTTPSeeOther(request.route_path("timeouts"))


@view_config(route_name="thief", request_method="POST")
def thief(request: Any) -> Any:
    """Let the thief send a request, which has only the old cookie."""
    session = request.session
    to_page = HTTPSeeOther(request.route_path("timeouts"))
    if "stolen" not in session:
        session.flash("Nothing is stolen yet.", "error")
        return to_page
    row, cookie = session.instance, session["stolen"]["cookie"]
    why = WHY[judge(request, row, cookie, int(time.time()))["verdict"]]
    answer = panel_of(request, cookie)
    with request.registry["dbsession_factory"]() as other:
        is_gone = other.get(WebSession, row.id) is None
    if is_gone:
        request.tm.doom()  # there's no session left to store anything in
        return HTTPSeeOther(request.route_path("alarms"))
    if 'id="row-id"' in answer.text:
        session.flash(f"The thief was let in, and has seen your panel. {why}", "error")
    else:
        session.flash(f"The thief is a stranger here. {why}")
    return to_page


@view_config(route_name="alarms", renderer="templates/alarms.jinja2")
def alarms(request: Any) -> dict[str, Any]:
    return {
        "is_lost": is_lost(request),
        "alarms": latest_alarms(request),
        "clock": clock,
        "code": source(alarms, record_alarm),
    }


@subscriber(RenewalViolationEvent)
def record_alarm(event: Any) -> None:
    """Record it in a separate transaction, so that it's kept if the request fails.

    The end of the session is kept, too: making the request fail doesn't help a thief.
    """
    log.warning("An old session cookie came back. Its user is %s.", event.userid)
    with event.request.registry["dbsession_factory"].begin() as dbsession:
        dbsession.add(Alarm(raised_at=int(time.time()), userid=event.userid))


def latest_alarms(request: Any) -> list[Alarm]:
    """Return the last alarms, newest first."""
    statement = select(Alarm).order_by(Alarm.id.desc()).limit(5)
    return list(request.dbsession.scalars(statement))


def is_lost(request: Any) -> bool:
    """Tell whether the browser has a cookie without a session."""
    return request.session.new and (
        cookie_settings(request).cookie_name in request.cookies
    )


#: What a stolen cookie is good for, by the verdict of ``judge``.
WHY = {
    "off": "Renewal is off for this session, so the thief can't be told from you.",
    "good": "The stolen cookie is as good as yours: it hasn't been replaced yet.",
    "grace": "The stolen cookie was replaced a moment ago, and is still accepted, for"
    " requests that were on their way.",
    "alarm": "The stolen cookie has been replaced.",
    "dead": "A login or a logout has replaced the cookie since the theft.",
}


def judge(request: Any, row: WebSession, cookie: str, now: int) -> dict[str, Any]:
    """Predict what a copy of a cookie is good for now.

    Applications don't need this, since the library does it. It's here so that the page
    can say what to expect.
    """
    id, renewal_id = open_cookie(request, cookie)
    grace = cookie_settings(request).renewal_grace
    is_off = request.session.settings.renewal_timeout is None
    sent = {row.renewal_id, row.renewal_next or row.renewal_id}
    grace_end = None
    if id == row.id and renewal_id in sent:
        verdict = "off" if is_off else "good"
    elif id != row.id or is_off or renewal_id in (None, row.rotated_from):
        verdict = "dead"
    elif renewal_id == row.renewal_previous and now <= row.renewed + grace:
        verdict, grace_end = "grace", row.renewed + grace
    elif row.rotated is not None and now <= row.rotated + grace:
        verdict = "dead"  # for now: it's late
    else:
        verdict = "alarm"
    return {"verdict": verdict, "renewal_id": renewal_id, "grace_end": grace_end}


def open_cookie(request: Any, cookie: str) -> tuple[UUID, UUID | None]:
    """Return the ids in a cookie: of the session, and of the renewal, if any."""
    args = factory_args_from_settings(
        request.registry.settings, DottedNameResolver().maybe_resolve
    )
    ids = args["serializer"].loads(cookie)
    return UUID(bytes=ids[:16]), UUID(bytes=ids[16:]) if len(ids) > 16 else None
