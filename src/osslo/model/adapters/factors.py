"""A LoRA adapter as plain arrays, in the model's canonical terms.

Owns the nouns `Target`, `Factors` and `Adapter`, and how much of native memory one will take. Which
file they come from is `peft`'s subject; what the kernels make of them is `model.model`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from osslo.kernels import formats
from osslo.kernels.formats import BLOCK
from osslo.kernels.panels import PANEL_ROWS
from osslo.model.config import ModelConfig

RANK_UNIT = 4
"""Ranks are filled up to it in memory (`kRankUnit` in csrc/kernels/lora.h)."""


class Target(StrEnum):
    """The matrices that an adapter may change. Outputs of `gate_up` take turns: gate, up."""

    QUERY = "q_proj"
    KEY = "k_proj"
    VALUE = "v_proj"
    OUTPUT = "o_proj"
    GATE_UP = "gate_up_proj"
    DOWN = "down_proj"

    @property
    def of_experts(self) -> bool:
        return self in (Target.GATE_UP, Target.DOWN)

    def size(self, config: ModelConfig) -> tuple[int, int]:
        """Rows (outputs) and columns (inputs) of the matrix, of one expert's where it is one."""
        match self:
            case Target.QUERY:
                return config.query_size, config.hidden
            case Target.KEY | Target.VALUE:
                return config.kv_size, config.hidden
            case Target.OUTPUT:
                return config.hidden, config.query_size
            case Target.GATE_UP:
                return 2 * config.intermediate, config.hidden
            case Target.DOWN:
                return config.hidden, config.intermediate


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Which matrix: of a layer, and of one of its experts (0 outside of them)."""

    layer: int
    target: Target
    expert: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """The delta `scale * b @ a` of one matrix: a `[rank, in]`, b `[out, rank]`, both float32, or
    both uint16: BF16 bits."""

    a: NDArray[np.float32] | NDArray[np.uint16]
    b: NDArray[np.float32] | NDArray[np.uint16]
    scale: float

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])

    @property
    def is_bf16(self) -> bool:
        return self.a.dtype == np.uint16

    def floats(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Both factors as float32."""
        return _floats(self.a), _floats(self.b)


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """All factors of one adapter. `identity` is a digest of the files' contents."""

    identity: str
    factors: Mapping[Place, Factors]
    resident_bytes: int

    def __iter__(self) -> Iterator[tuple[Place, Factors]]:
        return iter(self.factors.items())


def native_bytes(config: ModelConfig, target: Target, rank: int, *, bf16: bool) -> int:
    """Bytes that one matrix's factors take in native memory (`LowRank` in csrc/kernels/lora.h)."""
    rows, columns = target.size(config)
    if target is Target.GATE_UP:
        rows = 2 * _up(config.intermediate, PANEL_ROWS)
    cells = _up(rank, RANK_UNIT) * _up(columns, BLOCK) + _up(rows, PANEL_ROWS) * rank
    return cells * (2 if bf16 else 4)


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _floats(values: NDArray[np.float32] | NDArray[np.uint16]) -> NDArray[np.float32]:
    if values.dtype == np.uint16:
        return formats.bf16_decode(values.astype(np.uint16, copy=False))
    return values.astype(np.float32, copy=False)
