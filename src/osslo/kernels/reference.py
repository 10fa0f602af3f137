"""The maths of every kernel in plain NumPy: what the native kernels are tested against.

Clear before fast: rows are worked through one by one with the same operations whatever the batch,
so that a row's result does not depend on the rows beside it. Everything is float32 unless a
docstring says otherwise. Weight formats are decoded by `kernels.formats`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from osslo.kernels.formats import BLOCK, e8m0_values, mxfp4_decode, q8_decode

__all__ = [
    "attention",
    "clamped_swiglu",
    "integer_matmul",
    "low_rank",
    "matmul",
    "mxfp4_decode",
    "mxfp4_integers",
    "q8_decode",
    "quantize_activations_int8",
    "quantize_activations_int16",
    "rms_norm",
    "rope",
    "route",
]


OUTLIER_RATIO = np.float32(2)
"""A lone value this many times above the rest of its block of int8 activations stays float32."""


def quantize_activations_int8(
    x: NDArray[np.float32],
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32]]:
    """Quantise rows `[T, C]` for MXFP4 weights, in blocks of 32.

    Gives int8 `[T, C]`, float32 scales `[T, C / 32]` and float32 outliers `[T, C]`, nearly all
    zero: a block's largest magnitude, if it is more than `OUTLIER_RATIO` times the next, is kept
    there and counts as zero otherwise. The scale is the largest magnitude left / 127; a value
    becomes x * (127 / largest), rounded half to even. A block of zeros has scale 0.
    """
    grouped = x.reshape(*x.shape[:-1], -1, BLOCK)
    ordered = np.sort(np.abs(grouped), axis=-1)
    lone = ordered[..., -1:] > OUTLIER_RATIO * ordered[..., -2:-1]
    is_outlier = lone & (np.abs(grouped) == ordered[..., -1:])
    outliers = np.where(is_outlier, grouped, np.float32(0))
    values, scales = _quantize(grouped - outliers, 127)
    return values.astype(np.int8).reshape(x.shape), scales, outliers.reshape(x.shape)


def quantize_activations_int16(
    x: NDArray[np.float32],
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Quantise rows `[T, C]` for Q8_0 weights, in blocks of 32: int16 `[T, C]` and float32 scales
    `[T, C / 32]`; as for int8, up to 32767 and without outliers."""
    values, scales = _quantize(x.reshape(*x.shape[:-1], -1, BLOCK), 32767)
    return values.astype(np.int16).reshape(x.shape), scales


