"""An adapter in PEFT's layout: writing what was trained, reading what is to be merged.

Names and shapes are those of `docs/tuning.md`. Torch is not needed here: exporting reads adapters
with NumPy alone.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osslo.errors import CheckpointError
from osslo.kernels.formats import bf16_decode
from osslo.model.checkpoints.safetensors import SafetensorsFiles
from osslo.model.checkpoints.writing import SafeSpec, safetensors_writer
from osslo.model.config import ModelConfig
from osslo.model.fields import Fields, read_json_object

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
_PREFIX = "base_model.model.model.layers."
_ATTENTION = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o"}
_EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
_KEY = re.compile(
    re.escape(_PREFIX)
    + r"(\d+)\.(self_attn\.([qkvo]_proj)|mlp\.experts(\.base_layer)?)\.lora_([AB])\.weight"
)

Float = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Delta:
    """The factors of one matrix, or of one matrix of all experts: A and B in PEFT's shapes."""

    a: Float
    b: Float


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter: `deltas` by layer and part (`q`, `k`, `v`, `o`, `gate_up`, `down`), each to be
    scaled by `scale`; `base` is the name of the model it was trained on."""

    base: str
    rank: int
    alpha: float
    scale: float
    deltas: Mapping[tuple[int, str], Delta]

    def matrix(self, layer: int, part: str, expert: int | None, experts: int) -> Float | None:
        """The delta `[out, in]` of a canonical matrix, None if it has none."""
        fused = "gate_up" if part in ("gate", "up") else part
        found = self.deltas.get((layer, fused))
        if found is None:
            return None
        a, b = found.a, found.b
        if expert is not None:
            a = a.reshape(experts, -1, a.shape[1])[expert]
            b = b.reshape(b.shape[0], -1, experts)[:, :, expert]
        if fused == "gate_up":
            b = b[0::2] if part == "gate" else b[1::2]
        product: Float = np.float32(self.scale) * (b @ a)
        return product


def write_adapter(folder: Path, adapter: Adapter, *, card: str) -> None:
    """Write the folder, whole or not at all, in the place of one that is there."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = dict(_named(adapter))
    specs = [SafeSpec(name, "F32", values.shape) for name, values in tensors.items()]
    with safetensors_writer(partial / WEIGHTS_NAME, specs) as writer:
        for name, values in tensors.items():
            writer.write(name, np.ascontiguousarray(values, np.float32))
    config = json.dumps(_config(adapter), indent=2, sort_keys=True)
    (partial / CONFIG_NAME).write_text(config + "\n", encoding="utf-8")
    (partial / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def read_adapter(folder: Path, config: ModelConfig) -> Adapter:
    """Read an adapter for a model of these sizes. Raises `CheckpointError` naming what is wrong."""
    source = folder / CONFIG_NAME
    given = Fields(str(source), read_json_object(source))
    given.expect("peft_type", "LORA")
    values = read_json_object(source)
    for name in ("use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern"):
        if values.get(name):
            raise CheckpointError(f"{source}: {name} is not supported")
    if values.get("bias", "none") != "none":
        raise CheckpointError(f"{source}: biases in an adapter are not supported")
    rank, alpha = given.integer("r"), given.number("lora_alpha")
    scale = alpha / (math.sqrt(rank) if values.get("use_rslora") else rank)
    deltas = _deltas(folder / WEIGHTS_NAME, values.get("target_parameters") or [])
    _check(folder / WEIGHTS_NAME, deltas, config, rank)
    base = str(values.get("base_model_name_or_path") or "")
    return Adapter(base, rank, alpha, scale, deltas)


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


def _deltas(path: Path, parameters: list[Any]) -> dict[tuple[int, str], Delta]:
    tensors = SafetensorsFiles([path]).tensors
    halves: dict[tuple[int, str], dict[str, Float]] = {}
    for name, tensor in tensors.items():
        match = _KEY.fullmatch(name)
        if match is None:
            raise CheckpointError(f"{path}: tensor {name} has no place in an adapter of gpt-oss")
        projection, inner = match[3], match[4]
        part = _ATTENTION[projection] if projection else _expert_part(bool(inner), parameters)
        values = tensor.array()
        decoded = bf16_decode(values) if tensor.dtype == "BF16" else values.astype(np.float32)
        halves.setdefault((int(match[1]), part), {})[match[5]] = decoded
    for (layer, part), both in halves.items():
        if len(both) != 2:
            raise CheckpointError(f"{path}: {part} of layer {layer} has one factor, not two")
    return {key: Delta(both["A"], both["B"]) for key, both in halves.items()}


def _expert_part(inner: bool, parameters: list[Any]) -> str:
    """Which matrix a wrapper around the experts is: of two, the inner is `gate_up_proj`."""
    if inner:
        return "gate_up"
    named = [str(name).rsplit(".", 1)[-1] for name in parameters]
    return "gate_up" if named == ["gate_up_proj"] else "down"


def _check(
    path: Path, deltas: Mapping[tuple[int, str], Delta], config: ModelConfig, rank: int
) -> None:
    experts = config.experts
    sizes = {
        "q": (config.query_size, config.hidden, 1),
        "k": (config.kv_size, config.hidden, 1),
        "v": (config.kv_size, config.hidden, 1),
        "o": (config.hidden, config.query_size, 1),
        "gate_up": (2 * config.intermediate, config.hidden, experts),
        "down": (config.hidden, config.intermediate, experts),
    }
    for (layer, part), delta in deltas.items():
        rows, cols, count = sizes[part]
        wanted = ((rank * count, cols), (rows, rank * count))
        found = (delta.a.shape, delta.b.shape)
        if layer >= config.layers or found != wanted:
            raise CheckpointError(
                f"{path}: {part} of layer {layer} is {list(map(list, found))}, but this model "
                f"needs {list(map(list, wanted))}; the adapter belongs to another model"
            )
