"""Scene 3: a user's sessions on all devices, and a new password."""

from __future__ import annotations

from typing import Any

from pyramid.httpexceptions import HTTPForbidden, HTTPSeeOther
from pyramid.interfaces import ISessionFactory
from pyramid.view import exception_view_config, view_config

from pyramid_sqlalchemy_sessions import SessionStore

from .confirm import ask_again
from .models import User, WebSession
from .panel import clock, source
from .security import is_unchanged

#: For how many seconds after a login the password can be changed without asking again.
#: It's so short that you can see it happen.
FRESH = 30


class MailFailed(Exception):
    """The mail about a new password can't be sent."""

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
        "code": source(devices, end_device, end_others),
    }


@view_config(route_name="end_device", request_method="POST", permission="view")
def end_device(request: Any) -> Any:
    """Revoke one session, if it's one of the user's own."""
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


@view_config(
    route_name="change_password",
    request_method="GET",
    permission="view",
    fresh=FRESH,
    renderer="templates/password.jinja2",
)
def password_form(request: Any) -> dict[str, Any]:
    functions = password_form, change_password, is_unchanged, ask_again
    return {"fresh": FRESH, "code": source(*functions)}


@view_config(
    route_name="change_password",
    request_method="POST",
    permission="view",
    fresh=FRESH + 600,  # there's time to fill in the form
)
def change_password(request: Any) -> Any:
    """Log out everyone who knew the old password, once the new one is stored."""
    session, user, form = request.session, request.identity, request.POST
    if not is_unchanged(request.dbsession, user):
        raise HTTPForbidden
    user.set_password(form["new"])
    ended = request.session_store.revoke_user(user.id, keep=session)
    session.authenticate(user.id)
    session.flash(f"You have a new password. Other sessions that are over: {ended}.")
    send_mail(ended, mail_fails="mail_fails" in form)
    return HTTPSeeOther(request.route_path("devices"))


def send_mail(ended: int, mail_fails: bool) -> None:
    """Tell the user about the new password."""
    if mail_fails:
        raise MailFailed(ended)


@exception_view_config(MailFailed, renderer="templates/mail_failed.jinja2")
def mail_failed(request: Any) -> dict[str, Any]:
    """Show both sides of the rollback, which hasn't happened yet."""
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
    """Return enough of the id to tell a user's sessions apart, which isn't a secret."""
    return device.id.hex[:8]
