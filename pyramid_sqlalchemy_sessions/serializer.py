"""Turn bytes into a cookie value that can't be read or forged, and back again."""

from __future__ import annotations

import hmac
import re
import secrets
from binascii import a2b_base64, b2a_base64
from collections.abc import Sequence
from operator import eq
from typing import Any, Protocol

from .exceptions import ConfigurationError, CookieCryptoError, InvalidCookieError

__all__ = ("AESGCMSerializer", "Serializer")

# The wire format of 0.1.0: nonce, tag, ciphertext. GCM takes nonces of any length (NIST
# SP 800-38D, 5.2.1.1); 16 bytes is PyCryptodome's default, and does not repeat by
# chance.
NONCE_SIZE = 16
TAG_SIZE = 16
_OVERHEAD = NONCE_SIZE + TAG_SIZE
KEY_SIZES = (16, 24, 32)
# Base64 text of 16, 24 or 32 bytes; the padding may be missing.
_KEY = re.compile("[A-Za-z0-9_-]{22}(==)?|[A-Za-z0-9_-]{32}|[A-Za-z0-9_-]{43}=?")
# Browsers need not keep a cookie of more than 4096 bytes (RFC 6265, 6.1).
_LONGEST_VALUE = 4096
_LONGEST_DATA = _LONGEST_VALUE // 4 * 3 - _OVERHEAD
_TO_URLSAFE = bytes.maketrans(b"+/", b"-_")
_FROM_URLSAFE = bytes.maketrans(b"-_", b"+/")


class Serializer(Protocol):
    """Seal bytes into a cookie value, and open such a value again.

    ``dumps`` returns ASCII that RFC 6265 allows in a cookie value. ``loads`` receives
    what the browser sent, which may be anything; it raises ``InvalidCookieError`` for a
    malformed value, and ``CookieCryptoError`` for one that isn't authentic. Any other
    ``ValueError`` of ``loads`` counts as an ``InvalidCookieError``. Several threads may
    call both at once.

    It may have a method ``fingerprint(data)``, which returns the text that stands for a
    session's id in events. Without it, fingerprints change with each process.
    """

    def dumps(self, data: bytes, /) -> bytes: ...

    def loads(self, value: bytes | str, /) -> bytes: ...


class Cipher(Protocol):
    """AES-GCM with one key.

    ``encrypt`` returns the ciphertext, then the tag (16 bytes); ``decrypt`` takes that,
    and returns None if it isn't authentic. Both need the same ``context``.
    """

    def __init__(self, key: bytes) -> None: ...

    def encrypt(self, nonce: bytes, data: bytes, context: bytes | None) -> bytes: ...

    def decrypt(
        self, nonce: bytes, sealed: bytes, context: bytes | None
    ) -> bytes | None: ...


class _PyCryptodomeCipher:
    # A GCM object of PyCryptodome belongs to one nonce, so none can be kept from one
    # cookie to the next.

    def __init__(self, key: bytes) -> None:
        # It's imported here because it takes as long as all modules of the library, and
        # isn't needed where cryptography is installed.
        from Crypto.Cipher import AES

        self._aes = AES
        self._key = key

    def _gcm(self, nonce: bytes, context: bytes | None) -> Any:
        gcm = self._aes.new(self._key, self._aes.MODE_GCM, nonce=nonce)
        return gcm if context is None else gcm.update(context)

    def encrypt(self, nonce: bytes, data: bytes, context: bytes | None) -> bytes:
        ciphertext, tag = self._gcm(nonce, context).encrypt_and_digest(data)
        sealed: bytes = ciphertext + tag
        return sealed

    def decrypt(
        self, nonce: bytes, sealed: bytes, context: bytes | None
    ) -> bytes | None:
        gcm, at = self._gcm(nonce, context), len(sealed) - TAG_SIZE
        try:
            data: bytes = gcm.decrypt_and_verify(sealed[:at], sealed[at:])
        except ValueError:
            return None
        return data


_cipher_class: type[Cipher]

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError:
    _cipher_class = _PyCryptodomeCipher
else:

    class _CryptographyCipher:
        def __init__(self, key: bytes) -> None:
            self._aead = AESGCM(key)

        def encrypt(self, nonce: bytes, data: bytes, context: bytes | None) -> bytes:
            return self._aead.encrypt(nonce, data, context)

        def decrypt(
            self, nonce: bytes, sealed: bytes, context: bytes | None
        ) -> bytes | None:
            try:
                return self._aead.decrypt(nonce, sealed, context)
            except InvalidTag:
                return None

    _cipher_class = _CryptographyCipher


def cipher_of(key: bytes) -> Cipher:
    """Return AES-GCM with the key, using the faster package that's installed."""
    return _cipher_class(key)


