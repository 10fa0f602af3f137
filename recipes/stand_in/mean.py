"""A weighted mean of deltas: what one run forgot is often kept beside what it learned.

Weights may be negative, to take back a part of a run; together they are 1 (arXiv 2109.01903 for
means, arXiv 2212.04089 for sums and differences).

    python -m recipes.stand_in.mean build/a.npz=0.7 build/b.npz=0.3 --out build/mean.npz \
        --checkpoint build/tuning/eval-model
    python -m recipes.stand_in.mean build/mean.npz=0 build/a.npz=1 --keep .mlp. --out build/b.npz
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

import torch

from osslo.model.checkpoints.gguf import GgufFile
from osslo.model.standin import fetch_base
from osslo.model.standin.convert import LlamaSizes
from osslo.model.standin.delta import write_delta
from recipes.stand_in.export import build
from recipes.stand_in.model import build_trainable, delta_of, open_base
from recipes.stand_in.train import BASE_FOLDER, start_from


def mean(weights: Mapping[Path, float], out: Path, keep: str | None = None) -> None:
    """Write the mean of the low-rank factors and rows of deltas; those whose name has `keep` in it
    stay the first delta's. Raises `ValueError` for weights
    that are not 1 together, `CheckpointError` for a delta that is not there."""
    if not math.isclose(sum(weights.values()), 1, abs_tol=1e-6):
        raise ValueError(f"the weights are {sum(weights.values()):g} together, not 1")
    base = fetch_base(BASE_FOLDER)
    trainable = build_trainable(base, open_base(base), torch.float32)
    sums: dict[str, torch.Tensor] = {}
    for index, (path, weight) in enumerate(weights.items()):
        start_from(trainable, path, base)
        for name, value in trainable.state().items():
            kept = keep is not None and keep in name
            part = (float(index == 0) if kept else weight) * value
            sums[name] = sums[name] + part if name in sums else part
    write_delta(out, delta_of(sums, LlamaSizes.from_gguf(GgufFile(base).metadata)))


def _weighted(text: str) -> tuple[Path, float]:
    path, _, weight = text.rpartition("=")
    return Path(path), float(weight)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("deltas", nargs="+", type=_weighted, metavar="DELTA=WEIGHT")
    options.add_argument("--keep", help="part of the names of what stays the first delta's")
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--checkpoint", type=Path, help="also build the model here")
    given = options.parse_args()
    try:
        mean(dict(given.deltas), given.out, given.keep)
    except ValueError as error:
        options.error(str(error))
    if given.checkpoint:
        build(given.out, given.checkpoint)


if __name__ == "__main__":
    main()
