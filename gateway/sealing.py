"""What callers were answered, kept so that only this gateway can read it: AES-256-GCM under a key of the root secret.

What it is about (a row's id) is sealed in: a value that is moved to another row does not open.
"""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.secrets import Purpose, Secrets

__all__ = ["Sealer"]

_NONCE_BYTES = 12
"""Random, as NIST SP 800-38D asks (section 8.2.2): good for 2^32 values under one key."""


class Sealer:
    """Seals and opens values of one purpose."""

    def __init__(self, secrets: Secrets, purpose: Purpose) -> None:
        self._cipher = AESGCM(secrets.hmac_key(purpose))

    def seal(self, plain: bytes, about: str) -> bytes:
        """28 bytes longer than `plain`; another text each time."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, about.encode())

    def open(self, sealed: bytes, about: str) -> bytes | None:
        """None where it was changed, moved, or sealed under another root secret."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], about.encode())
        except (InvalidTag, ValueError):
            return None
