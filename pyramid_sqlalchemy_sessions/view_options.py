"""Options of views that have to do with the session: ``extend_session``, ``fresh``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .exceptions import ConfigurationError
from .host import leave_unextended
from .setting_kinds import shown

if TYPE_CHECKING:
    # Pyramid has no types, so this is what type checkers see.
    HTTPForbidden = Exception
    INGRESS: Any
else:
    from pyramid.httpexceptions import HTTPForbidden
    from pyramid.viewderivers import INGRESS

__all__ = ["FreshLoginRequired", "includeme"]


class FreshLoginRequired(HTTPForbidden):
    """Raised by a view with the option ``fresh`` if the last login was too long ago.

    It's a 403, which an exception view can turn into a form that asks for the password
    again. ``seconds`` is what the option says.
    """

    def __init__(self, seconds: int):
        super().__init__(
            "Please log in again: this page can be used only in the first"
            f" {seconds} seconds after a login."
        )
        self.seconds = seconds


def includeme(config: Any) -> None:
    """Add two options to ``config.add_view`` and ``@view_config``.

    ``extend_session=False``: the view neither extends the session nor starts to renew
    its cookie. That's for requests that a page makes by itself now and then, without
    its user.

    ``fresh=seconds``: the view raises FreshLoginRequired unless the user has proved who
    they are, with ``remember``, in the last ``seconds``. (OWASP ASVS 5.0, 7.5.1: full
    re-authentication before sensitive changes.)

    ``config.include("pyramid_sqlalchemy_sessions")`` includes this. Other values raise
    ConfigurationError.
    """
    # Above those that may refuse the request, and so have an exception view called.
    config.add_view_deriver(
        _extend_session, name="extend_session", under=INGRESS, over="secured_view"
    )
    config.add_view_deriver(_fresh, name="fresh")


def _extend_session(view: Any, info: Any) -> Any:
    extends = info.options.get("extend_session", True)
    if not isinstance(extends, bool):
        raise ConfigurationError(
            f"the view option extend_session must be True or False, not"
            f" {shown(extends)}"
        )
    if extends:
        return view

    def unextended_view(context: Any, request: Any) -> Any:
        leave_unextended(request)
        return view(context, request)

    return unextended_view


def _fresh(view: Any, info: Any) -> Any:
    seconds = info.options.get("fresh")
    if seconds is None:
        return view
    if not isinstance(seconds, int) or isinstance(seconds, bool) or seconds < 1:
        raise ConfigurationError(
            "the view option fresh must be a number of seconds, at least 1, not"
            f" {shown(seconds)}"
        )

    def fresh_view(context: Any, request: Any) -> Any:
        if not request.session.is_fresh(seconds):
            raise FreshLoginRequired(seconds)
        return view(context, request)

    return fresh_view


_extend_session.options = ("extend_session",)  # type: ignore[attr-defined]
_fresh.options = ("fresh",)  # type: ignore[attr-defined]
