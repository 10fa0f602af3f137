"""Writing an adapter in PEFT's layout, as `docs/tuning.md` has it. Needs no torch.

Reading one is `model.adapters`' subject.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osslo.model.adapters.peft import CONFIG_FILE, WEIGHTS_FILE
from osslo.model.checkpoints.writing import SafeSpec, safetensors_writer

_PREFIX = "base_model.model.model.layers."
_ATTENTION = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o"}
_EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")

Float = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Delta:
    """The factors of one matrix, or of one matrix of all experts: A and B in PEFT's shapes."""

    a: Float
    b: Float


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter: `deltas` by layer and part (`q`, `k`, `v`, `o`, `gate_up`, `down`), each to be
    scaled by alpha / rank; `base` is the name of the model it was trained on."""

    base: str
    rank: int
    alpha: float
    deltas: Mapping[tuple[int, str], Delta]


def write_adapter(folder: Path, adapter: Adapter, *, card: str) -> None:
    """Write the folder, whole or not at all, in the place of one that is there."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = dict(_named(adapter))
    specs = [SafeSpec(name, "F32", values.shape) for name, values in tensors.items()]
    with safetensors_writer(partial / WEIGHTS_FILE, specs) as writer:
        for name, values in tensors.items():
            writer.write(name, np.ascontiguousarray(values, np.float32))
    config = json.dumps(_config(adapter), indent=2, sort_keys=True)
    (partial / CONFIG_FILE).write_text(config + "\n", encoding="utf-8")
    (partial / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _named(adapter: Adapter) -> list[tuple[str, Float]]:
    """Tensors by PEFT's names. The inner of two wrappers around the experts is `gate_up_proj`."""
    named: list[tuple[str, Float]] = []
    modules = {part: f"self_attn.{name}" for name, part in _ATTENTION.items()}
    both = {"gate_up", "down"} <= {part for _, part in adapter.deltas}
    modules["gate_up"] = "mlp.experts.base_layer" if both else "mlp.experts"
    modules["down"] = "mlp.experts"
    for (layer, part), delta in sorted(adapter.deltas.items()):
        start = f"{_PREFIX}{layer}.{modules[part]}.lora_"
        named += [(f"{start}A.weight", delta.a), (f"{start}B.weight", delta.b)]
    return named


def _config(adapter: Adapter) -> dict[str, Any]:
    parts = {part for _, part in adapter.deltas}
    alpha = int(adapter.alpha) if float(adapter.alpha).is_integer() else adapter.alpha
    return {
        "alpha_pattern": {},
        "base_model_name_or_path": adapter.base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": adapter.rank,
        "rank_pattern": {},
        "target_modules": [name for name, part in _ATTENTION.items() if part in parts],
        "target_parameters": [
            name for name, part in zip(_EXPERTS, ("gate_up", "down"), strict=True) if part in parts
        ]
        or None,
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
