"""The key that callers of a server on this machine need, and the file that keeps it."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from osslo.errors import ConfigurationError
from osslo.settings import Settings

_KEY_FILE = "api-key"


def api_key(settings: Settings) -> tuple[str, str]:
    """The key that callers need and where it comes from: `OSSLO_API_KEY`, else the one kept in
    Osslo's home folder, made there on the first start and readable by its owner only."""
    if settings.server.api_key is not None:
        return settings.server.api_key, "OSSLO_API_KEY"
    path = settings.folders.home / _KEY_FILE
    try:
        kept = path.read_text(encoding="ascii").strip() if path.exists() else ""
        return (kept, str(path)) if kept else (_new_key(path), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the key file {path} cannot be used ({error}); set OSSLO_API_KEY or OSSLO_HOME"
        ) from error


def _new_key(path: Path) -> str:
    key = "sk-osslo-" + secrets.token_urlsafe(24)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        os.fchmod(file.fileno(), 0o600)  # also where the file was there with other rights
        file.write(key + "\n")
    return key
