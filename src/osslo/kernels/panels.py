"""The kernels' own weight layout: how many bytes a matrix takes in panels, and packing into them.

Owns the Python face of `csrc/model/packing`; the layout itself is described in
`csrc/kernels/kernels.h`. Which tensors a packed file holds is `model.pack`'s subject.
"""

from __future__ import annotations

from typing import TypeVar

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
    "in_turn",
    "pack_bf16",
    "pack_f32",
    "pack_mxfp4",
    "pack_q8",
    "panel_bytes",
    "quantize_q8",
]

_T = TypeVar("_T", bound=np.generic)

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


def in_turn(first: NDArray[_T], second: NDArray[_T], *, fill: int = 0) -> NDArray[_T]:
    """Eight rows of `first` and eight of `second` in turn, as the activation kernel reads gates and
    ups; both filled up to whole panels."""
    rest = first.shape[1:]
    panels = -(-len(first) // PANEL_ROWS)
    out = np.full((panels, 2, PANEL_ROWS, *rest), fill, first.dtype)
    for side, rows in enumerate((first, second)):
        whole = len(rows) // PANEL_ROWS
        out[:whole, side] = rows[: whole * PANEL_ROWS].reshape(whole, PANEL_ROWS, *rest)
        if len(rows) % PANEL_ROWS:
            out[whole, side, : len(rows) % PANEL_ROWS] = rows[whole * PANEL_ROWS :]
    return out.reshape(-1, *rest)


def float16_bits(values: NDArray[np.float16]) -> NDArray[np.uint16]:
    """The bits of float16 scales, contiguous, as the packer takes them."""
    return np.ascontiguousarray(values).view(np.uint16)
