"""Exports loaded by those who will load them: `transformers`, and `peft` for adapters."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GptOssForCausalLM
from transformers.utils.quantization_config import Mxfp4Config

from osslo.errors import CheckpointError
from osslo.model.checkpoints import open_checkpoint
from osslo.model.checkpoints.tensors import F32Matrix, Matrix
from osslo.model.config import ModelConfig
from osslo.tuning.export import Merged
from osslo.tuning.gpt_oss import Tensors, build_model
from osslo.tuning.learning import Learning
from osslo.tuning.merged import Experts
from osslo.tuning.model import Trainable
from osslo.tuning.packing import Pack, Segment

_TOLERANCE = 2e-3
"""Of the largest logit: float32 sums in another order, over all layers."""

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Agreement:
    """The largest difference of logits, as a share of the largest logit."""

    by: str
    difference: float


def by_transformers(folder: Path, ids: tuple[int, ...], experts: Experts) -> Agreement:
    """Load an exported folder in `transformers` and compare its logits with those of our own
    forward over the same files. Raises `CheckpointError`."""
    theirs = _logits(_load(folder, mxfp4=experts is Experts.MXFP4), ids)
    return _compare("transformers", theirs, _ours(open_checkpoint(folder), ids))


def by_peft(adapter: Path, merged: Merged, ids: tuple[int, ...]) -> Agreement:
    """Load an adapter in `peft` over `transformers`' model of its base, and compare its logits with
    those of the merged weights. Raises `CheckpointError`."""
    peft: Any = import_module("peft")
    base = merged.checkpoint
    packed = any(tensor.dtype == "U8" for tensor in base.describe())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(_load(base.path, mxfp4=packed), adapter).eval()
    return _compare("peft", _logits(model, ids), _ours(InFloat32(merged), ids))


class InFloat32:
    """A merged model as `build_model` reads one."""

    def __init__(self, merged: Merged) -> None:
        self._merged = merged

    @property
    def config(self) -> ModelConfig:
        return self._merged.checkpoint.config

    def matrix(self, name: str) -> Matrix:
        return F32Matrix(self._merged(name))

    def vector(self, name: str) -> NDArray[np.float32]:
        return self._merged(name)


def _load(folder: Path, *, mxfp4: bool) -> Any:
    extra: dict[str, Any] = {}
    if mxfp4:
        extra["quantization_config"] = Mxfp4Config(dequantize=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = GptOssForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", **extra
        )
    return model.eval()


def _logits(model: Any, ids: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([ids])).logits[0]
    return logits


def _ours(tensors: Tensors, ids: tuple[int, ...]) -> torch.Tensor:
    model = build_model(tensors, Learning(), device=_CPU, dtype=torch.float32)
    count = len(ids)
    whole = Pack(ids, tuple(range(count)), (Segment(0, count),), tuple(range(count)), ids, 1)
    with torch.no_grad():
        return Trainable(model).logits(whole)


def _compare(by: str, theirs: torch.Tensor, ours: torch.Tensor) -> Agreement:
    difference = float((theirs - ours).abs().max() / ours.abs().max())
    if not difference < _TOLERANCE:
        raise CheckpointError(
            f"{by} gives other logits (by {difference:.1%} of the largest); please report this"
        )
    return Agreement(by, difference)
