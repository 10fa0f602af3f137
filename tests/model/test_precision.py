"""What the default precision's rounded activations cost, on a real model over real text.

Both runs have the same weights, so that the activations alone differ: Q8_0 everywhere as the
stand-in is served, and with its experts in MXFP4 as gpt-oss has them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from osslo.kernels import formats
from osslo.model.checkpoints import Checkpoint, Matrix, Mxfp4Matrix, Q8Matrix, open_checkpoint
from osslo.model.forward import PAGE_TOKENS, ForwardInput
from osslo.model.model import Model
from osslo.model.pack import pack
from osslo.model.standin import ensure_standin

TOKENS = 512
TEXT = Path(__file__).parents[2] / "LICENSE"


class Requantised:
    """A checkpoint whose matrices were rounded already, so that every precision keeps them."""

    def __init__(self, checkpoint: Checkpoint, experts: Callable[[Matrix], Matrix]) -> None:
        self._checkpoint, self._experts = checkpoint, experts

    def matrix(self, name: str) -> Matrix:
        matrix = self._checkpoint.matrix(name)
        if "router" in name or name == "embedding":
            return matrix
        return self._experts(matrix) if ".experts." in name else q8(matrix)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._checkpoint, name)


def q8(matrix: Matrix) -> Matrix:
    return Q8Matrix(*formats.q8_encode(matrix.to_float32()))


def mxfp4(matrix: Matrix) -> Matrix:
    return Mxfp4Matrix(*formats.mxfp4_encode(matrix.to_float32()))


def log_probabilities(path: Path) -> NDArray[np.float64]:
    model = Model.load(path)
    ids = np.array(model.tokenizer.encode(TEXT.read_text())[:TOKENS], np.int32)
    pages = -(-len(ids) // PAGE_TOKENS)
    kv = model.new_kv(pages, pages)
    table = np.arange(pages, dtype=np.int32)[None]
    rows = np.arange(len(ids), dtype=np.int32)
    starts = np.array([0, len(ids)], np.int32)
    logits = model.forward(kv, ForwardInput(ids, rows, starts, table, table, rows))
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@pytest.mark.model
@pytest.mark.parametrize(
    ("experts", "most_divergence", "least_agreement"), [(q8, 1e-5, 0.998), (mxfp4, 1e-3, 0.96)]
)
def test_rounded_activations_cost_little(
    build_cache: Path,
    tmp_path: Path,
    experts: Callable[[Matrix], Matrix],
    most_divergence: float,
    least_agreement: float,
) -> None:
    checkpoint = Requantised(open_checkpoint(ensure_standin(build_cache)), experts)
    exact = log_probabilities(pack(checkpoint, tmp_path / "exact.osslo", precision="exact"))
    default = log_probabilities(pack(checkpoint, tmp_path / "default.osslo"))
    divergence = (np.exp(exact) * (exact - default)).sum(axis=1).mean()
    agreement = (exact.argmax(axis=1) == default.argmax(axis=1)).mean()
    print(f"KL {divergence:.2e}, top-1 {agreement:.4f}")
    assert divergence <= most_divergence
    assert agreement >= least_agreement
