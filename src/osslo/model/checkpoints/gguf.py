"""GGUF files at the lowest level: metadata, tensors, and their values as float32.

Owns the container (versions 2 and 3, little-endian; github.com/ggml-org/ggml/blob/master/docs/
gguf.md) and the block layouts of the tensor types Osslo reads. What the tensors of a gpt-oss model
mean is `gguf_checkpoint`'s; writing is `gguf_write`'s.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from osslo.errors import CheckpointError
from osslo.kernels import formats
from osslo.model.checkpoints.mapped import MappedFile, map_file

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
_MAX_DIMENSIONS = 4
_MAX_ARRAY_DEPTH = 2

MetadataValue = int | float | bool | str | list["MetadataValue"]


class GgmlType(IntEnum):
    """The tensor types read here, by their number in the file.

    MXFP4_PAIRS is Ollama's first MXFP4, with elements 2j and 2j + 1 in byte j. ggml had given its
    number to a type that was gone before GGUF came, so it means nothing else.
    """

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    MXFP4_PAIRS = 4
    Q8_0 = 8
    BF16 = 30
    MXFP4 = 39

    @property
    def block_values(self) -> int:
        """Values in one block."""
        return _BLOCKS[self][0]

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return _BLOCKS[self][1]

    def row_bytes(self, columns: int) -> int:
        """Bytes of one row of `columns` values, a multiple of `block_values`."""
        return columns // self.block_values * self.block_bytes


_BLOCKS = {
    GgmlType.F32: (1, 4),
    GgmlType.F16: (1, 2),
    GgmlType.BF16: (1, 2),
    GgmlType.Q4_0: (32, 18),  # float16 scale, 16 bytes
    GgmlType.Q4_1: (32, 20),  # float16 scale, float16 minimum, 16 bytes
    GgmlType.Q8_0: (32, 34),  # float16 scale, 32 bytes
    GgmlType.MXFP4: (32, 17),  # E8M0 scale, 16 bytes
    GgmlType.MXFP4_PAIRS: (32, 17),
}


class ValueType(IntEnum):
    """The metadata types, by their number in the file."""

    U8 = 0
    I8 = 1
    U16 = 2
    I16 = 3
    U32 = 4
    I32 = 5
    F32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    U64 = 10
    I64 = 11
    F64 = 12


SCALAR_DTYPES: Mapping[ValueType, str] = MappingProxyType(
    {
        ValueType.U8: "<u1",
        ValueType.I8: "<i1",
        ValueType.U16: "<u2",
        ValueType.I16: "<i2",
        ValueType.U32: "<u4",
        ValueType.I32: "<i4",
        ValueType.F32: "<f4",
        ValueType.BOOL: "?",
        ValueType.U64: "<u8",
        ValueType.I64: "<i8",
        ValueType.F64: "<f8",
    }
)


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where one tensor lies. `shape` has the slowest dimension first, as NumPy has it (GGUF files
    list it the other way round); `offset` counts from the start of the file."""

    name: str
    type: GgmlType
    shape: tuple[int, ...]
    offset: int
    stored_bytes: int


class GgufFile:
    """An opened GGUF file. Every tensor's type, shape and byte range is checked here.

    Raises CheckpointError, one line naming file, tensor and mismatch.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = map_file(path)
        cursor = _Cursor(self._file)
        tensor_count, value_count = _read_header(cursor)
        self.metadata: Mapping[str, MetadataValue] = MappingProxyType(
            _read_metadata(cursor, value_count)
        )
        self.tensors: Mapping[str, GgufTensor] = MappingProxyType(
            _read_tensors(cursor, tensor_count, self.metadata)
        )

    def blocks(self, name: str) -> NDArray[np.uint8]:
        """The raw bytes of a tensor as u8 `[*shape[:-1], blocks in a row, block_bytes]`, mapped."""
        tensor = self._tensor(name)
        row_blocks = tensor.shape[-1] // tensor.type.block_values
        shape = (*tensor.shape[:-1], row_blocks, tensor.type.block_bytes)
        view: NDArray[np.uint8] = self._file.view(tensor.offset, np.uint8, shape)
        return view

    def float32(self, name: str) -> NDArray[np.float32]:
        """A tensor's values, float32 of its shape (a copy, but for F32)."""
        tensor = self._tensor(name)
        return decode_blocks(tensor.type, self.blocks(name)).reshape(tensor.shape)

    def header_bytes(self) -> NDArray[np.uint8]:
        """Everything before the first tensor's data, mapped."""
        start = min((t.offset for t in self.tensors.values()), default=self._file.size)
        return self._file.bytes[:start]

    def _tensor(self, name: str) -> GgufTensor:
        try:
            return self.tensors[name]
        except KeyError:
            raise CheckpointError(f"{self.path}: tensor {name} is missing") from None


# --- blocks ---------------------------------------------------------------------------------------


