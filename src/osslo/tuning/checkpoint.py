"""Checkpoints of a training run: written whole or not at all, the last two kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from osslo.errors import CheckpointError

_PREFIX = "checkpoint-"
_BEST = "best.pt"
_KEPT = 2


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Write the state after `step` steps and remove what is older than the last two."""
    target = folder / f"{_PREFIX}{step:07}.pt"
    _write(target, state)
    for old in checkpoints(folder)[:-_KEPT]:
        old.unlink()
    return target


def load_checkpoint(folder: Path) -> Mapping[str, Any] | None:
    """The state of the last checkpoint, None if there is none. Raises `CheckpointError` for one
    that cannot be read."""
    found = checkpoints(folder)
    return _read(found[-1]) if found else None


def save_best(folder: Path, parameters: Mapping[str, torch.Tensor]) -> None:
    """Write the parameters of the best validation so far."""
    _write(folder / _BEST, parameters)


def load_best(folder: Path) -> Mapping[str, torch.Tensor] | None:
    """What `save_best` wrote last, None if nothing. Raises `CheckpointError`."""
    path = folder / _BEST
    return _read(path) if path.exists() else None


def checkpoints(folder: Path) -> list[Path]:
    """Every checkpoint of a run, the oldest first."""
    return sorted(folder.glob(f"{_PREFIX}*.pt"))


def _write(target: Path, state: Mapping[str, Any]) -> None:
    partial = target.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        state: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler meets
        raise CheckpointError(f"{path}: cannot be read ({error}); delete it") from error
    return state
