"""Ids and secrets: how they are made, spelled, hashed and compared.

A key's text is `sk-osslo-`, 32 random characters and 6 that check the others, so that a typo is
told without asking the database. What is stored is HMAC-SHA256 of the text under the server's
pepper: a stolen database alone gives nobody a key, nor a way to test one.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from osslo.errors import ConfigurationError

KEY_PREFIX = "sk-osslo-"
_SHOWN = len(KEY_PREFIX) + 6
_BODY = 32  # 190 bits
CHECKSUM_LENGTH = 6  # 35 bits
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_KEY = re.compile(rf"{KEY_PREFIX}[0-9A-Za-z]{{{_BODY + CHECKSUM_LENGTH}}}")
_PEPPER_FILE = "pepper"
_PEPPER_BYTES = 32


def new_id(kind: str) -> str:
    """An unguessable id: `kind`, an underscore and 24 hexadecimal digits."""
    return f"{kind}_{secrets.token_hex(12)}"


def new_token() -> str:
    """256 random bits, for sessions, links and CSRF."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """What is stored of a random token. It is random enough to need no pepper."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def new_key() -> str:
    """The text of a new API key."""
    body = "".join(secrets.choice(_DIGITS) for _ in range(_BODY))
    return KEY_PREFIX + body + checksum(body)


def shown_prefix(key: str) -> str:
    """The beginning of a key that may be shown, to tell it from others."""
    return key[:_SHOWN] + "…"


def well_formed(key: str) -> bool:
    """Whether `key` is spelled like one of ours, its checksum included."""
    if not _KEY.fullmatch(key):
        return False
    body = key[len(KEY_PREFIX) : -CHECKSUM_LENGTH]
    return hmac.compare_digest(checksum(body), key[-CHECKSUM_LENGTH:])


def checksum(body: str) -> str:
    """The characters that check a key's random ones."""
    number = int.from_bytes(hashlib.blake2b(body.encode(), digest_size=8).digest())
    digits = ""
    for _ in range(CHECKSUM_LENGTH):
        number, digit = divmod(number, len(_DIGITS))
        digits += _DIGITS[digit]
    return digits


class Pepper:
    """The server's secret under which keys are hashed. Every replica needs the same one."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return "Pepper(…)"

    def hash(self, key: str) -> str:
        """What is stored of a key, 64 hexadecimal digits."""
        return hmac.digest(self._secret, key.encode("utf-8", "surrogateescape"), "sha256").hex()

    def fingerprint(self) -> str:
        """Tells peppers apart without giving one away."""
        return hmac.digest(self._secret, b"osslo: which pepper is this", "sha256").hex()[:16]


def load_pepper(home: Path, setting: str | None) -> Pepper:
    """The pepper from the setting, else from the file in Osslo's home folder, made on first use and
    readable by its owner only. Raises `ConfigurationError` if the file cannot be used."""
    if setting is not None:
        return Pepper(setting.encode())
    path = home / _PEPPER_FILE
    try:
        text = path.read_text(encoding="ascii") if path.exists() else _make_pepper(path)
        secret = bytes.fromhex(text.strip())
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"the key pepper {path} cannot be used ({error}); restore it from a backup, or set "
            "OSSLO_KEY_PEPPER to the one that the keys were made with",
            param="key_pepper",
        ) from error
    if len(secret) < _PEPPER_BYTES:
        raise ConfigurationError(
            f"the key pepper {path} is damaged; restore it from a backup", param="key_pepper"
        )
    return Pepper(secret)


def _make_pepper(path: Path) -> str:
    """Write a new pepper unless another process was faster; what the file then holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(_PEPPER_BYTES) + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)  # fails if the name is taken: whole or not at all
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_text(encoding="ascii")
