"""gpt-oss models in GGUF, as ggml-org or Ollama publish them: one file, or a split one.

Owns finding the parts, checking every tensor against the metadata, and bringing GGUF's blocks into
the arrangement of `kernels.formats`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from osslo.errors import CheckpointError
from osslo.model.checkpoints.base import NamedTensors, files_fingerprint, mismatch, missing
from osslo.model.checkpoints.gguf import (
    GgmlType,
    GgufFile,
    MetadataValue,
    decode_blocks,
    halves_to_pairs,
)
from osslo.model.checkpoints.layouts import GGUF, Expected, ollama_layout
from osslo.model.checkpoints.tensors import (
    Bf16Matrix,
    F16Matrix,
    F32Matrix,
    GgufVocabulary,
    Matrix,
    Mxfp4Matrix,
    Q8Matrix,
    StoredTensor,
    check_scales,
)
from osslo.model.config import ModelConfig, is_ollama

_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_VECTOR_TYPES = (GgmlType.F32, GgmlType.F16, GgmlType.BF16)
_MXFP4_TYPES = (GgmlType.MXFP4, GgmlType.MXFP4_PAIRS)
_TOKENIZER = "tokenizer."
_OLLAMA_PADDING = re.compile(r"\[PAD\d+\]")
_USER_DEFINED, _UNUSED = 4, 5  # types of tokens


class GgufCheckpoint:
    """An opened GGUF model; implements `Checkpoint`. Raises CheckpointError, one line that names
    file, tensor and mismatch."""

    format = "gguf"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parts = [GgufFile(part) for part in _part_paths(path)]
        self._files = _tensor_files(self._parts)
        metadata = self._parts[0].metadata
        self.config = ModelConfig.from_gguf(metadata, source=str(path))
        layout = ollama_layout(self._files) if is_ollama(metadata) else GGUF
        tied = layout.templates["head"] not in self._files
        self._named = NamedTensors(path, self.config, layout, tied=tied)
        for expected in layout.expected(self.config):
            if not (tied and expected.stored == layout.templates["head"]):
                self._check(expected)

    def names(self) -> tuple[str, ...]:
        return self._named.names()

    def matrix(self, name: str) -> Matrix:
        place = self._named.place(name, is_matrix=True)
        file = self._files[place.stored]
        kind = file.tensors[place.stored].type
        blocks = file.blocks(place.stored)[place.index]
        if kind in _MXFP4_TYPES:
            check_scales(file.path, name, blocks[..., 0])
        return _matrix(kind, blocks)

    def vector(self, name: str) -> NDArray[np.float32]:
        place = self._named.place(name, is_matrix=False)
        values = self._files[place.stored].float32(place.stored)[place.index]
        return np.ascontiguousarray(values)

    def tokenizer_source(self) -> GgufVocabulary | None:
        metadata = self._parts[0].metadata
        if not isinstance(metadata.get("tokenizer.ggml.tokens"), list):
            return None
        kept = {key: value for key, value in metadata.items() if key.startswith(_TOKENIZER)}
        if is_ollama(metadata):
            kept |= _ollama_vocabulary(kept)
        return GgufVocabulary(MappingProxyType(kept))

    def fingerprint(self) -> str:
        return files_fingerprint(
            (part.path for part in self._parts), (part.header_bytes() for part in self._parts)
        )

    def stored_bytes(self) -> int:
        return sum(t.stored_bytes for part in self._parts for t in part.tensors.values())

    def describe(self) -> tuple[StoredTensor, ...]:
        return tuple(
            StoredTensor(t.name, t.type.name, t.shape, t.stored_bytes)
            for part in self._parts
            for t in part.tensors.values()
        )

    def _check(self, expected: Expected) -> None:
        file = self._files.get(expected.stored)
        if file is None:
            raise missing(self.path, expected.stored)
        tensor = file.tensors[expected.stored]
        types = tuple(GgmlType) if expected.is_matrix else _VECTOR_TYPES
        if tensor.shape != expected.shape or tensor.type not in types:
            needed = " or ".join(kind.name for kind in types)
            raise mismatch(
                file.path,
                expected.stored,
                f"{tensor.type.name} {list(tensor.shape)}",
                f"{needed} {list(expected.shape)}",
            )


def _matrix(kind: GgmlType, blocks: NDArray[np.uint8]) -> Matrix:
    """A matrix from its raw blocks u8 `[rows, blocks in a row, block_bytes]`."""
    rows = blocks.shape[0]
    match kind:
        case GgmlType.MXFP4:
            return Mxfp4Matrix(halves_to_pairs(blocks[..., 1:]), blocks[..., 0])
        case GgmlType.MXFP4_PAIRS:
            return Mxfp4Matrix(blocks[..., 1:], blocks[..., 0])
        case GgmlType.Q8_0:
            scales = np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0]
            values = np.ascontiguousarray(blocks[..., 2:]).view(np.int8).reshape(rows, -1)
            return Q8Matrix(values, scales)
        case GgmlType.BF16:
            return Bf16Matrix(blocks.reshape(rows, -1).view("<u2"))
        case GgmlType.F16:
            return F16Matrix(blocks.reshape(rows, -1).view("<f2"))
        case GgmlType.F32 | GgmlType.Q4_0 | GgmlType.Q4_1:
            return F32Matrix(decode_blocks(kind, blocks).reshape(rows, -1))


def _ollama_vocabulary(metadata: Mapping[str, MetadataValue]) -> dict[str, MetadataValue]:
    """What Ollama's files get wrong of the tokenizer, put right.

    Its converter calls the pre-tokenizer `default`, and its runtime cuts text as o200k does
    whatever stands there. The padding up to the embedding's rows it calls user-defined, so that
    text could spell it; llama.cpp's converter calls it unused.
    """
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata.get("tokenizer.ggml.token_type")
    changed: dict[str, MetadataValue] = {"tokenizer.ggml.pre": "gpt-4o"}
    if isinstance(tokens, list) and isinstance(types, list) and len(tokens) == len(types):
        changed["tokenizer.ggml.token_type"] = [
            _UNUSED if kind == _USER_DEFINED and _OLLAMA_PADDING.fullmatch(str(token)) else kind
            for token, kind in zip(tokens, types, strict=True)
        ]
    return changed


def _tensor_files(parts: list[GgufFile]) -> Mapping[str, GgufFile]:
    files: dict[str, GgufFile] = {}
    for part in parts:
        for name in part.tensors:
            if name in files:
                raise CheckpointError(
                    f"{part.path}: tensor {name} stands in {files[name].path.name} too"
                )
            files[name] = part
    return MappingProxyType(files)


def _part_paths(path: Path) -> list[Path]:
    """The files of a split model, named `NAME-00001-of-00003.gguf`; else the file itself."""
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match[3])
    if int(match[2]) != 1 or count < 1:
        raise CheckpointError(f"{path}: give the first part of a split model (-00001-of-)")
    parts = [path.with_name(f"{match[1]}-{i + 1:05d}-of-{match[3]}.gguf") for i in range(count)]
    for part in parts:
        if not part.is_file():
            raise CheckpointError(f"{part}: this part of the split model is missing")
    return parts
