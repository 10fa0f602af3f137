"""The number formats weights are stored in, and their exact decoding and nearest encoding.

Owns BF16, MXFP4 and Q8_0 as plain arrays, without any file's layout: files that arrange the same
numbers in another way (GGUF) are brought into these arrangements by their readers.

MXFP4 (Open Compute Project, Microscaling Formats v1.0): 32 four-bit E2M1 values share one E8M0
scale. Here a block is 16 bytes; byte j holds element 2j in its low and 2j + 1 in its high nibble.
Q8_0: 32 signed bytes share one float16 scale.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 32
"""Values that share one scale, in MXFP4 and in Q8_0."""

E8M0_NAN = 255
"""The one E8M0 code that is no number; every reader refuses it."""

_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_E2M1_MAX_EXPONENT = 2  # 6 = 1.5 * 2**2
# Magnitudes half-way between neighbours. A tie goes to the even mantissa, so that every second
# boundary belongs to the value above it.
_E2M1_BOUNDARIES = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], np.float32)


def e2m1_values() -> NDArray[np.float32]:
    """The value of each of the 16 four-bit codes, float32 `[16]`; code 8 is negative zero."""
    magnitudes = np.array(_E2M1, np.float32)
    return np.concatenate([magnitudes, -magnitudes])


def e8m0_values() -> NDArray[np.float32]:
    """2**(code - 127) for each of the 256 codes, float32 `[256]`.

    Code 0 is the subnormal 2**-127, kept exactly; code 255 is not a number.
    """
    values: NDArray[np.float32] = np.ldexp(np.float32(1), np.arange(-127, 129).clip(max=127))
    values[E8M0_NAN] = np.nan
    return values


def bf16_decode(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """BF16 bits as float32 of the same shape, exactly."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def bf16_encode(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The nearest BF16 bits, ties to even; NaN stays a (quiet) NaN."""
    words = np.ascontiguousarray(values, np.float32).view(np.uint32)
    odd = (words >> np.uint32(16)) & np.uint32(1)
    rounded = ((words + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)
    quiet = ((words >> np.uint32(16)) | np.uint32(0x40)).astype(np.uint16)
    return np.where(np.isnan(values), quiet, rounded)


def mxfp4_decode(blocks: NDArray[np.uint8], scales: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Decode `blocks` u8 `[..., B, 16]` with `scales` u8 `[..., B]` to float32 `[..., B * 32]`.

    Exact, but for scales above 252, where the largest codes overflow to infinity.
    """
    codes = np.empty((*blocks.shape[:-1], BLOCK), np.uint8)
    codes[..., 0::2] = blocks & 0x0F
    codes[..., 1::2] = blocks >> 4
    with np.errstate(over="ignore", invalid="ignore"):
        values = e2m1_values()[codes] * e8m0_values()[scales][..., None]
    return values.reshape(*blocks.shape[:-2], blocks.shape[-2] * BLOCK)


def mxfp4_encode(values: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Encode finite float32 `[..., 32 * B]`: blocks u8 `[..., B, 16]` and scales u8 `[..., B]`.

    The scale is the power of two that brings the block's largest magnitude to E2M1's largest
    exponent (the specification's conversion); values go to the nearest code, ties to the even
    mantissa, and what lies beyond 6 saturates. Values that are MXFP4 already come back exactly.
    """
    grouped = values.reshape(*values.shape[:-1], -1, BLOCK).astype(np.float32)
    largest = np.abs(grouped).max(axis=-1)
    exponent = np.frexp(largest)[1] - 1 - _E2M1_MAX_EXPONENT
    exponent = np.where(largest > 0, exponent, 0).clip(-127, 127)
    scaled = np.ldexp(grouped, -exponent[..., None])
    magnitude = np.abs(scaled)
    below = np.searchsorted(_E2M1_BOUNDARIES, magnitude, side="left")
    above = np.searchsorted(_E2M1_BOUNDARIES, magnitude, side="right")
    nearest = np.where(below % 2 == 0, below, above)  # differ on a tie only: take the even code
    codes = (nearest | (np.signbit(scaled) << 3)).astype(np.uint8)
    blocks = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return blocks, (exponent + 127).astype(np.uint8)


def q8_decode(values: NDArray[np.int8], scales: NDArray[np.float16]) -> NDArray[np.float32]:
    """Decode int8 `[..., 32 * B]` with float16 scales `[..., B]` to float32 of `values`' shape."""
    grouped = values.reshape(*scales.shape, BLOCK).astype(np.float32)
    with np.errstate(invalid="ignore"):
        return (grouped * scales.astype(np.float32)[..., None]).reshape(values.shape)


def q8_encode(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Encode finite float32 `[..., 32 * B]` as int8 of that shape and float16 scales `[..., B]`.

    The scale is the largest magnitude / 127, as in GGUF's Q8_0; a block of zeros, or of values too
    small for a float16 scale, is zeros with scale 0.
    """
    grouped = values.reshape(*values.shape[:-1], -1, BLOCK).astype(np.float32)
    scales = np.abs(grouped).max(axis=-1) / np.float32(127)
    rounded = scales.astype(np.float16)
    inverse = np.divide(1.0, scales, out=np.zeros_like(scales), where=rounded > 0)
    quantised = np.rint(grouped * inverse[..., None]).clip(-127, 127)
    return quantised.astype(np.int8).reshape(values.shape), rounded
