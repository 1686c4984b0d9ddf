"""The events: of session cookies that are not as they should be, and of sessions."""

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
    """Fired when a session cookie is malformed, so that it is not even decrypted.

    `request` is the one that carried it, `exception` the `InvalidCookieError` that was
    caught. The session starts new and the cookie is deleted, whatever the handler does.
    Of several cookies with our name in one request, none is reported if one of them is
    authentic.

    A handler may log, count, or alert someone; it may use `request.session`, which is a
    new one. It should not raise: the error would reach the code that was about to use
    the session. Anyone can send such a cookie, so its bytes belong in no log.
    """


class CookieCryptoErrorEvent(_CookieEvent):
    """Fired when a well-formed session cookie is not authentic: forged, or outdated.

    `exception` is the `CookieCryptoError` that was caught. What becomes of session and
    cookie, and what a handler may do, is as with `InvalidCookieErrorEvent`. Many of
    these after a change of the secret mean that the old key was dropped from the key
    ring too early.
    """


class RenewalViolationEvent(_CookieEvent):
    """Fired when an authentic cookie carries a renewal id that is not valid (any more).

    The cookie may have been stolen, and the request come from the thief or from the
    user whom the thief overtook; a browser that was restored from a backup looks the
    same. The session is deleted even when the request fails, so that both must log in
    again. `exception` is None unless an error was the cause.

    What a handler may do is as with `InvalidCookieErrorEvent`; here it is worth
    alerting someone: `userid` is that of the session, None if it had none.
    """

    def __init__(
        self, request: Any, exception: BaseException | None = None, userid: Any = None
    ) -> None:
        super().__init__(request, exception)
        self.userid = userid


class SessionEvent:
    """What happened to a session, sent after the commit that has stored it.

    It is never sent for what was rolled back, nor for an attempt that was retried.
    Subscribe to this class to be told of all four events.

    `request` is the one in which it happened, None outside of one. `userid` is whose
    session it is, or was when it ended; None if nobody was logged in, or the model has
    no UseridMixin. `cause` is a word for logs. `fingerprint` stands for the session in
    logs: 16 hexadecimal digits, a keyed hash of the id, always the same for one id
    while the first key of the secret stays. Nobody who has no key can tell it from the
    id, or the id from it.

    A handler runs when the request's transaction is over: it writes in one of its own.
    What it raises is logged, and changes nothing.
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

    `cause` is "login" if it has a user, else "data", and "store" for those that a
    `SessionStore` made.
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
    """Sent after a session was deleted that had expired.

    `cause` is "idle" or "absolute". It was deleted when its cookie came back, or by
    `pyramid_session_gc` or `SessionStore.delete_expired`: see `SessionsCollectedEvent`.
    """


class SessionsCollectedEvent:
    """Sent after expired sessions were deleted in bulk, if there were any.

    That's once for each run of `pyramid_session_gc`, whose request and registry are
    those of the application that it starts, and for each `SessionStore.delete_expired`
    that is committed. `counts` says how many, by cause: "idle" or "absolute". It is no
    `SessionEvent`. What a handler raises is logged, and changes nothing.
    """

    def __init__(self, request: Any, counts: Mapping[str, int]) -> None:
        self.request = request
        self.counts = counts

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {dict(self.counts)}>"
