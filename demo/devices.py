"""Scene 5: the sessions of a user, on all devices."""

from __future__ import annotations

from typing import Any

from pyramid.httpexceptions import HTTPSeeOther
from pyramid.interfaces import ISessionFactory
from pyramid.view import exception_view_config, view_config

from pyramid_sqlalchemy_sessions import SessionStore

from .models import User, WebSession
from .security import is_unchanged
from .views import clock, source


class MailFailed(Exception):
    """The mail about a new password cannot be sent."""

    def __init__(self, ended: int):
        super().__init__(ended)
        self.ended = ended


@view_config(
    route_name="devices", permission="view", renderer="templates/devices.jinja2"
)
def devices(request: Any) -> dict[str, Any]:
    return {
        "devices": request.session_store.of_user(request.identity.id),
        "this": request.session.instance,
        "name_of": name_of,
        "clock": clock,
        "code": source(end_device, end_others, change_password, is_unchanged),
    }


@view_config(route_name="end_device", request_method="POST", permission="view")
def end_device(request: Any) -> Any:
    """End one session, if it is one of the user's own."""
    sessions = request.session_store
    for each in sessions.of_user(request.identity.id):
        if name_of(each) == request.POST["device"]:
            sessions.delete(each.id)
            request.session.flash(f"Session {name_of(each)} is over.")
    return HTTPSeeOther(request.route_path("devices"))


@view_config(route_name="end_others", request_method="POST", permission="view")
def end_others(request: Any) -> Any:
    ended = request.session_store.revoke_user(request.identity.id, keep=request.session)
    request.session.flash(f"Other sessions that are over now: {ended}.")
    return HTTPSeeOther(request.route_path("devices"))


@view_config(route_name="change_password", request_method="POST", permission="view")
def change_password(request: Any) -> Any:
    """Whoever knew the old password is out when the new one is stored."""
    session, user, form = request.session, request.identity, request.POST
    is_right = user.has_password(form["old"])
    if not (is_right and is_unchanged(request.dbsession, user)):
        session.flash("That is not your password.", "error")
        return HTTPSeeOther(request.route_path("devices"))
    user.set_password(form["new"])
    ended = request.session_store.revoke_user(user.id, keep=session)
    session.authenticate(user.id)
    session.flash(f"You have a new password. Other sessions that are over: {ended}.")
    send_mail(ended, mail_fails="mail_fails" in form)
    return HTTPSeeOther(request.route_path("devices"))


def send_mail(ended: int, mail_fails: bool) -> None:
    """Tell the user of the new password."""
    if mail_fails:
        raise MailFailed(ended)


@exception_view_config(MailFailed, renderer="templates/mail_failed.jinja2")
def mail_failed(request: Any) -> dict[str, Any]:
    """Show both sides of the rollback, which is still to come."""
    request.response.status_int = 500
    user = request.identity
    factory = request.registry.getUtility(ISessionFactory)
    with request.registry["dbsession_factory"]() as other:
        return {
            "ended": request.exception.ended,
            "left": len(SessionStore(other, factory).of_user(user.id)) - 1,
            "is_new": other.get_one(User, user.id).has_password(request.POST["new"]),
            "messages": request.session.peek_flash(),
            "code": source(change_password, mail_failed),
        }


def name_of(device: WebSession) -> str:
    """Return what tells the sessions of one user from each other, and is no secret."""
    return device.id.hex[:8]
