"""From any checkpoint that Osslo reads to a model that learns, and back to canonical tensors.

`transformers`' `GptOssForCausalLM` with its expert blocks replaced by `experts.Experts`; every
tensor comes through `model.checkpoints`, so that each format trains alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GptOssConfig, GptOssForCausalLM
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRotaryEmbedding

from osslo.model.checkpoints.export import huggingface_config
from osslo.model.checkpoints.tensors import Bf16Matrix, Matrix, Mxfp4Matrix
from osslo.model.config import ModelConfig
from osslo.tuning import attention
from osslo.tuning.experts import ExpertMatrices, Experts, LoraLinear
from osslo.tuning.learning import Learning, Method

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_CANONICAL = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o"}

Progress = Callable[[int, int], None]
"""Called with the layers read so far, and how many there are."""


class Tensors(Protocol):
    """What is needed of a checkpoint: sizes and canonical tensors."""

    @property
    def config(self) -> ModelConfig: ...

    def matrix(self, name: str) -> Matrix: ...

    def vector(self, name: str) -> NDArray[np.float32]: ...


def build_model(
    checkpoint: Tensors,
    learning: Learning,
    *,
    device: torch.device,
    dtype: torch.dtype,
    seed: int = 0,
    progress: Progress | None = None,
) -> torch.nn.Module:
    """The checkpoint as a torch module in which only what `learning` names wants gradients.

    Matrices are stored in `dtype`, vectors in float32. Experts in MXFP4 stay packed where they are
    frozen. `seed` draws LoRA's first factors.
    """
    attention.register()
    config = GptOssConfig(**huggingface_config(checkpoint.config, mxfp4=False))
    config._attn_implementation = attention.NAME
    with torch.device("meta"):
        model: torch.nn.Module = GptOssForCausalLM(config)
    torch.manual_seed(seed)
    core: Any = model.model
    core.rotary_emb = GptOssRotaryEmbedding(config=config).to(device)
    loader = _Loader(checkpoint, learning, device, dtype)
    core.embed_tokens.weight = loader.parameter("embedding")
    core.norm.weight = loader.parameter("final_norm")
    head: Any = model.lm_head
    head.weight = loader.parameter("head")
    for number, layer in enumerate(core.layers):
        loader.fill(layer, number)
        if progress is not None:
            progress(number + 1, len(core.layers))
    _choose(model, learning)
    return model.train()


def _choose(model: torch.nn.Module, learning: Learning) -> None:
    full = learning.method is Method.FULL
    for name, parameter in model.named_parameters():
        routes = ".router." in name
        factor = name.endswith(("lora_a", "lora_b"))
        parameter.requires_grad_(factor or (full and (learning.router or not routes)))


class _Loader:
    """Reads canonical tensors and puts them where `transformers` has them."""

    def __init__(
        self, checkpoint: Tensors, learning: Learning, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._checkpoint = checkpoint
        self._learning = learning
        self._device = device
        self._dtype = dtype

    def parameter(self, name: str) -> torch.nn.Parameter:
        """A tensor by its canonical name: a matrix where it has a place among them."""
        is_vector = name.endswith(("norm", "_bias", "sinks"))
        value = self._vector(name) if is_vector else self._matrix(name)
        return torch.nn.Parameter(value, requires_grad=False)

    def fill(self, layer: Any, number: int) -> None:
        start = f"layers.{number}."
        layer.input_layernorm.weight = self.parameter(f"{start}attention_norm")
        layer.post_attention_layernorm.weight = self.parameter(f"{start}mlp_norm")
        layer.self_attn.sinks = self.parameter(f"{start}sinks")
        lora = self._learning.lora
        for name in ATTENTION:
            base = self._linear(f"{start}{_CANONICAL[name]}")
            own = base if lora is None or not self._learning.attention else LoraLinear(base, lora)
            setattr(layer.self_attn, name, own)
        config = self._checkpoint.config
        layer.mlp = Experts(
            self._linear(f"{start}router"),
            self._experts(number, ("gate", "up")),
            self._experts(number, ("down",)),
            active=config.experts_per_token,
            alpha=config.swiglu_alpha,
            limit=config.swiglu_limit,
        )

    def _linear(self, name: str) -> torch.nn.Linear:
        weight = self.parameter(name)
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        linear.weight, linear.bias = weight, self.parameter(f"{name}_bias")
        return linear

    def _experts(self, layer: int, parts: tuple[str, ...]) -> ExpertMatrices:
        names = [
            [f"layers.{layer}.experts.{expert}.{part}" for part in parts]
            for expert in range(self._checkpoint.config.experts)
        ]
        bias = torch.stack([self._rows([self._vector(f"{n}_bias") for n in one]) for one in names])
        lora = self._learning.lora if self._learning.experts else None
        rounding = self._learning.rounding
        read = [[self._checkpoint.matrix(name) for name in one] for one in names]
        if self._learning.method is Method.LORA and all(
            isinstance(matrix, Mxfp4Matrix) for one in read for matrix in one
        ):
            packed = (self._packed(read, "blocks"), self._packed(read, "scales"))
            return ExpertMatrices(None, bias, packed=packed, lora=lora, rounding=rounding)
        weight = torch.stack([self._rows([self._torch(matrix) for matrix in one]) for one in read])
        return ExpertMatrices(weight, bias, lora=lora, rounding=rounding)

    def _packed(self, read: list[list[Matrix]], part: str) -> torch.Tensor:
        arrays = [
            self._rows([torch.from_numpy(np.array(getattr(m, part))) for m in one]) for one in read
        ]
        return torch.stack(arrays).to(self._device)

    @staticmethod
    def _rows(parts: list[torch.Tensor]) -> torch.Tensor:
        """Matrices (or vectors) whose rows take turns."""
        return parts[0] if len(parts) == 1 else torch.stack(parts, dim=1).flatten(0, 1)

    def _vector(self, name: str) -> torch.Tensor:
        """Vectors stay float32: norms, sinks, and biases such as an up projection's of -1."""
        return torch.from_numpy(np.array(self._checkpoint.vector(name))).to(self._device)

    def _matrix(self, name: str) -> torch.Tensor:
        return self._torch(self._checkpoint.matrix(name))

    def _torch(self, matrix: Matrix) -> torch.Tensor:
        if isinstance(matrix, Bf16Matrix):
            bits = torch.from_numpy(np.ascontiguousarray(matrix.bits).view(np.int16).copy())
            return bits.view(torch.bfloat16).to(self._device, self._dtype)
        return torch.from_numpy(np.array(matrix.to_float32())).to(self._device, self._dtype)


