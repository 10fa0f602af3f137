"""Telling what kind of checkpoint a path is, and opening it."""

from __future__ import annotations

from pathlib import Path

from osslo.errors import CheckpointError
from osslo.model.checkpoints import gguf
from osslo.model.checkpoints.gguf_checkpoint import GgufCheckpoint
from osslo.model.checkpoints.safetensors_checkpoint import CONFIG_NAME, open_safetensors
from osslo.model.checkpoints.tensors import Checkpoint

_ORIGINAL = "original"


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a model folder or a GGUF file, checking that every tensor is there and fits.

    A folder may hold Hugging Face safetensors, OpenAI's `original/` files (itself, or in a
    subfolder of that name), or one GGUF model. Raises CheckpointError.
    """
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file or folder")
    if path.suffix == ".safetensors":
        raise CheckpointError(f"{path}: give the folder that holds it and {CONFIG_NAME}")
    if path.suffix == ".gguf" or _begins_as_gguf(path):
        return GgufCheckpoint(path)
    raise CheckpointError(f"{path}: not a checkpoint (a model folder or a GGUF file is)")


def _open_folder(folder: Path) -> Checkpoint:
    has_config = (folder / CONFIG_NAME).is_file()
    if has_config and any(folder.glob("*.safetensors")):
        return open_safetensors(folder)
    if (folder / _ORIGINAL / CONFIG_NAME).is_file():
        return open_safetensors(folder / _ORIGINAL)
    models = [
        path
        for path in sorted(folder.glob("*.gguf"))
        if "-of-" not in path.name or "-00001-of-" in path.name
    ]
    if len(models) == 1:
        return GgufCheckpoint(models[0])
    if models:
        names = ", ".join(path.name for path in models)
        raise CheckpointError(f"{folder}: several GGUF models ({names}); give one of the files")
    if has_config:
        raise CheckpointError(f"{folder}: there is no safetensors file beside {CONFIG_NAME}")
    raise CheckpointError(
        f"{folder}: not a model folder (neither {CONFIG_NAME} nor a GGUF file is in it)"
    )


def _begins_as_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(gguf.MAGIC)) == gguf.MAGIC
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