def decode_blocks(kind: GgmlType, blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Raw blocks u8 `[..., block_bytes]` as float32 `[..., block_values]`."""
    return _DECODERS[kind](blocks)


_LOW_NIBBLES = np.uint16(0x0F0F)


def halves_to_pairs(nibbles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reorder 4-bit blocks u8 `[..., 16]` from GGUF's order to `kernels.formats`' order.

    GGUF keeps elements 0-15 in the low and 16-31 in the high nibbles; `formats` keeps elements 2j
    and 2j + 1 in byte j. So two neighbouring bytes become one byte in each half.
    """
    couples = np.ascontiguousarray(nibbles).view("<u2")
    first, second = couples & _LOW_NIBBLES, (couples >> 4) & _LOW_NIBBLES
    first |= first >> 4
    second |= second >> 4
    return np.concatenate([first.astype(np.uint8), second.astype(np.uint8)], axis=-1)


def pairs_to_halves(nibbles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The inverse of `halves_to_pairs`."""
    first, second = nibbles[..., :8].astype("<u2"), nibbles[..., 8:].astype("<u2")
    first |= first << 4
    second |= second << 4
    halves = (first & _LOW_NIBBLES) | ((second & _LOW_NIBBLES) << 4)
    return halves.view(np.uint8)


def _scale(blocks: NDArray[np.uint8], offset: int) -> NDArray[np.float32]:
    """The float16 at `offset` of every block as float32 `[..., 1]`."""
    return np.ascontiguousarray(blocks[..., offset : offset + 2]).view("<f2").astype(np.float32)


def _codes(blocks: NDArray[np.uint8], offset: int) -> NDArray[np.float32]:
    """The 32 four-bit codes from byte `offset` of every block on, float32 `[..., 32]`."""
    nibbles = blocks[..., offset : offset + 16]
    return np.concatenate([nibbles & 0x0F, nibbles >> 4], axis=-1).astype(np.float32)


def _decode_f32(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    return blocks.view("<f4")


def _decode_f16(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    return blocks.view("<f2").astype(np.float32)


def _decode_bf16(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    return formats.bf16_decode(blocks.view("<u2"))


def _decode_q4_0(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore"):
        values: NDArray[np.float32] = (_codes(blocks, 2) - 8) * _scale(blocks, 0)
    return values


def _decode_q4_1(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore"):
        return _codes(blocks, 4) * _scale(blocks, 0) + _scale(blocks, 2)


def _decode_q8_0(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    values = blocks[..., 2:].view(np.int8).astype(np.float32)
    with np.errstate(invalid="ignore"):
        return values * _scale(blocks, 0)


def _decode_mxfp4(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    return formats.mxfp4_decode(halves_to_pairs(blocks[..., 1:]), blocks[..., 0])


def _decode_mxfp4_pairs(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    return formats.mxfp4_decode(blocks[..., 1:], blocks[..., 0])


_DECODERS: Mapping[GgmlType, Callable[[NDArray[np.uint8]], NDArray[np.float32]]] = MappingProxyType(
    {
        GgmlType.F32: _decode_f32,
        GgmlType.F16: _decode_f16,
        GgmlType.BF16: _decode_bf16,
        GgmlType.Q4_0: _decode_q4_0,
        GgmlType.Q4_1: _decode_q4_1,
        GgmlType.Q8_0: _decode_q8_0,
        GgmlType.MXFP4: _decode_mxfp4,
        GgmlType.MXFP4_PAIRS: _decode_mxfp4_pairs,
    }
)


# --- the header -----------------------------------------------------------------------------------


class _Cursor:
    """Reads the header from front to back; running off the end is a CheckpointError."""

    def __init__(self, file: MappedFile) -> None:
        self.path = file.path
        self.size = file.size
        self.position = 0
        self._memory = file.bytes.data

    def fail(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {what}")

    def take(self, count: int, what: str) -> memoryview:
        end = self.position + count
        if end > self.size:
            raise self.fail(f"truncated: the file ends inside {what}")
        piece = self._memory[self.position : end]
        self.position = end
        return piece

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "little")

    def string(self, what: str) -> str:
        raw = self.take(self.u64(what), what)
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"{what} is not UTF-8 text") from None


def _read_header(cursor: _Cursor) -> tuple[int, int]:
    """Check magic and version; the counts of tensors and of metadata values."""
    if bytes(cursor.take(min(4, cursor.size), "the magic number")) != MAGIC:
        raise cursor.fail("not a GGUF file (the magic number differs)")
    version = cursor.u32("the version")
    if version not in (2, 3):
        raise cursor.fail(f"GGUF version {version} is not supported (2 and 3 are)")
    return cursor.u64("the tensor count"), cursor.u64("the metadata count")


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, MetadataValue]:
    metadata: dict[str, MetadataValue] = {}
    for index in range(count):
        key = cursor.string(f"metadata key {index}")
        if key in metadata:
            raise cursor.fail(f"metadata {key} appears twice")
        kind = _value_type(cursor, f"metadata {key}")
        metadata[key] = _read_value(cursor, kind, f"metadata {key}", depth=0)
    return metadata


def _value_type(cursor: _Cursor, what: str) -> ValueType:
    number = cursor.u32(what)
    try:
        return ValueType(number)
    except ValueError:
        raise cursor.fail(f"{what} has the unknown type {number}") from None


def _read_value(cursor: _Cursor, kind: ValueType, what: str, *, depth: int) -> MetadataValue:
    if kind is ValueType.STRING:
        return cursor.string(what)
    if kind is ValueType.ARRAY:
        return _read_array(cursor, what, depth=depth + 1)
    dtype = np.dtype(SCALAR_DTYPES[kind])
    value: MetadataValue = np.frombuffer(cursor.take(dtype.itemsize, what), dtype)[0].item()
    return value


def _read_array(cursor: _Cursor, what: str, *, depth: int) -> list[MetadataValue]:
    if depth > _MAX_ARRAY_DEPTH:
        raise cursor.fail(f"{what} nests arrays too deeply")
    kind = _value_type(cursor, what)
    count = cursor.u64(what)
    if kind is ValueType.STRING:
        return list(_read_strings(cursor, count, what))
    if kind is ValueType.ARRAY:
        return [_read_array(cursor, what, depth=depth + 1) for _ in range(count)]
    dtype = np.dtype(SCALAR_DTYPES[kind])
    values: list[MetadataValue] = np.frombuffer(
        cursor.take(count * dtype.itemsize, what), dtype
    ).tolist()
    return values


def _read_strings(cursor: _Cursor, count: int, what: str) -> Iterator[str]:
    """`count` strings; a plain loop over local names, since vocabularies have 200,000 of them."""
    memory, position, size = cursor.take(cursor.size - cursor.position, what), 0, 0
    end = len(memory)
    for index in range(count):
        if position + 8 > end:
            raise cursor.fail(f"truncated: the file ends inside {what}")
        (size,) = struct.unpack_from("<Q", memory, position)
        position += 8
        if position + size > end:
            raise cursor.fail(f"truncated: the file ends inside {what}")
        try:
            yield str(memory[position : position + size], "utf-8")
        except UnicodeDecodeError:
            raise cursor.fail(f"{what}, string {index}, is not UTF-8 text") from None
        position += size
    cursor.position += position - end


def _read_tensors(
    cursor: _Cursor, count: int, metadata: Mapping[str, MetadataValue]
) -> dict[str, GgufTensor]:
    found = [_read_tensor(cursor, index) for index in range(count)]
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 8 or alignment % 8:
        raise cursor.fail(f"general.alignment {alignment} is not a positive multiple of 8")
    start = -(-cursor.position // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    for tensor in found:
        if tensor.name in tensors:
            raise cursor.fail(f"tensor {tensor.name} appears twice")
        tensors[tensor.name] = _place(cursor, tensor, start, alignment)
    return tensors


def _read_tensor(cursor: _Cursor, index: int) -> GgufTensor:
    """One entry of the tensor list; its offset still counts from the start of the data."""
    name = cursor.string(f"the name of tensor {index}")
    what = f"the entry of tensor {name}"
    dimensions = cursor.u32(what)
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise cursor.fail(f"tensor {name} has {dimensions} dimensions, 1 to 4 are possible")
    shape = tuple(reversed([cursor.u64(what) for _ in range(dimensions)]))
    if 0 in shape:
        raise cursor.fail(f"tensor {name} has a dimension of 0")
    number = cursor.u32(what)
    try:
        kind = GgmlType(number)
    except ValueError:
        readable = ", ".join(t.name for t in GgmlType)
        raise cursor.fail(
            f"tensor {name} has GGML type {number}, which is not read here ({readable} are)"
        ) from None
    if shape[-1] % kind.block_values:
        raise cursor.fail(
            f"tensor {name}: rows of {shape[-1]} values do not divide into {kind.name} blocks"
        )
    stored = prod(shape[:-1]) * kind.row_bytes(shape[-1])
    return GgufTensor(name, kind, shape, cursor.u64(what), stored)


def _place(cursor: _Cursor, tensor: GgufTensor, start: int, alignment: int) -> GgufTensor:
    """Turn the offset into one from the start of the file, and check that the bytes are there."""
    if tensor.offset % alignment:
        raise cursor.fail(f"tensor {tensor.name} is not aligned to {alignment} bytes")
    offset = start + tensor.offset
    if offset + tensor.stored_bytes > cursor.size:
        raise cursor.fail(
            f"truncated: tensor {tensor.name} ends at byte {offset + tensor.stored_bytes}, "
            f"the file at byte {cursor.size}"
        )
    return GgufTensor(tensor.name, tensor.type, tensor.shape, offset, tensor.stored_bytes)
