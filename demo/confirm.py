"""Scene 3, too: asking for the password again, before a view with ``fresh=...``."""

from __future__ import annotations

from typing import Any

from pyramid.httpexceptions import HTTPSeeOther
from pyramid.security import remember
from pyramid.view import exception_view_config, view_config

from pyramid_sqlalchemy_sessions import FreshLoginRequired

from .panel import source
from .security import find_user, path_of_this_site


@exception_view_config(FreshLoginRequired)
def ask_again(request: Any) -> Any:
    """Ask for the password, and then lead back to the page."""
    query = {"next": request.path}
    return HTTPSeeOther(request.route_path("confirm", _query=query))


@view_config(
    route_name="confirm",
    request_method="GET",
    permission="view",
    renderer="templates/confirm.jinja2",
)
def confirm_form(request: Any) -> dict[str, Any]:
    return {
        "next_path": request.GET.get("next", ""),
        "code": source(ask_again, confirm_form, confirm),
    }


@view_config(route_name="confirm", request_method="POST", permission="view")
def confirm(request: Any) -> Any:
    """Remember the same user again: that replaces the cookie and the CSRF token."""
    form, name = request.POST, request.identity.name
    next_path = path_of_this_site(form["next"], request.route_path("account"))
    user = find_user(request.dbsession, name, form["password"])
    if user is None:
        request.session.flash("That isn't your password.", "error")
        query = {"next": next_path}
        return HTTPSeeOther(request.route_path("confirm", _query=query))
    remember(request, user.id)
    return HTTPSeeOther(next_path)
