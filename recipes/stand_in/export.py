"""A training run's last checkpoint as the delta that ships, and as a checkpoint to look at.

python -m recipes.stand_in.export --folder build/tuning/stand-in --out build/tuning/delta.npz
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from osslo.errors import CheckpointError
from osslo.model.checkpoints.gguf import GgufFile
from osslo.model.standin import build_standin, fetch_base
from osslo.model.standin.convert import LlamaSizes, permute
from osslo.model.standin.delta import Delta, Factors, read_delta, write_delta
from osslo.model.standin.markers import read_fitted
from osslo.tuning.checkpoint import load_checkpoint
from recipes.stand_in.train import ALPHA, BASE_FOLDER, RANK

GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NAME = re.compile(r".*layers\.(\d+)\.(\w+\.\w+)\.lora_([AB])\.default\.weight")


def delta_of(parameters: Mapping[str, torch.Tensor], sizes: LlamaSizes) -> Delta:
    """The delta that a checkpoint's parameters make."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in parameters.items():
        if found := _NAME.fullmatch(name):
            layer, matrix, factor = found.groups()
            parts.setdefault(f"blk.{layer}.{GGUF_NAMES[matrix]}.weight", {})[factor] = value
    heads = {"attn_q": sizes.heads, "attn_k": sizes.kv_heads}
    factors = {}
    for name, both in parts.items():
        b = (both["B"] * (ALPHA / RANK)).numpy()
        count = heads.get(name.split(".")[2])
        factors[name] = Factors(both["A"].numpy(), b if count is None else permute(b, count))
    return Delta(factors, parameters["rows.inputs"].numpy(), parameters["rows.outputs"].numpy())


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