# --- back to canonical tensors --------------------------------------------------------------------


def learned_tensors(model: torch.nn.Module) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every canonical tensor of a model that was trained in full, float32."""
    core: Any = model
    yield "embedding", _array(core.model.embed_tokens.weight)
    for number, layer in enumerate(core.model.layers):
        start = f"layers.{number}."
        yield f"{start}attention_norm", _array(layer.input_layernorm.weight)
        yield f"{start}mlp_norm", _array(layer.post_attention_layernorm.weight)
        yield f"{start}sinks", _array(layer.self_attn.sinks)
        for name in ATTENTION:
            linear = getattr(layer.self_attn, name)
            yield f"{start}{_CANONICAL[name]}", _array(linear.weight)
            yield f"{start}{_CANONICAL[name]}_bias", _array(linear.bias)
        yield f"{start}router", _array(layer.mlp.router.weight)
        yield f"{start}router_bias", _array(layer.mlp.router.bias)
        for expert in range(len(layer.mlp.down.bias)):
            own = f"{start}experts.{expert}."
            for part, values in (("", "weight"), ("_bias", "bias")):
                both = getattr(layer.mlp.gate_up, values)[expert]
                yield f"{own}gate{part}", _array(both[0::2])
                yield f"{own}up{part}", _array(both[1::2])
                yield f"{own}down{part}", _array(getattr(layer.mlp.down, values)[expert])
    yield "final_norm", _array(core.model.norm.weight)
    yield "head", _array(core.lm_head.weight)


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    return np.asarray(tensor.detach().float().cpu().numpy())
