"""Read what EncryptedDataMixin has encrypted, without the library."""

import base64
import uuid

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def open_sealed(secret_key: str, id: uuid.UUID, column: str, stored: bytes) -> bytes:
    label = b"pyramid_sqlalchemy_sessions: data at rest"
    keys = HKDF(algorithm=SHA256(), length=36, salt=None, info=label)
    derived = keys.derive(base64.urlsafe_b64decode(secret_key))
    version, number, nonce = stored[:1], stored[1:5], stored[5:21]
    if version != b"\x01" or number != derived[32:]:
        raise ValueError("another key has encrypted it, or none")
    context = version + id.bytes + column.encode()
    return AESGCM(derived[:32]).decrypt(nonce, stored[21:], context)