class AESGCMSerializer:
    """Encrypt and authenticate with AES-GCM. The setting ``secret_key`` makes one.

    ``secret`` is a key of 16, 24 or 32 random bytes (AES-128, AES-192, AES-256), either
    these bytes or their urlsafe base64 text, which is what ``generate_secret_key()``
    returns. Or it is a key ring: a list of keys, or a text of several keys that are
    separated by white space. The first key encrypts, all of them decrypt. To change the
    key, add the new one at the end, then move it to the front, then drop the old one,
    each in all processes before the next step. Anything else raises
    ``ConfigurationError``, which never shows the secret. So does a text that repeats a
    few characters over and over; bytes are taken as they are.

    The value is padded urlsafe base64 of nonce (16 bytes), tag (16 bytes) and
    ciphertext; only one of its possible spellings is accepted. PyCryptodome does the
    work, or ``cryptography`` if it's installed: it makes the same format, much faster.
    """

    def __init__(self, secret: bytes | str | Sequence[bytes | str]) -> None:
        keys = keys_of(secret, "the secret")
        self._ciphers = tuple(map(cipher_of, keys))
        # A key of its own for each purpose (NIST SP 800-57, part 1, 5.2).
        self._fingerprint_key = hmac.digest(keys[0], b"fingerprint", "sha256")

    def dumps(self, data: bytes) -> bytes:
        """Seal ``data`` with the first key.

        Raises ``ValueError`` unless it's 1 to 3040 bytes long; a cookie can't hold
        more.
        """
        if not 1 <= len(data) <= _LONGEST_DATA:
            raise ValueError(
                f"cannot seal {len(data)} bytes; it must be 1 to {_LONGEST_DATA} bytes"
            )
        nonce = secrets.token_bytes(NONCE_SIZE)
        sealed = self._ciphers[0].encrypt(nonce, data, None)
        return _to_base64(nonce + sealed[-TAG_SIZE:] + sealed[:-TAG_SIZE])

    def loads(self, value: bytes | str) -> bytes:
        """Open ``value`` with whichever key sealed it.

        Raises ``InvalidCookieError`` when it is malformed, ``CookieCryptoError`` when
        no key authenticates it, and nothing else, whatever the value.
        """
        sealed = _from_base64(value)
        nonce, tag = sealed[:NONCE_SIZE], sealed[NONCE_SIZE:_OVERHEAD]
        ciphertext = sealed[_OVERHEAD:]
        if not ciphertext:
            raise InvalidCookieError("the cookie value is too short")
        for cipher in self._ciphers:
            data = cipher.decrypt(nonce, ciphertext + tag, None)
            if data is not None:
                return data
        raise CookieCryptoError("no key authenticates the cookie value")

    def fingerprint(self, data: bytes) -> str:
        """Return 16 hexadecimal digits that stand for ``data`` in logs.

        Without the first key, it can't be told whether they do.
        """
        return hmac.digest(self._fingerprint_key, data, "sha256")[:8].hex()


def key_from_text(text: str) -> bytes | None:
    """Return the key whose urlsafe base64 text this is, or None if it isn't one."""
    if not _KEY.fullmatch(text):
        return None
    digits = text.rstrip("=").encode().translate(_FROM_URLSAFE)
    return a2b_base64(digits + b"=" * (-len(digits) % 4))


def can_be_guessed(text: str) -> bool:
    """Tell whether the text of a key repeats a few characters, or its bytes do.

    That's "AAAA..." or a word over and over, even with something else at the end. One
    in 10**11 random keys of 16 bytes looks like that, and far fewer longer ones do.
    """
    key = key_from_text(text)
    if key is None:
        return False
    return 2 * len(set(key)) < len(key) or _repeats(key) or _repeats(text.rstrip("="))


def _repeats(text: Sequence[object]) -> bool:
    """Tell whether three quarters of it equal what's some places further on."""
    return any(
        4 * sum(map(eq, text, text[period:])) >= 3 * (len(text) - period)
        for period in range(1, len(text) // 2 + 1)
    )


def keys_of(secret: object, name: str) -> list[bytes]:
    """Return the keys of a ring, which may be texts.

    Raises ConfigurationError, which calls the ring by this name and never shows it.
    """
    if isinstance(secret, str):
        secret = secret.split()
    if isinstance(secret, (bytes, bytearray)) or not isinstance(secret, Sequence):
        secret = [secret]
    secrets: Sequence[object] = secret
    if not secrets:
        raise ConfigurationError(f"{name} is empty; give at least one key")
    keys: list[bytes] = []
    for number, each in enumerate(secrets, 1):
        key = _key(each)
        if isinstance(key, str):
            raise ConfigurationError(
                f"{name} must be 16, 24 or 32 random bytes or their urlsafe base64"
                " text, or a list of such keys, the one that encrypts first; key"
                f" {number} of {len(secrets)} is {key}"
            )
        keys.append(key)
    return keys


def _key(secret: object) -> bytes | str:
    """Return the key that a secret stands for, or a text that says what it is instead.

    The text isn't raised as an error: a traceback would show the secret.
    """
    if isinstance(secret, str):
        if can_be_guessed(secret):
            return "not random: it repeats a few characters over and over"
        key = key_from_text(secret)
        return "some other text" if key is None else key
    if not isinstance(secret, bytes):
        return f"of type {type(secret).__name__}"
    return secret if len(secret) in KEY_SIZES else f"{len(secret)} bytes long"


def _to_base64(data: bytes) -> bytes:
    return b2a_base64(data, newline=False).translate(_TO_URLSAFE)


def _from_base64(value: bytes | str) -> bytes:
    if len(value) > _LONGEST_VALUE:
        raise InvalidCookieError("the cookie value is too long")
    # The decoder skips what it doesn't know and ignores the last bits. Only the
    # spelling that we would have written counts.
    data = b""
    try:
        text = value.encode("ascii") if isinstance(value, str) else value
        data = a2b_base64(text.translate(_FROM_URLSAFE))
        is_canonical = _to_base64(data) == text
    except ValueError:
        is_canonical = False
    # It's raised out here so that no error comes along that quotes what the browser
    # sent.
    if not is_canonical:
        raise InvalidCookieError("the cookie value is not canonical base64")
    return data
