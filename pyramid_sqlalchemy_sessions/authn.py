"""Logging in and out, for old authentication policies and new security policies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyramid.interfaces import IAuthenticationPolicy
from zope.interface import implementer

# Pyramid has no types.
if TYPE_CHECKING:

    class CallbackAuthenticationPolicy:
        def authenticated_userid(self, request: Any) -> Any: ...
        def effective_principals(self, request: Any) -> list[Any]: ...

else:
    from pyramid.authentication import CallbackAuthenticationPolicy

__all__ = ["UserSessionAuthenticationHelper", "UserSessionAuthenticationPolicy"]


@implementer(IAuthenticationPolicy)
class UserSessionAuthenticationPolicy(CallbackAuthenticationPolicy):
    """Keep the user's id in ``request.session.userid``. The model needs UseridMixin.

    ``callback(userid, request)`` returns the user's principals, or None if there's no
    such user. With ``debug``, Pyramid's debug log says why a user was or wasn't let in.
    Logging in and out both replace the session's cookie and keep its data.

    If your application has a security policy, use UserSessionAuthenticationHelper.
    """

    def __init__(self, callback: Any = None, debug: bool = False):
        self.callback = callback
        self.debug = debug

    def remember(
        self, request: Any, userid: Any, max_age: int | None = None, **kw: Any
    ) -> list[Any]:
        """Log in a user who has just proved who they are.

        There are no headers to send: the session sends its cookie itself. ``max_age``
        works as in UserSessionAuthenticationHelper.
        """
        _refuse("remember", kw)
        return _remember(request, userid, max_age)

    def forget(self, request: Any) -> list[Any]:
        """Log the user out, keeping the session's data."""
        request.session.userid = None
        return []

    def unauthenticated_userid(self, request: Any) -> Any:
        """Return the id of the user who logged in, before the callback checks it."""
        return request.session.userid


class UserSessionAuthenticationHelper:
    """Keep the user's id in ``request.session.userid``. The model needs UseridMixin.

    The methods are what a security policy delegates to, as with Pyramid's own
    SessionAuthenticationHelper.
    """

    def remember(
        self, request: Any, userid: Any, max_age: int | None = None, **kw: Any
    ) -> list[Any]:
        """Log in a user who has just proved who they are.

        The session's cookie is replaced, even if it's the same user again. (OWASP ASVS
        5.0, 7.2.4.) Its data stays, unless another user was logged in. There are no
        headers to send: the session sends its cookie itself.

        ``max_age`` is how many seconds the browser keeps the cookie, even after it's
        closed. The session's timeouts still apply. Raises SettingsError if the model
        lacks ConfigCookieMixin, and ValueError for an invalid max-age.
        """
        _refuse("remember", kw)
        return _remember(request, userid, max_age)

    def forget(self, request: Any, **kw: Any) -> list[Any]:
        """Log the user out. The session and all its data are gone when this commits.

        (OWASP ASVS 5.0, 7.4.1.) A new session is ready, for a farewell message, for
        instance.
        """
        _refuse("forget", kw)
        request.session.invalidate()
        return []

    def authenticated_userid(self, request: Any) -> Any:
        """Return the id of the user who is logged in, None if there is none."""
        return request.session.userid


def _refuse(name: str, kw: dict[str, Any]) -> None:
    """Raise TypeError for keywords, which would do nothing."""
    if kw:
        raise TypeError(f"{name}() doesn't know the keyword {next(iter(kw))!r}")


def _remember(request: Any, userid: Any, max_age: int | None) -> list[Any]:
    session = request.session
    if max_age is not None:
        with session.settings as settings:
            settings.cookie_max_age = max_age
    session.authenticate(userid)
    return []
