"""Writing checkpoint files piece by piece, in constant memory.

Owns the ordered writer, which gives a file its name only when every byte is there, and the headers
of safetensors and GGUF files.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osslo.model.checkpoints.gguf import (
    DEFAULT_ALIGNMENT,
    MAGIC,
    SCALAR_DTYPES,
    GgmlType,
    MetadataValue,
    ValueType,
)
from osslo.model.checkpoints.safetensors import DTYPES

_GGUF_VERSION = 3
_SAFETENSORS_ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class SafeSpec:
    """A tensor to be written to a safetensors file; `dtype` as the format spells it."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def stored_bytes(self) -> int:
        return prod(self.shape) * np.dtype(DTYPES[self.dtype]).itemsize


@dataclass(frozen=True, slots=True)
class GgufSpec:
    """A tensor to be written to a GGUF file; `shape` has the slowest dimension first."""

    name: str
    type: GgmlType
    shape: tuple[int, ...]

    @property
    def stored_bytes(self) -> int:
        return prod(self.shape[:-1]) * self.type.row_bytes(self.shape[-1])


class OrderedWriter:
    """Writes a header and then tensors in their given order, each in any number of pieces.

    The file is written beside `path` and renamed when the `with` block ends well; otherwise it is
    removed. `alignment` pads the start of every tensor with zeros.
    """

    def __init__(
        self, path: Path, header: bytes, tensors: Sequence[SafeSpec | GgufSpec], *, alignment: int
    ) -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        self._pending = [(tensor.name, tensor.stored_bytes) for tensor in reversed(tensors)]
        self._alignment = alignment
        self._left = 0
        self._current = ""
        self._file = self._partial.open("wb")
        self._file.write(header)

    def write(self, name: str, piece: NDArray[Any]) -> None:
        """Append a piece of tensor `name`, contiguous or not."""
        if self._left == 0:
            self._current, self._left = self._pending.pop()
            self._file.write(bytes(-self._file.tell() % self._alignment))
        if name != self._current or piece.nbytes > self._left:
            raise AssertionError(
                f"{piece.nbytes} bytes of {name} where {self._left} of {self._current} are due"
            )
        self._file.write(np.ascontiguousarray(piece).data)
        self._left -= piece.nbytes

    def __enter__(self) -> OrderedWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.write(bytes(-self._file.tell() % self._alignment))
        self._file.close()
        if kind is None and not self._left and not self._pending:
            self._partial.replace(self._path)
            return
        self._partial.unlink()
        if kind is None:
            raise AssertionError(f"{self._path.name} is incomplete")


def safetensors_writer(path: Path, tensors: Sequence[SafeSpec]) -> OrderedWriter:
    """A writer of a safetensors file with these tensors, in this order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.stored_bytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _SAFETENSORS_ALIGNMENT)
    return OrderedWriter(path, struct.pack("<Q", len(text)) + text, tensors, alignment=1)


def gguf_writer(
    path: Path, metadata: Mapping[str, MetadataValue], tensors: Sequence[GgufSpec]
) -> OrderedWriter:
    """A writer of a GGUF file (version 3) with these tensors, in this order.

    Python's int becomes U32 (U64 or I64 where it must), float F32, and lists take the type of
    their first item (integers I32). An empty list is one of strings: the one that occurs, a
    tokenizer's merges, is refused by llama.cpp as anything else.
    """
    header = bytearray(MAGIC + struct.pack("<IQQ", _GGUF_VERSION, len(tensors), len(metadata)))
    for key, value in metadata.items():
        kind = _value_type(value)
        header += _text(key) + struct.pack("<I", kind) + _value(kind, value)
    offset = 0
    for tensor in tensors:
        dimensions = tuple(reversed(tensor.shape))
        header += _text(tensor.name) + struct.pack("<I", len(dimensions))
        header += struct.pack(f"<{len(dimensions)}Q", *dimensions)
        header += struct.pack("<IQ", tensor.type, offset)
        offset += -(-tensor.stored_bytes // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT
    header += bytes(-len(header) % DEFAULT_ALIGNMENT)
    return OrderedWriter(path, bytes(header), tensors, alignment=DEFAULT_ALIGNMENT)


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value_type(value: MetadataValue) -> ValueType:
    match value:
        case bool():
            return ValueType.BOOL
        case int():
            if 0 <= value < 2**32:
                return ValueType.U32
            return ValueType.I64 if value < 0 else ValueType.U64
        case float():
            return ValueType.F32
        case str():
            return ValueType.STRING
        case list():
            return ValueType.ARRAY


def _value(kind: ValueType, value: MetadataValue) -> bytes:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return _array(value)
    return np.array(value, SCALAR_DTYPES[kind]).tobytes()


def _array(values: list[MetadataValue]) -> bytes:
    kind = _value_type(values[0]) if values else ValueType.STRING
    if kind in (ValueType.U32, ValueType.I64):
        kind = ValueType.I32
    items = b"".join(_value(kind, value) for value in values)
    return struct.pack("<IQ", kind, len(values)) + items
