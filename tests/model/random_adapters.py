"""Random adapters in PEFT's layout, and what they do to a checkpoint when merged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from osslo.kernels import formats
from osslo.model.adapters.factors import Adapter, Place, Target
from osslo.model.adapters.peft import CONFIG_FILE, WEIGHTS_FILE
from osslo.model.checkpoints import Checkpoint, F32Matrix, Matrix
from osslo.model.config import ModelConfig

ATTENTION = (Target.QUERY, Target.KEY, Target.VALUE, Target.OUTPUT)
ALL = tuple(Target)

Tensors = dict[str, NDArray[Any]]


def write_adapter(
    folder: Path,
    config: ModelConfig,
    *,
    seed: int = 0,
    rank: int = 4,
    alpha: float = 8,
    targets: tuple[Target, ...] = ALL,
    dtype: str = "F32",
    strength: float = 0.3,
    settings: Mapping[str, Any] | None = None,
    change: Callable[[Tensors], None] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """A folder with a random adapter; `change` may spoil its tensors before they are written.

    `strength` is about how large a delta is beside the output of a matrix of unit gain.
    """
    random = np.random.default_rng(seed)
    tensors: Tensors = {}
    spread = strength * rank / alpha / np.sqrt(rank)

    def put(layer: int, module: str, a: tuple[int, int], b: tuple[int, int]) -> None:
        start = f"base_model.model.model.layers.{layer}.{module}.lora_"
        tensors[f"{start}A.weight"] = random.standard_normal(a, np.float32) / np.sqrt(a[1])
        tensors[f"{start}B.weight"] = random.standard_normal(b, np.float32) * spread

    for layer in range(config.layers):
        for target in targets:
            rows, columns = target.size(config)
            if not target.of_experts:
                put(layer, f"self_attn.{target}", (rank, columns), (rows, rank))
                continue
            inner = target is Target.GATE_UP and Target.DOWN in targets
            name = "mlp.experts.base_layer" if inner else "mlp.experts"
            both = rank * config.experts
            put(layer, name, (both, columns), (rows, both))
    for name, values in tensors.items():
        tensors[name] = values.astype(np.float16 if dtype == "F16" else np.float32)
    if change is not None:
        change(tensors)
    folder.mkdir(parents=True)
    if dtype == "BF16":
        _save_bf16(tensors, folder / WEIGHTS_FILE)
    else:
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt", **(metadata or {})})
    experts = [f"mlp.experts.{target}" for target in targets if target.of_experts]
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "random",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": [str(target) for target in targets if not target.of_experts],
        "target_parameters": experts or None,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_dora": False,
        "use_rslora": False,
        "fan_in_fan_out": False,
        **(settings or {}),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(values), encoding="utf-8")
    return folder


def _save_bf16(tensors: Tensors, path: Path) -> None:
    header: dict[str, Any] = {}
    data = b""
    for name, values in tensors.items():
        bits = formats.bf16_encode(values).tobytes()
        header[name] = {
            "dtype": "BF16",
            "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + len(bits)],
        }
        data += bits
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


class Merged:
    """A checkpoint with an adapter's deltas added to its matrices, in float32."""

    def __init__(self, checkpoint: Checkpoint, adapter: Adapter) -> None:
        self._checkpoint, self._adapter = checkpoint, adapter

    def matrix(self, name: str) -> Matrix:
        matrix = self._checkpoint.matrix(name)
        place, part = _place_of(name)
        factors = self._adapter.factors.get(place) if place else None
        if factors is None:
            return matrix
        a, b = factors.floats()
        delta = np.float32(factors.scale) * (b @ a)
        return F32Matrix(matrix.to_float32() + delta[part])

    def fingerprint(self) -> str:
        return self._adapter.identity

    def __getattr__(self, name: str) -> Any:
        return getattr(self._checkpoint, name)


_PARTS = {
    "q": (Target.QUERY, slice(None)),
    "k": (Target.KEY, slice(None)),
    "v": (Target.VALUE, slice(None)),
    "o": (Target.OUTPUT, slice(None)),
    "gate": (Target.GATE_UP, slice(0, None, 2)),
    "up": (Target.GATE_UP, slice(1, None, 2)),
    "down": (Target.DOWN, slice(None)),
}


def _place_of(name: str) -> tuple[Place | None, slice]:
    pieces = name.split(".")
    if pieces[0] != "layers" or pieces[-1] not in _PARTS:
        return None, slice(None)
    target, part = _PARTS[pieces[-1]]
    expert = int(pieces[3]) if "experts" in pieces else 0
    return Place(int(pieces[1]), target, expert), part
