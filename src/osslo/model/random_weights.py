"""Random weights for any gpt-oss shape, as streams of pieces.

A tensor is fixed by seed, name and shape alone, so that the same model comes out in every layout:
dense matrices are small integers times a power of two, which BF16 and Q8_0 both hold exactly;
expert matrices are MXFP4 codes, or such integers where they are to be plain. The sizes keep
activations near one, so that a model of any depth computes sensibly, though it says nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import log2, prod, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from osslo.kernels import formats
from osslo.model.checkpoints.tensors import TensorName, tensor_shape
from osslo.model.config import ModelConfig

_CHUNK_VALUES = 1 << 23  # bounds memory: 8 M values at a time
_DRAWS = 1 << 16
_INTEGER_STD = 42.0  # of the integers; their largest, 127, is three times that
_E2M1_RMS = sqrt(68.5 / 8)  # of the 16 codes, each as likely
_SCALE_SPREAD = 3  # an MXFP4 block's scale is half, once or twice the usual one
_SPREAD_RMS = sqrt((0.25 + 1 + 4) / _SCALE_SPREAD)

_HEAD_GAIN = 4.0  # logits well apart, as a trained model's are
_ROUTER_GAIN = 2.0
_SHORT_NORMS = frozenset({"attention_norm", "mlp_norm", "final_norm"})


@dataclass(frozen=True, slots=True)
class Numbers:
    """The weights of one tensor as integers int8 times 2**`exponent`; `is_norm` says that they
    are 1 + integer / 512 instead, rounded down to what BF16 holds."""

    exponent: int
    is_norm: bool = False

    def float32(self, integers: NDArray[np.int8]) -> NDArray[np.float32]:
        """The values, of the same shape; every one of them is a BF16 number."""
        if self.is_norm:
            return (1 + (integers >> 2).astype(np.float32) / 128).astype(np.float32)
        return np.ldexp(integers.astype(np.float32), self.exponent)


class RandomWeights:
    """All tensors of a model of shape `config`, drawn from `seed`."""

    def __init__(self, config: ModelConfig, seed: int) -> None:
        self.config = config
        self._seed = seed
        normal = NormalDist(sigma=_INTEGER_STD)
        quantiles = [normal.inv_cdf((i + 0.5) / _DRAWS) for i in range(_DRAWS)]
        self._integers = np.rint(np.clip(quantiles, -127, 127)).astype(np.int8)

    def numbers(self, part: str) -> Numbers:
        """What the integers of a part stand for."""
        std = self._std(part)
        return Numbers(round(log2(std / _INTEGER_STD)), is_norm=part in _SHORT_NORMS)

    def integers(self, name: TensorName) -> Iterator[NDArray[np.int8]]:
        """A tensor's integers, flat, in pieces; `name` without an expert means all experts."""
        count = prod(tensor_shape(self.config, name))
        if name.part.removesuffix("_bias") in ("gate", "up", "down"):
            count *= self.config.experts
        draw = self._generator(name, "")
        for start in range(0, count, _CHUNK_VALUES):
            size = min(_CHUNK_VALUES, count - start)
            yield self._integers[np.frombuffer(draw.bytes(2 * size), "<u2")]

    def expert_integers(self, name: TensorName) -> Iterator[NDArray[np.int8]]:
        """A plain expert matrix, int8 `[out, in]`, one expert after the other."""
        shape, draw = tensor_shape(self.config, name), self._generator(name, "")
        for _ in range(self.config.experts):
            words = np.frombuffer(draw.bytes(2 * prod(shape)), "<u2")
            yield self._integers[words].reshape(shape)

    def expert_blocks(self, name: TensorName) -> Iterator[NDArray[np.uint8]]:
        """MXFP4 codes of a matrix, u8 `[out, in / 32, 16]`, one expert after the other."""
        rows, cols = tensor_shape(self.config, name)
        shape = (rows, cols // formats.BLOCK, formats.BLOCK // 2)
        draw = self._generator(name, ".blocks")
        for _ in range(self.config.experts):
            yield np.frombuffer(draw.bytes(prod(shape)), np.uint8).reshape(shape)

    def expert_scales(self, name: TensorName) -> Iterator[NDArray[np.uint8]]:
        """The E8M0 scales to `expert_blocks`, u8 `[out, in / 32]`."""
        rows, cols = tensor_shape(self.config, name)
        shape = (rows, cols // formats.BLOCK)
        usual = 127 + round(log2(self._std(name.part) / (_E2M1_RMS * _SPREAD_RMS)))
        codes = (usual - 1 + np.arange(256) % _SCALE_SPREAD).astype(np.uint8)
        draw = self._generator(name, ".scales")
        for _ in range(self.config.experts):
            yield codes[np.frombuffer(draw.bytes(prod(shape)), np.uint8)].reshape(shape)

    def _std(self, part: str) -> float:
        """The standard deviation a part's weights should have."""
        if part.endswith("_bias"):
            return 0.1
        shape = tensor_shape(self.config, TensorName(part))
        if part == "embedding" or len(shape) == 1:
            return 1.0
        gain = {"head": _HEAD_GAIN, "router": _ROUTER_GAIN}.get(part, 1.0)
        return gain / sqrt(shape[1])

    def _generator(self, name: TensorName, purpose: str) -> np.random.Generator:
        text = f"{name.layer}.{name.part}{purpose}"
        entropy = np.random.SeedSequence([self._seed, zlib.crc32(text.encode())])
        return np.random.Generator(np.random.SFC64(entropy))
