"""Small random checkpoints, each written once a session."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from osslo.model.config import ModelConfig
from osslo.model.presets import PRESETS
from osslo.model.synth import Experts, Format, write_random

SMALLEST = replace(
    PRESETS["tiny"],
    hidden=32,
    layers=2,
    layer_kinds=PRESETS["tiny"].layer_kinds[:2],
    heads=2,
    kv_heads=1,
    intermediate=32,
    experts=2,
    experts_per_token=1,
    vocab_size=64,
    eos_token_ids=(),
)


class Checkpoints:
    """Writes each wanted checkpoint once a session."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(
        self, config: ModelConfig, name: str, *, format: Format, experts: Experts = "mxfp4"
    ) -> Path:
        path = self._folder / f"{name}-{format}-{experts}{'.gguf' if format == 'gguf' else ''}"
        if not path.exists():
            write_random(config, path, format=format, experts=experts, seed=5)
        return path

    def preset(self, name: str, format: Format, experts: Experts = "mxfp4") -> Path:
        return self.path(PRESETS[name], name, format=format, experts=experts)

    def smallest(self, format: Format, experts: Experts = "mxfp4") -> Path:
        return self.path(SMALLEST, "smallest", format=format, experts=experts)
