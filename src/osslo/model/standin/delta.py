"""What training changed of the base, small enough to ship: low-rank factors in int8.

Every matrix W of the base becomes W + B·A, with A `[r, in]` and B `[out, r]` of int8 numbers, each
row of A and column of B with a scale of its own; the rows of harmony's markers are float32. Kept in
one compressed `.npz`, whose names are those of the base's GGUF.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from osslo.errors import CheckpointError
from osslo.model.standin.convert import Float, TensorSource

DELTA_PATH = Path(__file__).with_name("delta.npz")

_INPUTS, _OUTPUTS = "markers.inputs", "markers.outputs"
_A, _B = ".a", ".b"
_SCALE = ".scale"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Factors:
    """One matrix's change, float32: A `[r, in]`, B `[out, r]`."""

    a: Float
    b: Float


@dataclass(frozen=True, slots=True)
class Delta:
    """All changes: factors by GGUF name, and the markers' rows `[n, hidden]` in the order of
    `HARMONY_MARKERS`."""

    factors: Mapping[str, Factors]
    inputs: Float
    outputs: Float


def read_delta(path: Path = DELTA_PATH) -> Delta | None:
    """The delta in a file, None if there is no file. Raises `CheckpointError` for a broken one."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            if int(stored["format"]) != _FORMAT:
                raise CheckpointError(f"{path}: format {int(stored['format'])} is not known here")
            names = [name.removesuffix(_A) for name in stored.files if name.endswith(_A)]
            factors = {
                name: Factors(
                    _expand(stored[name + _A], stored[name + _A + _SCALE][:, None]),
                    _expand(stored[name + _B], stored[name + _B + _SCALE][None]),
                )
                for name in names
            }
            return Delta(factors, stored[_INPUTS], stored[_OUTPUTS])
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise CheckpointError(f"{path}: not a delta of the stand-in ({error})") from error


def write_delta(path: Path, delta: Delta) -> None:
    """Store a delta, factors rounded to int8."""
    arrays: dict[str, Any] = {"format": np.int32(_FORMAT)}
    arrays |= {_INPUTS: delta.inputs, _OUTPUTS: delta.outputs}
    for name, factors in delta.factors.items():
        a, a_scale = _round(factors.a, axis=1)
        b, b_scale = _round(factors.b, axis=0)
        arrays |= {name + _A: a, name + _A + _SCALE: a_scale}
        arrays |= {name + _B: b, name + _B + _SCALE: b_scale}
    np.savez_compressed(path, **arrays)


@dataclass(frozen=True, slots=True)
class TunedSource:
    """The base's tensors with a delta applied to them."""

    base: TensorSource
    delta: Delta

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self.base.metadata

    def float32(self, name: str) -> Float:
        """Raises `CheckpointError` where a delta does not fit its matrix."""
        values = self.base.float32(name)
        factors = self.delta.factors.get(name)
        if factors is None:
            return values
        change = factors.b @ factors.a
        if change.shape != values.shape:
            raise CheckpointError(
                f"the stand-in's delta of {name} is {change.shape}, the tensor {values.shape}"
            )
        tuned: Float = values + change
        return tuned


def _round(values: Float, *, axis: int) -> tuple[NDArray[np.int8], Float]:
    scale = np.maximum(np.abs(values).max(axis=axis), 1e-12).astype(np.float32) / np.float32(127)
    rounded = np.rint(values / np.expand_dims(scale, axis)).astype(np.int8)
    return rounded, scale


def _expand(rounded: NDArray[np.int8], scale: Float) -> Float:
    values: Float = rounded.astype(np.float32) * scale
    return values
