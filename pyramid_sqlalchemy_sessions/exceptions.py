"""The errors of the library."""

from __future__ import annotations

from typing import TYPE_CHECKING

# Pyramid has no types.
if TYPE_CHECKING:
    _ConfigurationError = Exception
else:
    from pyramid.exceptions import ConfigurationError as _ConfigurationError

__all__ = (
    "ConfigurationError",
    "CookieCryptoError",
    "InconsistentDataError",
    "InvalidCookieError",
    "SettingsError",
    "TransactionRequiredError",
)


class ConfigurationError(_ConfigurationError):
    """Raised at start-up when a setting, the secret or the model cannot work.

    Correct what the message names: it says what was given (never a secret) and what
    would be valid.
    """


class InvalidCookieError(ValueError):
    """Raised by a serializer when a cookie value is malformed, before any decryption.

    The library catches it: the session starts new and ``InvalidCookieErrorEvent`` is
    sent. There's nothing to do, unless there are many: then look for anything that cuts
    or alters cookies on their way, or for an attack.
    """


class CookieCryptoError(ValueError):
    """Raised by a serializer when no key authenticates a well-formed cookie value.

    The library catches it: the session starts new and ``CookieCryptoErrorEvent`` is
    sent. If there are many after you've changed the secret, keep the old key in the key
    ring until its sessions are gone; otherwise, someone is tampering with cookies.
    """


class InconsistentDataError(Exception):
    """Raised when a stored session contradicts the configuration, or holds garbage.

    For instance, an idle timeout is on, but the session has no expiry: run the
    migration that goes with the change of settings. Or another program has written
    something that the library never stores: correct or delete such rows. The message
    names the column, and never quotes its value.
    """


class SettingsError(Exception):
    """Raised when a session's settings can't be changed, or not yet.

    Call ``edit()`` first, or use a ``with`` block, and give the model the Config mixin
    of the setting. A bad value raises ``ValueError`` instead.
    """


class TransactionRequiredError(RuntimeError):
    """Raised when a session is changed where nothing can store it any more.

    A finished callback is such a place. Change the session earlier in the request, or
    in a new transaction of the request's transaction manager.
    """
