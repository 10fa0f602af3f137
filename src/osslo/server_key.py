"""The secrets of a server on this machine, and the files that keep them: the key that callers need,
and the one that seals what they keep for the server."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from osslo.api.seal import KEY_BYTES
from osslo.errors import ConfigurationError
from osslo.settings import Settings

_KEY_FILE = "api-key"
_SEAL_FILE = "seal-key"


def api_key(settings: Settings) -> tuple[str, str]:
    """The key that callers need and where it comes from: `OSSLO_API_KEY`, else the one kept in
    Osslo's home folder, made there on the first start and readable by its owner only."""
    if settings.server.api_key is not None:
        return settings.server.api_key, "OSSLO_API_KEY"
    path = settings.folders.home / _KEY_FILE
    return _kept(path, "sk-osslo-" + secrets.token_urlsafe(24), "OSSLO_API_KEY"), str(path)


def seal_key(settings: Settings) -> bytes:
    """The 32 bytes that seal reasoning: `OSSLO_SEAL_KEY`, else kept as `api_key` is."""
    if settings.server.seal_key is not None:
        return settings.server.seal_key
    path = settings.folders.home / _SEAL_FILE
    kept = _kept(path, secrets.token_hex(KEY_BYTES), "OSSLO_SEAL_KEY")
    try:
        key = bytes.fromhex(kept)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigurationError(
            f"the key file {path} does not hold {KEY_BYTES} bytes in hexadecimal; delete it, and "
            "what was sealed with it can no longer be read"
        )
    return key


def _kept(path: Path, fresh: str, setting: str) -> str:
    """What the file holds; `fresh`, written to it, if there is nothing yet."""
    try:
        kept = path.read_text(encoding="ascii").strip() if path.exists() else ""
        return kept or _keep(path, fresh)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the key file {path} cannot be used ({error}); set {setting} or OSSLO_HOME"
        ) from error


def _keep(path: Path, key: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        os.fchmod(file.fileno(), 0o600)  # also where the file was there with other rights
        file.write(key + "\n")
    return key
