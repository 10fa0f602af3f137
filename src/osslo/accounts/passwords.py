"""Passwords: what is asked of one, and argon2id, always off the event loop.

A check for a user who does not exist costs as much as a real one, so that the answer's time does
not tell who has an account. At most two checks run at once, for each takes 64 MiB.
"""

from __future__ import annotations

import asyncio
from threading import BoundedSemaphore

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from osslo.errors import RequestError

MIN_LENGTH = 10
MAX_LENGTH = 1000
_AT_ONCE = 2


class Passwords:
    """Hashes and checks passwords."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._nobody: str | None = None
        self._slots = BoundedSemaphore(_AT_ONCE)

    async def hash(self, password: str) -> str:
        """What is stored of `password`."""
        return await asyncio.to_thread(self._hash, password)

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether `password` belongs to `stored`; with None the answer is no, after as long."""
        return await asyncio.to_thread(self._verify, stored, password)

    def outdated(self, stored: str) -> bool:
        """Whether `stored` was made with weaker parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    def _hash(self, password: str) -> str:
        with self._slots:
            return self._hasher.hash(password)

    def _verify(self, stored: str | None, password: str) -> bool:
        with self._slots:
            if self._nobody is None:
                self._nobody = self._hasher.hash("nobody's password")
            try:
                matches = self._hasher.verify(stored or self._nobody, password)
            except (VerificationError, InvalidHashError):
                return False
            return matches and stored is not None


def check_password(password: str, *, email: str, name: str) -> None:
    """Raise `RequestError` for a password that is too short, too long, or the user's own name.

    No rules about kinds of characters: length is what counts (NIST SP 800-63B, 3.1.1).
    """
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise RequestError(
            f"A password has {MIN_LENGTH} to {MAX_LENGTH} characters.",
            param="password",
            code="weak_password",
        )
    lowered = password.casefold()
    if lowered in (email.casefold(), name.casefold()) or len(set(lowered)) < 4:
        raise RequestError(
            "This password is too easy to guess; take a few unrelated words.",
            param="password",
            code="weak_password",
        )
