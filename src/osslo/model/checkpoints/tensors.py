"""What every checkpoint gives: matrices in the numbers they are stored in, and their names.

Owns the `Matrix` sum type, the canonical tensor names, and the `Checkpoint` protocol. Reading any
one format is its own module's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from osslo.errors import CheckpointError
from osslo.kernels import formats
from osslo.model.checkpoints.gguf import MetadataValue
from osslo.model.config import ModelConfig

# Matrices are `[rows = outputs, cols = inputs]`. Their arrays are views of the mapped file where
# the format allows it: read-only, perhaps strided, perhaps unaligned.


@dataclass(frozen=True, slots=True, eq=False)
class Mxfp4Matrix:
    """`blocks` u8 `[rows, cols / 32, 16]` in the nibble order of `kernels.formats`, `scales` u8
    `[rows, cols / 32]` (E8M0, never 255)."""

    blocks: NDArray[np.uint8]
    scales: NDArray[np.uint8]

    @property
    def rows(self) -> int:
        return int(self.scales.shape[0])

    @property
    def cols(self) -> int:
        return int(self.scales.shape[1] * formats.BLOCK)

    def to_float32(self) -> NDArray[np.float32]:
        """The exact values, float32 `[rows, cols]`."""
        return formats.mxfp4_decode(self.blocks, self.scales)


@dataclass(frozen=True, slots=True, eq=False)
class Q8Matrix:
    """`values` int8 `[rows, cols]`, `scales` float16 `[rows, cols / 32]`."""

    values: NDArray[np.int8]
    scales: NDArray[np.float16]

    @property
    def rows(self) -> int:
        return int(self.values.shape[0])

    @property
    def cols(self) -> int:
        return int(self.values.shape[1])

    def to_float32(self) -> NDArray[np.float32]:
        """The exact values, float32 `[rows, cols]`."""
        return formats.q8_decode(self.values, self.scales)


@dataclass(frozen=True, slots=True, eq=False)
class Bf16Matrix:
    """`bits` u16 `[rows, cols]`, the upper halves of float32 words."""

    bits: NDArray[np.uint16]

    @property
    def rows(self) -> int:
        return int(self.bits.shape[0])

    @property
    def cols(self) -> int:
        return int(self.bits.shape[1])

    def to_float32(self) -> NDArray[np.float32]:
        """The exact values, float32 `[rows, cols]`."""
        return formats.bf16_decode(self.bits)


@dataclass(frozen=True, slots=True, eq=False)
class F16Matrix:
    """`values` float16 `[rows, cols]`."""

    values: NDArray[np.float16]

    @property
    def rows(self) -> int:
        return int(self.values.shape[0])

    @property
    def cols(self) -> int:
        return int(self.values.shape[1])

    def to_float32(self) -> NDArray[np.float32]:
        """The exact values, float32 `[rows, cols]`."""
        return self.values.astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class F32Matrix:
    """`values` float32 `[rows, cols]`."""

    values: NDArray[np.float32]

    @property
    def rows(self) -> int:
        return int(self.values.shape[0])

    @property
    def cols(self) -> int:
        return int(self.values.shape[1])

    def to_float32(self) -> NDArray[np.float32]:
        """The values themselves, float32 `[rows, cols]`."""
        return self.values


Matrix = Mxfp4Matrix | Q8Matrix | Bf16Matrix | F16Matrix | F32Matrix


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as its file lists it, for `osslo inspect`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class TokenizerFile:
    """A `tokenizer.json` that came with the checkpoint."""

    path: Path


@dataclass(frozen=True, slots=True)
class GgufVocabulary:
    """The `tokenizer.*` part of a GGUF file's metadata."""

    metadata: Mapping[str, MetadataValue]

    @property
    def tokens(self) -> list[str]:
        """The vocabulary by id."""
        return self._strings("tokenizer.ggml.tokens")

    @property
    def merges(self) -> list[str]:
        """Merge rules, best first, each two tokens with a space between."""
        return self._strings("tokenizer.ggml.merges")

    @property
    def token_types(self) -> list[int]:
        """1 normal, 3 control, 4 user-defined, and others, by id."""
        values = self.metadata.get("tokenizer.ggml.token_type", [])
        return [v for v in values if isinstance(v, int)] if isinstance(values, list) else []

    @property
    def pre(self) -> str:
        """The name of the pre-tokenizer (`gpt-4o`, `smollm`, ...)."""
        return str(self.metadata.get("tokenizer.ggml.pre", "default"))

    def _strings(self, key: str) -> list[str]:
        values = self.metadata.get(key, [])
        return [v for v in values if isinstance(v, str)] if isinstance(values, list) else []


TokenizerSource = TokenizerFile | GgufVocabulary


