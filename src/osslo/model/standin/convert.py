"""A dense Llama-style model written as a gpt-oss model: the mapping of every tensor.

gpt-oss's experts compute `min(g, L) · sigmoid(1.702 · min(g, L)) · (clamp(u, -L, L) + 1)`. With all
N experts active and a zero router each weighs 1/N. Then, for a feed-forward network split over N
experts, these make the two models equal wherever nothing reaches the limit L:

    gate' = gate / 1.702      turns g · sigmoid(1.702 g) into silu(gate) / 1.702
    up'   = s · up - 1        the bias; the + 1 of the activation takes it back
    down' = down · 1.702 · N / s

Attention is Llama's own once the sinks are so low that they take no weight, and every layer sees
the whole context.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from osslo.errors import CheckpointError

EXPERTS = 4
UP_SCALE = 0.1
SWIGLU_ALPHA = 1.702
SWIGLU_LIMIT = 1e4
"""The base's gates reach about 50: far below, so that the clamp never acts."""
SINK = -1e4

Float = NDArray[np.float32]


class TensorSource(Protocol):
    """What is needed of a GGUF file."""

    @property
    def metadata(self) -> Mapping[str, Any]: ...

    def float32(self, name: str) -> Float: ...


@dataclass(frozen=True, slots=True)
class LlamaSizes:
    """The sizes of the dense model, from its GGUF metadata."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    context: int
    rope_theta: float
    rms_eps: float

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> LlamaSizes:
        """Raises `CheckpointError` naming the key that is missing or cannot be mapped."""
        if metadata.get("general.architecture") != "llama":
            raise CheckpointError(
                f"the stand-in's base has architecture {metadata.get('general.architecture')!r}, "
                "but only 'llama' can be mapped"
            )
        try:
            sizes = cls(
                hidden=int(metadata["llama.embedding_length"]),
                layers=int(metadata["llama.block_count"]),
                heads=int(metadata["llama.attention.head_count"]),
                kv_heads=int(metadata["llama.attention.head_count_kv"]),
                intermediate=int(metadata["llama.feed_forward_length"]),
                context=int(metadata["llama.context_length"]),
                rope_theta=float(metadata["llama.rope.freq_base"]),
                rms_eps=float(metadata["llama.attention.layer_norm_rms_epsilon"]),
            )
        except KeyError as error:
            raise CheckpointError(f"the stand-in's base lacks the metadata {error}") from error
        if sizes.intermediate % EXPERTS:
            raise CheckpointError(
                f"a feed-forward width of {sizes.intermediate} does not split over "
                f"{EXPERTS} experts"
            )
        return sizes

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


def gpt_oss_config(sizes: LlamaSizes, vocab_size: int, eos_token_ids: list[int]) -> dict[str, Any]:
    """The `config.json` of the mapped model."""
    return {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "dtype": "bfloat16",
        "hidden_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "intermediate_size": sizes.intermediate // EXPERTS,
        "num_local_experts": EXPERTS,
        "num_experts_per_tok": EXPERTS,
        "vocab_size": vocab_size,
        "layer_types": ["full_attention"] * sizes.layers,
        "sliding_window": sizes.context,
        "max_position_embeddings": sizes.context,
        "rope_parameters": {"rope_type": "default", "rope_theta": sizes.rope_theta},
        "rms_norm_eps": round(sizes.rms_eps, 12),
        "swiglu_limit": SWIGLU_LIMIT,
        "attention_bias": True,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "attention_dropout": 0.0,
        "router_aux_loss_coef": 0.9,
        "tie_word_embeddings": False,
        "eos_token_id": eos_token_ids,
        "pad_token_id": eos_token_ids[0],
    }


def layer_tensors(
    source: TensorSource, sizes: LlamaSizes, layer: int
) -> Iterator[tuple[str, Float]]:
    """The tensors of one layer, by `transformers`' names below `model.layers.N.`, float32."""
    block = f"blk.{layer}."
    yield "input_layernorm.weight", source.float32(f"{block}attn_norm.weight")
    yield "post_attention_layernorm.weight", source.float32(f"{block}ffn_norm.weight")
    yield from _attention(source, sizes, block)
    yield from _experts(source, sizes, block)


def _attention(source: TensorSource, sizes: LlamaSizes, block: str) -> Iterator[tuple[str, Float]]:
    query = unpermute(source.float32(f"{block}attn_q.weight"), sizes.heads)
    key = unpermute(source.float32(f"{block}attn_k.weight"), sizes.kv_heads)
    matrices = {
        "q": query,
        "k": key,
        "v": source.float32(f"{block}attn_v.weight"),
        "o": source.float32(f"{block}attn_output.weight"),
    }
    for name, matrix in matrices.items():
        yield f"self_attn.{name}_proj.weight", matrix
        yield f"self_attn.{name}_proj.bias", np.zeros(matrix.shape[0], np.float32)
    yield "self_attn.sinks", np.full(sizes.heads, SINK, np.float32)


def unpermute(matrix: Float, heads: int) -> Float:
    """Undo the row order that Llama GGUF files give q and k (interleaved RoPE to half-split)."""
    rows, columns = matrix.shape
    pairs = matrix.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, columns))


def permute(matrix: Float, heads: int) -> Float:
    """The order that Llama GGUF files give the rows of q and k: the inverse of `unpermute`."""
    rows, columns = matrix.shape
    halves = matrix.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


def _experts(source: TensorSource, sizes: LlamaSizes, block: str) -> Iterator[tuple[str, Float]]:
    """Plain experts as `transformers` saves them: `[E, in, out]`, gate and up interleaved."""
    width, hidden = sizes.intermediate // EXPERTS, sizes.hidden
    gate = source.float32(f"{block}ffn_gate.weight") / np.float32(SWIGLU_ALPHA)
    up = source.float32(f"{block}ffn_up.weight") * np.float32(UP_SCALE)
    down = source.float32(f"{block}ffn_down.weight") * np.float32(SWIGLU_ALPHA * EXPERTS / UP_SCALE)
    both = np.empty((EXPERTS, hidden, 2 * width), np.float32)
    both[..., 0::2] = gate.reshape(EXPERTS, width, hidden).swapaxes(1, 2)
    both[..., 1::2] = up.reshape(EXPERTS, width, hidden).swapaxes(1, 2)
    both_bias = np.zeros((EXPERTS, 2 * width), np.float32)
    both_bias[:, 1::2] = -1.0
    split_down = down.reshape(hidden, EXPERTS, width).transpose(1, 2, 0)
    yield "mlp.router.weight", np.zeros((EXPERTS, hidden), np.float32)
    yield "mlp.router.bias", np.zeros(EXPERTS, np.float32)
    yield "mlp.experts.gate_up_proj", both
    yield "mlp.experts.gate_up_proj_bias", both_bias
    yield "mlp.experts.down_proj", np.ascontiguousarray(split_down)
    yield "mlp.experts.down_proj_bias", np.zeros((EXPERTS, hidden), np.float32)
