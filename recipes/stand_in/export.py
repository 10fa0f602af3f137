"""A training run's last checkpoint as the delta that ships, and as a checkpoint to look at.

python -m recipes.stand_in.export --folder build/tuning/stand-in --out build/tuning/delta.npz
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from osslo.errors import CheckpointError
from osslo.model.checkpoints.gguf import GgufFile
from osslo.model.standin import build_standin, fetch_base
from osslo.model.standin.convert import LlamaSizes
from osslo.model.standin.delta import read_delta, write_delta
from osslo.model.standin.markers import read_fitted
from osslo.tuning.checkpoint import load_checkpoint
from recipes.stand_in.model import delta_of
from recipes.stand_in.train import BASE_FOLDER


def export(folder: Path, out: Path) -> int:
    """Write the delta of the last checkpoint of `folder`; gives the step it is from."""
    state = load_checkpoint(folder)
    if state is None:
        raise CheckpointError(f"{folder}: no checkpoint there; train first")
    sizes = LlamaSizes.from_gguf(GgufFile(fetch_base(BASE_FOLDER)).metadata)
    write_delta(out, delta_of(state["parameters"], sizes))
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
    given = options.parse_args()
    step = export(given.folder, given.out)
    print(f"{given.out}: step {step}, {given.out.stat().st_size / 1e6:.1f} MB")
    if given.checkpoint:
        build(given.out, given.checkpoint)
        print(f"{given.checkpoint}: built")


if __name__ == "__main__":
    main()
