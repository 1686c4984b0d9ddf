"""Sealing for the columns data and flash, so that the table alone reveals nothing."""

from __future__ import annotations

import hmac
import json
import secrets
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from .codec import json_text
from .exceptions import InconsistentDataError
from .serializer import NONCE_SIZE, TAG_SIZE, Cipher, cipher_of

__all__ = ["DOCUMENTS", "HEADER", "Seal", "Unopened", "opened"]

#: The columns that are sealed.
DOCUMENTS = ("data", "flash")

# The form: version, number of the key, nonce, ciphertext, tag. Neither pickles nor JSON
# begin with this version. With random nonces of 12 bytes, NIST SP 800-38D allows 2**32
# for one key, which a busy site uses up in months; these are longer, as in the cookie.
_VERSION = b"\x01"
_NUMBER_SIZE = 4
#: How many bytes tell which key has sealed a value.
HEADER = len(_VERSION) + _NUMBER_SIZE
_CIPHERTEXT = HEADER + NONCE_SIZE
_INFO = b"pyramid_sqlalchemy_sessions: data at rest"


class Unopened:
    """A value that's opened when it's first needed.

    That way, a session can be ended even if what its row holds can't be opened.
    """

    __slots__ = ("_open", "_value")

    def __init__(self, open: Callable[[], Any]):
        self._open = open
        self._value: Any = None

    def __call__(self) -> Any:
        if self._value is None:
            self._value = self._open()
        return self._value


def opened(value: Any) -> Any:
    """Return a value of a row, opened if it's sealed.

    Raises InconsistentDataError if it can't be opened.
    """
    return value() if type(value) is Unopened else value


class Seal:
    """Seals with the first of the keys, and opens what any of them has sealed.

    A sealed value is authentic for one column of one row only. ``accepts_plain`` lets
    values through that aren't sealed.
    """

    def __init__(self, keys: Sequence[bytes], accepts_plain: bool):
        derived = [_derived(key) for key in keys]
        self._ciphers: dict[bytes, Cipher] = {
            _VERSION + each[32:]: cipher_of(each[:32]) for each in derived
        }
        #: How values start that the first key has sealed.
        self.start: bytes = _VERSION + derived[0][32:]
        self.accepts_plain: bool = accepts_plain

    # One value.

    def seal(self, key: uuid.UUID, name: str, plain: bytes) -> bytes:
        """Return a value as the column of this name holds it in the row with the id."""
        nonce = secrets.token_bytes(NONCE_SIZE)
        cipher = self._ciphers[self.start]
        return self.start + nonce + cipher.encrypt(nonce, plain, _context(key, name))

    def open(self, key: uuid.UUID, name: str, stored: Any) -> bytes:
        """Return what was sealed. InconsistentDataError if it isn't authentic."""
        if isinstance(stored, (bytearray, memoryview)):  # from a type of the user's
            stored = bytes(stored)
        if self.is_plain(stored):
            if self.accepts_plain and isinstance(stored, bytes):
                return stored
            raise _not_authentic(name, "it is not encrypted")
        cipher = self._ciphers.get(stored[:HEADER])
        if cipher is None:
            raise _not_authentic(name, "none of the keys has encrypted it")
        plain = None
        if len(stored) >= _CIPHERTEXT + TAG_SIZE:
            nonce, sealed = stored[HEADER:_CIPHERTEXT], stored[_CIPHERTEXT:]
            plain = cipher.decrypt(nonce, sealed, _context(key, name))
        if plain is None:
            raise _not_authentic(name, "it is damaged, or comes from elsewhere")
        return plain

    # What the start of a value tells.

    def is_stale(self, start: Any) -> bool:
        """Tell whether the first key hasn't sealed a value."""
        return _header(start) != self.start

    def is_sealed(self, start: Any) -> bool:
        """Tell whether a value is sealed, no matter with which key."""
        return _header(start).startswith(_VERSION)

    def is_plain(self, start: Any) -> bool:
        """Tell whether a value isn't sealed."""
        return not self.is_sealed(start)

    def is_lost(self, start: Any) -> bool:
        """Tell whether a value is sealed, but with none of the keys."""
        return self.is_sealed(start) and _header(start) not in self._ciphers

    # The columns of one row.

    def sealed(self, key: uuid.UUID, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values of a row, with its documents sealed."""
        values = dict(values)
        for name in DOCUMENTS:
            if name in values:
                value = values[name]
                plain = value if name == "data" else json_text(value).encode()
                values[name] = self.seal(key, name, plain)
        return values

    def unopened(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row that was read, whose values are opened when they're needed."""
        key, data, flash = row["id"], row["data"], row["flash"]
        return {
            **row,
            "data": Unopened(partial(self.open, key, "data", data)),
            "flash": Unopened(partial(self._messages, key, flash)),
        }

    def _messages(self, key: uuid.UUID, stored: Any) -> Any:
        try:
            return json.loads(self.open(key, "flash", stored))
        except ValueError:
            raise _not_authentic("flash", "it is neither encrypted nor JSON") from None


def _header(start: Any) -> bytes:
    """Return what tells which key has sealed a value, empty if it's of another type."""
    is_binary = isinstance(start, (bytes, bytearray, memoryview))
    return bytes(start[:HEADER]) if is_binary else b""


def _derived(key: bytes) -> bytes:
    """Return 36 bytes by HKDF (RFC 5869) with SHA-256, without a salt."""
    extracted = hmac.digest(bytes(32), key, "sha256")
    first = hmac.digest(extracted, _INFO + b"\x01", "sha256")
    second = hmac.digest(extracted, first + _INFO + b"\x02", "sha256")
    return first + second[:_NUMBER_SIZE]


def _context(key: uuid.UUID, name: str) -> bytes:
    return _VERSION + key.bytes + name.encode()


def _not_authentic(name: str, reason: str) -> InconsistentDataError:
    return InconsistentDataError(
        f"the column {name!r} of a stored session cannot be read: {reason}. Was a key"
        " taken out of secret_key too early, or was the row written by another program,"
        " or before the model had EncryptedDataMixin (see encrypted_accept_plain)?"
        " Otherwise delete the row; session.invalidate() does that, too"
    )
