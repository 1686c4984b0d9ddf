"""Events about bad session cookies, and about sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = (
    "CookieCryptoErrorEvent",
    "InvalidCookieErrorEvent",
    "RenewalViolationEvent",
    "SessionCreatedEvent",
    "SessionEvent",
    "SessionExpiredEvent",
    "SessionRevokedEvent",
    "SessionRotatedEvent",
    "SessionsCollectedEvent",
)


class _CookieEvent:
    """Carry the request, and the error that was caught, or None."""

    def __init__(self, request: Any, exception: BaseException | None = None) -> None:
        self.request = request
        self.exception = exception


class InvalidCookieErrorEvent(_CookieEvent):
    """Fired when a session cookie is malformed, so that it isn't even decrypted.

    `request` is the one that carried it, and `exception` is the `InvalidCookieError`
    that was caught. The session starts new and the cookie is deleted, whatever the
    handler does. If a request has several cookies with our name and one of them is
    authentic, the others aren't reported.

    A handler may log, count, or alert someone; it may use `request.session`, which is a
    new one. It shouldn't raise: the error would reach the code that was about to use
    the session. Anyone can send such a cookie, so don't log its bytes.
    """


class CookieCryptoErrorEvent(_CookieEvent):
    """Fired when a well-formed session cookie isn't authentic: forged, or outdated.

    `exception` is the `CookieCryptoError` that was caught. What happens to the session
    and the cookie, and what a handler may do, is the same as with
    `InvalidCookieErrorEvent`. If there are many of these after you've changed the
    secret, the old key was dropped from the key ring too early.
    """


class RenewalViolationEvent(_CookieEvent):
    """Fired when an authentic cookie carries a renewal id that isn't valid (any more).

    The cookie may have been stolen, and the request may come from the thief, or from
    the user after the thief has used the cookie; a browser that was restored from a
    backup looks the same. The session is deleted even when the request fails, so both
    have to log in again. `exception` is None unless an error was the cause.

    A handler may do the same as with `InvalidCookieErrorEvent`, and this event is worth
    alerting someone. `userid` is that of the session, or None if it had none.
    """

    def __init__(
        self, request: Any, exception: BaseException | None = None, userid: Any = None
    ) -> None:
        super().__init__(request, exception)
        self.userid = userid


class SessionEvent:
    """Sent after the commit of something that happened to a session.

    It's never sent for anything that was rolled back, or for an attempt that was
    retried. Subscribe to this class to get all four events.

    `request` is the one in which it happened, or None outside of one. `userid` is the
    id of the session's user, even if it has ended; it's None if no user was
    logged in, or the model has no UseridMixin. `cause` is a word for logs.
    `fingerprint` stands for the session in logs: 16 hexadecimal digits, a keyed hash of
    the id, always the same for one id while the first key of the secret stays. Without
    the key, neither can be computed from the other.

    A handler runs when the request's transaction is over, so it needs its own to write
    anything. Its errors are logged, and change nothing.
    """

    def __init__(self, request: Any, fingerprint: str, userid: Any, cause: str) -> None:
        self.request = request
        self.fingerprint = fingerprint
        self.userid = userid
        self.cause = cause

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.fingerprint}: {self.cause},"
            f" user {self.userid!r}>"
        )


class SessionCreatedEvent(SessionEvent):
    """Sent after a new session was stored.

    `cause` is "login" if it has a user, else "data", and "store" if a `SessionStore`
    made it.
    """


class SessionRotatedEvent(SessionEvent):
    """Sent after a session's cookie was replaced by a login, a logout or `rotate()`.

    `cause` is "login", "logout" (the data stays), "switch" (to another user), or
    "rotate" if the user is the same.
    """


class SessionRevokedEvent(SessionEvent):
    """Sent after a session was ended before its time.

    `cause` is "logout" if it was invalidated and had a user, "invalidate" if it had
    none, "store" if a `SessionStore` ended it, "renewal violation" if its cookie had
    been copied.
    """


class SessionExpiredEvent(SessionEvent):
    """Sent after an expired session was deleted.

    `cause` is "idle" or "absolute". It was deleted when its cookie came back, or by
    `pyramid_session_gc` or `SessionStore.delete_expired`: see `SessionsCollectedEvent`.
    """


class SessionsCollectedEvent:
    """Sent after expired sessions were deleted in bulk, if there were any.

    It's sent once for each run of `pyramid_session_gc`, whose request and registry are
    those of the application that it starts, and for each `SessionStore.delete_expired`
    that's committed. `counts` has the number of sessions by cause: "idle" or
    "absolute". This isn't a `SessionEvent`. Errors of a handler are logged, and change
    nothing.
    """

    def __init__(self, request: Any, counts: Mapping[str, int]) -> None:
        self.request = request
        self.counts = counts

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {dict(self.counts)}>"
