"""Random values: ids of sessions and of renewals, and CSRF tokens."""

from __future__ import annotations

import base64
import secrets
import uuid

__all__ = ["TOKEN_SIZE", "is_same_id", "new_id", "new_token", "token_text"]

#: The size of a CSRF token, in bytes.
TOKEN_SIZE = 20


def new_id() -> uuid.UUID:
    """Draw an id: 127 random bits.

    The first bit of the seventh byte is 0, because MariaDB's type UUID refuses half of
    the others: it can't tell them from the time-ordered ids whose bytes it swaps.
    """
    drawn = bytearray(secrets.token_bytes(16))
    drawn[6] &= 0x7F
    return uuid.UUID(bytes=bytes(drawn))


def new_token() -> bytes:
    """Draw a CSRF token: 20 random bytes."""
    return secrets.token_bytes(TOKEN_SIZE)


def token_text(token: bytes) -> str:
    """Return a CSRF token as forms have it: padded urlsafe base64."""
    return base64.urlsafe_b64encode(token).decode("ascii")


def is_same_id(one: uuid.UUID | None, other: uuid.UUID | None) -> bool:
    """Compare two ids in constant time; None equals nothing."""
    if one is None or other is None:
        return False
    return secrets.compare_digest(one.bytes, other.bytes)
