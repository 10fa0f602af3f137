"""One file as read-only memory: what every checkpoint reader stands on.

Owns opening and mapping, and views of byte ranges as arrays. Knows nothing of any format.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from osslo.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class MappedFile:
    """A file's bytes, u8 `[size]`, mapped and never copied; views keep the mapping alive."""

    path: Path
    bytes: NDArray[np.uint8]

    @property
    def size(self) -> int:
        return self.bytes.size

    def view(self, offset: int, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
        """The bytes from `offset` on as an array, without a copy; the caller checked the range."""
        kind = np.dtype(dtype)
        end = offset + prod(shape) * kind.itemsize
        return self.bytes[offset:end].view(kind).reshape(shape)


def map_file(path: Path) -> MappedFile:
    """Map `path` for reading. Raises CheckpointError if it is missing, unreadable or empty."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise CheckpointError(f"{path}: the file is empty")
            memory = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    return MappedFile(path, np.frombuffer(memory, np.uint8))