def _quantize(
    grouped: NDArray[np.float32], most: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    largest = np.abs(grouped).max(axis=-1)
    inverse = np.divide(np.float32(most), largest, out=np.zeros_like(largest), where=largest > 0)
    return np.rint(grouped * inverse[..., None]), largest / np.float32(most)


def mxfp4_integers(
    blocks: NDArray[np.uint8], scales: NDArray[np.uint8]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """MXFP4 as integers: E2M1 values doubled, int8 `[..., C]`, and half their scales as float32
    `[..., C / 32]`, so that their product is the exact value."""
    doubled = mxfp4_decode(blocks, np.full_like(scales, 128)).astype(np.int8)
    return doubled, e8m0_values()[scales] * np.float32(0.5)


def matmul(x: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """x `[T, C]` times weight `[R, C]` transposed: `[T, R]`, each row by itself."""
    return np.stack([weight @ row for row in x])


def integer_matmul(
    x: NDArray[np.int8] | NDArray[np.int16],
    x_scales: NDArray[np.float32],
    weight: NDArray[np.int8],
    weight_scales: NDArray[np.float32],
    outliers: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Quantised x `[T, C]` times quantised weight `[R, C]` transposed: float32 `[T, R]`.

    Products are summed exactly in int32 within a block of 32; each block's sum is scaled by
    (weight scale * x scale) in float32 and added up in float32, blocks in order. The products of
    `outliers` `[T, C]` follow.
    """
    total = np.zeros((x.shape[0], weight.shape[0]), np.float32)
    for block in range(x_scales.shape[1]):
        span = slice(block * BLOCK, (block + 1) * BLOCK)
        sums = x[:, span].astype(np.int32) @ weight[:, span].astype(np.int32).T
        total += sums.astype(np.float32) * (x_scales[:, block, None] * weight_scales[:, block])
    if outliers is not None:
        weights = weight.astype(np.float32) * np.repeat(weight_scales, BLOCK, axis=1)
        total += matmul(outliers, weights)
    return total


def low_rank(
    x: NDArray[np.float32], a: NDArray[np.float32], b: NDArray[np.float32], scale: float
) -> NDArray[np.float32]:
    """A LoRA delta (arXiv 2106.09685): b `[R, r]` times scale * (a `[r, C]` times x `[T, C]`),
    `[T, R]`."""
    return matmul(np.float32(scale) * matmul(x, a), b)


def rms_norm(
    x: NDArray[np.float32], weight: NDArray[np.float32], eps: float
) -> NDArray[np.float32]:
    """x / sqrt(mean(x**2) + eps) * weight over the last axis (arXiv 1910.07467)."""
    mean = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)
    root: NDArray[np.float32] = np.sqrt(mean + np.float32(eps), dtype=np.float32)
    return weight * (x / root)


def rope(
    x: NDArray[np.float32],
    positions: NDArray[np.int32],
    inverse_frequencies: NDArray[np.float32],
    scale: float,
) -> NDArray[np.float32]:
    """Rotate heads x `[T, H, D]` by their positions `[T]` (arXiv 2104.09864).

    Dimension i of the first half turns with dimension i of the second half, by the angle position
    * inverse_frequencies[i] (float32 `[D / 2]`); cosine and sine are scaled by `scale` (YaRN).
    """
    angles = positions.astype(np.float32)[:, None] * inverse_frequencies
    cosine = (np.cos(angles) * np.float32(scale))[:, None, :]
    sine = (np.sin(angles) * np.float32(scale))[:, None, :]
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)


def attention(
    query: NDArray[np.float32],
    key: NDArray[np.float32],
    value: NDArray[np.float32],
    sinks: NDArray[np.float32],
    *,
    query_positions: NDArray[np.int32],
    first_key_position: int = 0,
    window: int = 0,
) -> NDArray[np.float32]:
    """Causal attention with sinks: query `[T, H, D]`, key and value `[N, G, D]` to `[T, H, D]`.

    Key n stands at `first_key_position` + n. A query sees the keys up to its own position and, with
    a `window`, only the last `window` of those. Query head h reads key/value head h // (H / G). A
    head's sink `sinks[h]` takes part in the softmax as one more score that has no value.
    """
    rows = zip(query, query_positions.tolist(), strict=True)
    return np.stack(
        [
            _attend(row, key, value, sinks, last=at - first_key_position, window=window)
            for row, at in rows
        ]
    )


def _attend(
    query: NDArray[np.float32],
    key: NDArray[np.float32],
    value: NDArray[np.float32],
    sinks: NDArray[np.float32],
    *,
    last: int,
    window: int,
) -> NDArray[np.float32]:
    """One query `[H, D]` over the keys up to index `last`."""
    start = max(0, last + 1 - window) if window else 0
    heads, size = query.shape
    groups = key.shape[1]
    keys = key[start : last + 1].transpose(1, 2, 0)  # [G, D, N]
    values = value[start : last + 1].transpose(1, 0, 2)  # [G, N, D]
    scores = query.reshape(groups, heads // groups, size) @ keys * np.float32(size**-0.5)
    sink = sinks.reshape(groups, heads // groups, 1)
    peak = np.maximum(scores.max(axis=-1, keepdims=True), sink)
    weights = np.exp(scores - peak)
    total = weights.sum(axis=-1, keepdims=True) + np.exp(sink - peak)
    attended: NDArray[np.float32] = (weights / total) @ values
    return attended.reshape(heads, size)


def route(
    logits: NDArray[np.float32], chosen: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Choose experts from router logits `[T, E]`: ids int32 and weights float32 `[T, chosen]`.

    The largest logits win, best first, the lowest id among equals; the weights are the softmax over
    the chosen logits.
    """
    experts = np.argsort(-logits, axis=-1, kind="stable")[:, :chosen]
    best = np.take_along_axis(logits, experts, axis=-1)
    weights = np.exp(best - best[:, :1])
    return experts.astype(np.int32), weights / weights.sum(axis=-1, keepdims=True)


def clamped_swiglu(
    gate: NDArray[np.float32], up: NDArray[np.float32], limit: float, alpha: float
) -> NDArray[np.float32]:
    """g * sigmoid(alpha * g) * (u + 1), with g = min(gate, limit) and u = clamp(up, +-limit)."""
    g = np.minimum(gate, np.float32(limit))
    u = np.clip(up, np.float32(-limit), np.float32(limit))
    with np.errstate(over="ignore"):  # exp overflows to infinity, and the sigmoid to its limit 0
        sigmoid = np.float32(1) / (np.float32(1) + np.exp(np.float32(-alpha) * g))
    activated: NDArray[np.float32] = g * sigmoid * (u + np.float32(1))
    return activated
