"""A training run's last checkpoint as the delta that ships, and as a checkpoint to look at.

python -m recipes.stand_in.export --folder build/tuning/stand-in --out build/tuning/delta.npz
python -m recipes.stand_in.export --share 0.3 --with src/osslo/model/standin/delta.npz
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from osslo.errors import CheckpointError
from osslo.model.checkpoints.gguf import GgufFile
from osslo.model.standin import build_standin, fetch_base
from osslo.model.standin.convert import LlamaSizes
from osslo.model.standin.delta import read_delta, write_delta
from osslo.model.standin.markers import read_fitted
from osslo.tuning.checkpoint import load_checkpoint
from recipes.stand_in.model import build_trainable, delta_of, open_base
from recipes.stand_in.train import BASE_FOLDER, start_from


def export(folder: Path, out: Path, start: Path | None = None, share: float = 1.0) -> int:
    """Write the delta of the last checkpoint of `folder`; gives the step it is from.

    With `start`, the delta that the run began with, what is written is `share` of the run's
    parameters and the rest of those: a mean of weights often keeps what a run forgot beside what it
    learned (arXiv 2109.01903).
    """
    state = load_checkpoint(folder)
    if state is None:
        raise CheckpointError(f"{folder}: no checkpoint there; train first")
    parameters = state["parameters"]
    path = fetch_base(BASE_FOLDER)
    if start is not None:
        trainable = build_trainable(path, open_base(path), torch.float32)
        start_from(trainable, start, path)
        begun = trainable.state()
        parameters = {
            name: share * value + (1 - share) * begun[name] for name, value in parameters.items()
        }
    sizes = LlamaSizes.from_gguf(GgufFile(path).metadata)
    write_delta(out, delta_of(parameters, sizes))
    return int(state["step"])


def build(delta: Path, folder: Path) -> None:
    """The stand-in with a delta, as a checkpoint in the new `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    build_standin(fetch_base(BASE_FOLDER), folder, fitted=read_fitted(), delta=read_delta(delta))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--folder", type=Path, default=Path("build/tuning/stand-in"))
    options.add_argument("--out", type=Path, default=Path("build/tuning/delta.npz"))
    options.add_argument("--checkpoint", type=Path, help="also build the model here")
    options.add_argument("--with", dest="start", type=Path, help="average with this delta")
    options.add_argument("--share", type=float, default=0.3, help="of the run in the average")
    given = options.parse_args()
    step = export(given.folder, given.out, given.start, given.share)
    print(f"{given.out}: step {step}, {given.out.stat().st_size / 1e6:.1f} MB")
    if given.checkpoint:
        build(given.out, given.checkpoint)
        print(f"{given.checkpoint}: built")


if __name__ == "__main__":
    main()
