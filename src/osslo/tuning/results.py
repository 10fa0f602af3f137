"""What a run leaves behind: an adapter, or a whole model."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch

from osslo.tuning.adapter import Adapter, Delta
from osslo.tuning.learning import Learning

_FACTOR = re.compile(
    r"model\.layers\.(\d+)\.(?:self_attn\.([qkvo])_proj|mlp\.(gate_up|down))\.lora_([ab])"
)


def adapter_of(state: Mapping[str, torch.Tensor], learning: Learning, *, base: str) -> Adapter:
    """The adapter that a LoRA run's parameters make; `base` names the model it was trained on."""
    halves: dict[tuple[int, str], dict[str, np.ndarray]] = {}
    for name, value in state.items():
        match = _FACTOR.fullmatch(name)
        if match is None:
            raise AssertionError(f"{name} is no factor")
        part = match[2] or match[3]
        halves.setdefault((int(match[1]), part), {})[match[4]] = value.float().cpu().numpy()
    deltas = {key: Delta(both["a"], both["b"]) for key, both in halves.items()}
    return Adapter(base, learning.rank, learning.alpha, deltas)
