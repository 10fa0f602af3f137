"""A configuration in the words of each checkpoint format: the inverse of `ModelConfig.from_*`."""

from __future__ import annotations

from typing import Any

from osslo.errors import ConfigurationError
from osslo.model.checkpoints.gguf import MetadataValue
from osslo.model.config import (
    GGUF_ARCHITECTURE,
    SWIGLU_ALPHA,
    SWIGLU_LIMIT,
    ModelConfig,
    yarn_attention_factor,
)
from osslo.model.forward import PageKind

_LAYER_TYPES = {PageKind.WINDOW: "sliding_attention", PageKind.FULL: "full_attention"}


def huggingface_config(config: ModelConfig, *, mxfp4: bool) -> dict[str, Any]:
    """The contents of `config.json`; `mxfp4` says that the experts are stored so."""
    eos = list(config.eos_token_ids)
    values: dict[str, Any] = {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "layer_types": [_LAYER_TYPES[kind] for kind in config.layer_kinds],
        "max_position_embeddings": config.max_context,
        "num_attention_heads": config.heads,
        "num_experts_per_tok": config.experts_per_token,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads,
        "num_local_experts": config.experts,
        "rms_norm_eps": config.rms_eps,
        "rope_parameters": _rope_parameters(config),
        "sliding_window": config.sliding_window or config.max_context,  # transformers wants one
        "swiglu_alpha": config.swiglu_alpha,
        "swiglu_limit": config.swiglu_limit,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": config.vocab_size,
    }
    if mxfp4:
        plain = ["model.layers.*.self_attn", "model.layers.*.mlp.router"]
        values["quantization_config"] = {
            "quant_method": "mxfp4",
            "modules_to_not_convert": [*plain, "model.embed_tokens", "lm_head"],
        }
    return values


def _rope_parameters(config: ModelConfig) -> dict[str, Any]:
    yarn = config.yarn
    if yarn is None:
        return {"rope_type": "default", "rope_theta": config.rope_theta}
    return {
        "rope_type": "yarn",
        "rope_theta": config.rope_theta,
        "factor": yarn.factor,
        "original_max_position_embeddings": yarn.original_context,
        "attention_factor": yarn.attention_factor,
        "beta_fast": yarn.beta_fast,
        "beta_slow": yarn.beta_slow,
        "truncate": yarn.truncate,
    }


def original_config(config: ModelConfig) -> dict[str, Any]:
    """The contents of `original/config.json`, which has no words for some fields: windows must
    alternate, and YaRN be as OpenAI's code has it. Raises ConfigurationError otherwise."""
    yarn = config.yarn
    values: dict[str, Any] = {
        "num_hidden_layers": config.layers,
        "num_experts": config.experts,
        "experts_per_token": config.experts_per_token,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "swiglu_limit": config.swiglu_limit,
        "head_dim": config.head_dim,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "sliding_window": config.sliding_window,
        "initial_context_length": yarn.original_context if yarn else config.max_context,
        "rope_theta": config.rope_theta,
        "rope_scaling_factor": yarn.factor if yarn else 1.0,
        "rope_ntk_alpha": yarn.beta_slow if yarn else 1.0,
        "rope_ntk_beta": yarn.beta_fast if yarn else 32.0,
    }
    read_back = ModelConfig.from_original(values).to_dict()
    ours = {**config.to_dict(), "eos_token_ids": []}
    differing = sorted(name for name, value in read_back.items() if ours[name] != value)
    if differing:
        raise ConfigurationError(f"the original layout cannot express this {differing[0]}")
    return values


def gguf_metadata(config: ModelConfig) -> dict[str, MetadataValue]:
    """A GGUF file's metadata but for the tokenizer's. What the format has no key for stands under
    `osslo.*`, and only where it is not gpt-oss's. Raises ConfigurationError for an attention
    factor that is not YaRN's own."""
    start = f"{GGUF_ARCHITECTURE}."
    values: dict[str, MetadataValue] = {
        "general.architecture": GGUF_ARCHITECTURE,
        "general.type": "model",
        f"{start}block_count": config.layers,
        f"{start}context_length": config.max_context,
        f"{start}embedding_length": config.hidden,
        f"{start}feed_forward_length": config.intermediate,
        f"{start}attention.head_count": config.heads,
        f"{start}attention.head_count_kv": config.kv_heads,
        f"{start}attention.key_length": config.head_dim,
        f"{start}attention.value_length": config.head_dim,
        f"{start}attention.layer_norm_rms_epsilon": config.rms_eps,
        f"{start}attention.sliding_window": config.sliding_window,
        f"{start}rope.freq_base": config.rope_theta,
        f"{start}rope.dimension_count": config.head_dim,
        f"{start}expert_count": config.experts,
        f"{start}expert_used_count": config.experts_per_token,
        f"{start}expert_feed_forward_length": config.intermediate,
        f"{start}vocab_size": config.vocab_size,
    }
    windows: list[MetadataValue] = [kind is PageKind.WINDOW for kind in config.layer_kinds]
    if windows != [i % 2 == 0 for i in range(config.layers)]:
        values[f"{start}attention.sliding_window_pattern"] = windows
    if config.swiglu_limit != SWIGLU_LIMIT:
        values["osslo.swiglu_limit"] = config.swiglu_limit
    if config.swiglu_alpha != SWIGLU_ALPHA:
        values["osslo.swiglu_alpha"] = config.swiglu_alpha
    return {**values, **_gguf_yarn(config)}


def _gguf_yarn(config: ModelConfig) -> dict[str, MetadataValue]:
    yarn, start = config.yarn, f"{GGUF_ARCHITECTURE}.rope.scaling."
    if yarn is None:
        return {}
    if yarn.attention_factor != yarn_attention_factor(yarn.factor):
        raise ConfigurationError("GGUF cannot express this attention_factor")
    values: dict[str, MetadataValue] = {
        f"{start}type": "yarn",
        f"{start}factor": yarn.factor,
        f"{start}original_context_length": yarn.original_context,
        f"{start}yarn_beta_fast": yarn.beta_fast,
        f"{start}yarn_beta_slow": yarn.beta_slow,
    }
    if yarn.truncate:
        values["osslo.rope_truncate"] = True
    return values
