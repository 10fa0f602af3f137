"""Safetensors files at the lowest level: headers, byte ranges, and arrays mapped from them.

Owns the container (huggingface.co/docs/safetensors): eight bytes of header length, a JSON header,
then the data. A checkpoint may be several such files; they are read as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from osslo.errors import CheckpointError
from osslo.kernels import formats
from osslo.model.checkpoints.mapped import MappedFile, map_file
from osslo.model.fields import parse_json_object

DTYPES: Mapping[str, str] = MappingProxyType(
    {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1"}  # BF16 as its bits
)
"""The dtypes read here; tensors of others may stand in a file, unread."""

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_MAX_DIMENSIONS = 8


@dataclass(frozen=True, slots=True)
class SafeTensor:
    """Where one tensor lies; `offset` counts from the start of its file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: MappedFile
    offset: int
    stored_bytes: int

    def array(self) -> NDArray[Any]:
        """The values, mapped, in the dtype `DTYPES` names for them."""
        return self.file.view(self.offset, DTYPES[self.dtype], self.shape)

    def float32(self) -> NDArray[np.float32]:
        """The values as float32 (a copy, but for F32)."""
        values = self.array()
        if self.dtype == "BF16":
            return formats.bf16_decode(values)
        return values.astype(np.float32, copy=False)


class SafetensorsFiles:
    """One or several safetensors files, opened and checked. Raises CheckpointError."""

    def __init__(self, paths: Iterable[Path]) -> None:
        tensors: dict[str, SafeTensor] = {}
        headers: list[tuple[MappedFile, NDArray[np.uint8]]] = []
        for path in paths:
            file = map_file(path)
            header = _header(file)
            headers.append((file, header))
            for tensor in _entries(file, header):
                if tensor.name in tensors:
                    raise CheckpointError(
                        f"{path}: tensor {tensor.name} stands in "
                        f"{tensors[tensor.name].file.path.name} too"
                    )
                tensors[tensor.name] = tensor
        self.tensors: Mapping[str, SafeTensor] = MappingProxyType(tensors)
        self.headers = tuple(headers)


def _header(file: MappedFile) -> NDArray[np.uint8]:
    """The header's bytes, mapped."""
    if file.size < _LENGTH_BYTES:
        raise CheckpointError(f"{file.path}: truncated: {file.size} bytes are no safetensors file")
    length = int.from_bytes(file.bytes[:_LENGTH_BYTES].tobytes(), "little")
    if length > _MAX_HEADER_BYTES:
        raise CheckpointError(f"{file.path}: not a safetensors file (header of {length} bytes)")
    if _LENGTH_BYTES + length > file.size:
        raise CheckpointError(f"{file.path}: truncated: the file ends inside its header")
    return file.bytes[_LENGTH_BYTES : _LENGTH_BYTES + length]


def _entries(file: MappedFile, header: NDArray[np.uint8]) -> list[SafeTensor]:
    start = _LENGTH_BYTES + header.size
    found = [
        _entry(file, start, name, entry)
        for name, entry in parse_json_object(file.path, header.tobytes()).items()
        if name != "__metadata__"
    ]
    end = start
    for tensor in sorted(found, key=lambda t: (t.offset, t.stored_bytes)):
        if tensor.offset < end:
            raise CheckpointError(f"{file.path}: tensor {tensor.name} overlaps another one")
        end = tensor.offset + tensor.stored_bytes
    return found


def _entry(file: MappedFile, start: int, name: str, entry: object) -> SafeTensor:
    def fail(what: str) -> CheckpointError:
        return CheckpointError(f"{file.path}: tensor {name}: {what}")

    if not isinstance(entry, dict):
        raise fail("its header entry is not an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str):
        raise fail("its dtype is missing")
    if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise fail("its shape is not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise fail("its data_offsets are not a range")
    begin, end = start + offsets[0], start + offsets[1]
    if end > file.size:
        raise fail(f"truncated: it ends at byte {end}, the file at byte {file.size}")
    if dtype in DTYPES and prod(shape) * np.dtype(DTYPES[dtype]).itemsize != end - begin:
        raise fail(f"{dtype} {shape} does not fill its {end - begin} bytes")
    return SafeTensor(name, dtype, tuple(shape), file, begin, end - begin)


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value
    )
