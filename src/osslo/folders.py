"""The folders of this machine: Osslo's own by the XDG base directories, other programs' by theirs.

Source: XDG Base Directory Specification 0.8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Folders:
    """The folders in use. What is in `home` must be kept, what is in `cache` can be made again;
    the last three belong to other programs and may hold models."""

    home: Path
    cache: Path
    models: Path
    hf_cache: Path
    lmstudio: tuple[Path, ...]
    ollama: Path


def find_folders(home: Path | None, cache: Path | None, variables: Mapping[str, str]) -> Folders:
    """The folders for these settings (None: not set) and this environment."""
    user = _user_home(variables)
    beside = home / "cache" if home else None
    user_cache = xdg_folder(variables, "XDG_CACHE_HOME", ".cache")
    kept = home or xdg_folder(variables, "XDG_DATA_HOME", ".local/share") / "osslo"
    hf_home = variables.get("HF_HOME")
    hf_root = Path(hf_home) if hf_home else user_cache / "huggingface"
    hf_cache = variables.get("HF_HUB_CACHE")
    ollama = variables.get("OLLAMA_MODELS")
    return Folders(
        home=kept,
        cache=cache or beside or user_cache / "osslo",
        models=kept / "models",
        hf_cache=Path(hf_cache) if hf_cache else hf_root / "hub",
        lmstudio=(user / ".lmstudio" / "models", user / ".cache" / "lm-studio" / "models"),
        ollama=Path(ollama) if ollama else user / ".ollama" / "models",
    )


def xdg_folder(variables: Mapping[str, str], variable: str, fallback: str) -> Path:
    """An XDG folder; the specification says that relative values are to be ignored."""
    named = Path(variables.get(variable, ""))
    return named if named.is_absolute() else _user_home(variables) / fallback


def _user_home(variables: Mapping[str, str]) -> Path:
    named = variables.get("HOME")
    return Path(named) if named else Path.home()
