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

    ``callback(userid, request)`` returns the user's principals, None if there is no
    such user. With ``debug`` Pyramid's debug log tells why somebody was (not) let in.
    Logging in and out both replace the session's cookie and keep its data.

    For applications with a security policy there is UserSessionAuthenticationHelper.
    """

    def __init__(self, callback: Any = None, debug: bool = False):
        self.callback = callback
        self.debug = debug

    def remember(self, request: Any, userid: Any, **kw: Any) -> list[Any]:
        """Log in a user who has just proved who they are.

        There are no headers to send: the session sends its cookie itself.
        """
        request.session.authenticate(userid)
        return []

    def forget(self, request: Any) -> list[Any]:
        """Log the user out, keeping the session's data."""
        request.session.userid = None
        return []

    def unauthenticated_userid(self, request: Any) -> Any:
        """Return the id of the user who logged in, not yet checked by the callback."""
        return request.session.userid


class UserSessionAuthenticationHelper:
    """Keep the user's id in ``request.session.userid``. The model needs UseridMixin.

    The methods are what a security policy delegates to, as with Pyramid's own
    SessionAuthenticationHelper.
    """

    def remember(self, request: Any, userid: Any, **kw: Any) -> list[Any]:
        """Log in a user who has just proved who they are.

        The session's cookie is replaced, also if it's the same user again. (OWASP ASVS
        5.0, 7.2.4.) Its data stays, unless another user was logged in. There are no
        headers to send: the session sends its cookie itself.
        """
        request.session.authenticate(userid)
        return []

    def forget(self, request: Any, **kw: Any) -> list[Any]:
        """Log the user out. The session and all it held is gone when this commits.

        (OWASP ASVS 5.0, 7.4.1.) A new one is ready, for a farewell message, say.
        """
        request.session.invalidate()
        return []

    def authenticated_userid(self, request: Any) -> Any:
        """Return the id of the user who is logged in, None if there is none."""
        return request.session.userid
