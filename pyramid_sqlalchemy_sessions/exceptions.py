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
    sent. There is nothing to do, unless it comes in numbers: then look for whatever
    cuts or alters cookies on their way, or for an attack.
    """


class CookieCryptoError(ValueError):
    """Raised by a serializer when no key authenticates a well-formed cookie value.

    The library catches it: the session starts new and ``CookieCryptoErrorEvent`` is
    sent. If it comes in numbers after a change of the secret, keep the old key in the
    key ring until its sessions are gone; otherwise somebody tampers.
    """


class InconsistentDataError(Exception):
    """Raised when a stored session contradicts the configuration, or holds garbage.

    An idle timeout is on, say, and the session has no expiry. Run the migration that
    goes with the change of settings. Or another program has written what the library
    never stores: the message names the column, and quotes nothing. Correct or delete
    such rows.
    """


class SettingsError(Exception):
    """Raised when a session's settings are changed out of turn.

    Call ``edit()`` first, do so on a new session only, and give the model the Config
    mixin of the setting. A bad value raises ``ValueError`` instead.
    """


class TransactionRequiredError(RuntimeError):
    """Raised when a session is changed where nothing can store it any more.

    A finished callback is such a place. Change the session earlier in the request, or
    in a new transaction of the request's transaction manager.
    """
