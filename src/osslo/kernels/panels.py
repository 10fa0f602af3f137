"""The kernels' own weight layout: how many bytes a matrix takes in panels, and packing into them.

Owns the Python face of `csrc/model/packing`; the layout itself is described in
`csrc/kernels/kernels.h`. Which tensors a packed file holds is `model.pack`'s subject.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from osslo.kernels._native import (
    WeightKind,
    pack_bf16,
    pack_f32,
    pack_mxfp4,
    pack_q8,
    quantize_q8,
)
from osslo.kernels.formats import BLOCK

__all__ = [
    "PANEL_ROWS",
    "WeightKind",
    "pack_bf16",
    "pack_f32",
    "pack_mxfp4",
    "pack_q8",
    "panel_bytes",
    "quantize_q8",
]

PANEL_ROWS = 8
"""Output rows that share a panel."""

_SCALE_BYTES = {WeightKind.MXFP4: 1, WeightKind.Q8: 2}
_BLOCK_BYTES = {WeightKind.MXFP4: 128, WeightKind.Q8: 256}
_CELL_BYTES = {WeightKind.BF16: 2, WeightKind.F32: 4}


def panel_bytes(kind: WeightKind, rows: int, columns: int) -> int:
    """Bytes that a matrix `[rows, columns]` of `kind` takes in panels."""
    panels = -(-rows // PANEL_ROWS)
    if kind in _CELL_BYTES:
        return panels * PANEL_ROWS * columns * _CELL_BYTES[kind]
    blocks = -(-columns // BLOCK)
    scales = -(-blocks * PANEL_ROWS * _SCALE_BYTES[kind] // 64) * 64
    return panels * (scales + blocks * _BLOCK_BYTES[kind])


def float16_bits(values: NDArray[np.float16]) -> NDArray[np.uint16]:
    """The bits of float16 scales, contiguous, as the packer takes them."""
    return np.ascontiguousarray(values).view(np.uint16)
