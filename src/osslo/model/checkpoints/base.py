"""What the readers of all formats share: looking names up, and fingerprints of files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from osslo.errors import CheckpointError
from osslo.model.checkpoints.layouts import Layout, Place
from osslo.model.checkpoints.tensors import TensorName, parse_name, tensor_names, tensor_shape
from osslo.model.config import ModelConfig


class NamedTensors:
    """The canonical names of one checkpoint, and where its layout puts them.

    `tied` says that the output head is the embedding.
    """

    def __init__(self, path: Path, config: ModelConfig, layout: Layout, *, tied: bool) -> None:
        self.path = path
        self.config = config
        self._layout = layout
        self._tied = tied

    def names(self) -> tuple[str, ...]:
        return tensor_names(self.config)

    def place(self, name: str, *, is_matrix: bool) -> Place:
        """Where `name` lies. Raises CheckpointError if it is unknown or of the other kind."""
        found = parse_name(self.config, name)
        if found is None:
            raise CheckpointError(f"{self.path}: this model has no tensor {name}")
        if (len(tensor_shape(self.config, found)) == 2) != is_matrix:
            kind = "vector" if is_matrix else "matrix"
            raise CheckpointError(f"{self.path}: tensor {name} is a {kind}")
        if self._tied and found.part == "head":
            found = TensorName("embedding")
        return self._layout.place(self.config, found)


def mismatch(path: Path, tensor: str, found: str, needed: str) -> CheckpointError:
    """The one line for a tensor that is not what the configuration asks for."""
    return CheckpointError(f"{path}: tensor {tensor} is {found}, but must be {needed}")


def missing(path: Path, tensor: str) -> CheckpointError:
    """The one line for a tensor that is not there."""
    return CheckpointError(f"{path}: tensor {tensor} is missing")


def files_fingerprint(files: Iterable[Path], headers: Iterable[NDArray[np.uint8]]) -> str:
    """SHA-256, in hex, over names, sizes and modification times of files, and over headers."""
    digest = hashlib.sha256()
    for path in files:
        status = path.stat()
        digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    for header in headers:
        digest.update(header.size.to_bytes(8, "little"))
        digest.update(header.data)
    return digest.hexdigest()
