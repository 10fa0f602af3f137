"""Text that a caller keeps for the server and hands back: reasoning, encrypted and authenticated.

AES-256-GCM under one key of the server's. What was sealed for one tenant or purpose opens for no
other. Where the key is kept is the composition root's business.
"""

from __future__ import annotations

import base64
import binascii
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_NONCE_BYTES = 12
_VERSION = "os1."
"""Begins everything sealed here, so that what others sealed is told apart at once."""


class Seal:
    """Seals and unseals texts. Safe to share between threads."""

    def __init__(self, key: bytes) -> None:
        """`key` is 32 random bytes; servers that share it read each other's seals."""
        self._cipher = AESGCM(key)

    @classmethod
    def ephemeral(cls) -> Seal:
        """A seal under a key that dies with the process."""
        return cls(secrets.token_bytes(KEY_BYTES))

    def seal(self, text: str, *, purpose: str, tenant: str) -> str:
        """`text` as printable ASCII that only this server can read."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        raw = text.encode("utf-8", "surrogatepass")
        sealed = nonce + self._cipher.encrypt(nonce, raw, _context(purpose, tenant))
        return _VERSION + base64.urlsafe_b64encode(sealed).decode("ascii")

    def unseal(self, sealed: str, *, purpose: str, tenant: str) -> str | None:
        """What was sealed; None if it was changed, or sealed elsewhere or for something else."""
        if not sealed.startswith(_VERSION):
            return None
        try:
            raw = base64.urlsafe_b64decode(sealed[len(_VERSION) :].encode("ascii"))
            nonce, rest = raw[:_NONCE_BYTES], raw[_NONCE_BYTES:]
            text = self._cipher.decrypt(nonce, rest, _context(purpose, tenant))
            return text.decode("utf-8", "surrogatepass")
        except (InvalidTag, ValueError, UnicodeError, binascii.Error):
            return None


def _context(purpose: str, tenant: str) -> bytes:
    """What a seal is bound to beside the key. The length keeps the two parts apart."""
    return f"{len(purpose)}:{purpose}{tenant}".encode("utf-8", "surrogatepass")