class Checkpoint(Protocol):
    """An opened checkpoint whose tensors were all found and fit its configuration."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def format(self) -> str:
        """`huggingface`, `original` or `gguf`."""
        ...

    @property
    def path(self) -> Path: ...

    def names(self) -> tuple[str, ...]:
        """Every canonical tensor name, in the order of the forward pass."""
        ...

    def matrix(self, name: str) -> Matrix:
        """A matrix by its canonical name. Raises CheckpointError for an unknown name, a vector,
        or an MXFP4 scale that is not a number."""
        ...

    def vector(self, name: str) -> NDArray[np.float32]:
        """A vector by its canonical name, float32. Raises CheckpointError as `matrix` does."""
        ...

    def tokenizer_source(self) -> TokenizerSource | None:
        """Where the tokenizer is to be read from; None if the checkpoint has none."""
        ...

    def fingerprint(self) -> str:
        """A hash of file names, sizes, times and headers: cheap, and different whenever the
        weights may be."""
        ...

    def stored_bytes(self) -> int:
        """Bytes of all tensors in the files."""
        ...

    def describe(self) -> tuple[StoredTensor, ...]:
        """The stored tensors, in the files' order."""
        ...


# --- canonical names ------------------------------------------------------------------------------

_LAYER_VECTORS = ("attention_norm", "mlp_norm", "sinks", "router_bias")
_LAYER_MATRICES = ("q", "k", "v", "o", "router")
_EXPERT_MATRICES = ("gate", "up", "down")
_LAYER_NAME = re.compile(r"layers\.(0|[1-9]\d{0,9})\.(?:experts\.(0|[1-9]\d{0,9})\.)?([a-z_]+)")


@dataclass(frozen=True, slots=True)
class TensorName:
    """A canonical name taken apart: `layers.3.experts.7.gate_bias` is part `gate_bias` of expert 7
    in layer 3."""

    part: str
    layer: int | None = None
    expert: int | None = None


def tensor_names(config: ModelConfig) -> tuple[str, ...]:
    """Every canonical name of a model, in the order of the forward pass."""
    return tuple(_names(config))


def _names(config: ModelConfig) -> Iterator[str]:
    yield "embedding"
    for layer in range(config.layers):
        start = f"layers.{layer}."
        yield f"{start}attention_norm"
        for part in ("q", "k", "v"):
            yield from (f"{start}{part}", f"{start}{part}_bias")
        yield from (f"{start}{part}" for part in ("sinks", "o", "o_bias", "mlp_norm"))
        yield from (f"{start}router", f"{start}router_bias")
        for expert in range(config.experts):
            for part in _EXPERT_MATRICES:
                name = f"{start}experts.{expert}.{part}"
                yield from (name, f"{name}_bias")
    yield from ("final_norm", "head")


def tensor_shape(config: ModelConfig, name: TensorName) -> tuple[int, ...]:
    """The shape of a canonical tensor, one size for a vector, two for a matrix."""
    outputs, inputs = _matrix_shape(config, name.part.removesuffix("_bias"))
    if name.part.endswith("_bias") or inputs == 0:
        return (outputs,)
    return outputs, inputs


def _matrix_shape(config: ModelConfig, part: str) -> tuple[int, int]:
    """Rows and columns; a vector has no columns."""
    query, kv = config.query_size, config.kv_size
    hidden, inner = config.hidden, config.intermediate
    shapes = {
        "embedding": (config.vocab_size, hidden),
        "head": (config.vocab_size, hidden),
        "final_norm": (hidden, 0),
        "attention_norm": (hidden, 0),
        "mlp_norm": (hidden, 0),
        "sinks": (config.heads, 0),
        "q": (query, hidden),
        "k": (kv, hidden),
        "v": (kv, hidden),
        "o": (hidden, query),
        "router": (config.experts, hidden),
        "gate": (inner, hidden),
        "up": (inner, hidden),
        "down": (hidden, inner),
    }
    return shapes[part]


def parse_name(config: ModelConfig, name: str) -> TensorName | None:
    """Take a canonical name apart; None if no tensor of this model is called so."""
    if name in ("embedding", "head", "final_norm"):
        return TensorName(name)
    match = _LAYER_NAME.fullmatch(name)
    if match is None or int(match[1]) >= config.layers:
        return None
    layer, part = int(match[1]), match[3]
    if match[2] is not None:
        known = part.removesuffix("_bias") in _EXPERT_MATRICES and int(match[2]) < config.experts
        return TensorName(part, layer, int(match[2])) if known else None
    if part in _LAYER_VECTORS or part.removesuffix("_bias") in _LAYER_MATRICES:
        return TensorName(part, layer)
    return None


def check_scales(source: Path, name: str, scales: NDArray[np.uint8]) -> None:
    """Refuse E8M0 scales that are no number. Raises CheckpointError naming file and tensor."""
    if (scales == formats.E8M0_NAN).any():
        raise CheckpointError(f"{source}: tensor {name} has an MXFP4 scale of 255 (not a number)")
