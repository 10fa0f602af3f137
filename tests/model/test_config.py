"""Configurations: each published form reads to the same sizes, and wrong ones name the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osslo.errors import CheckpointError, ConfigurationError
from osslo.model.checkpoints.export import gguf_metadata, huggingface_config, original_config
from osslo.model.config import ModelConfig, rope_inverse_frequencies, yarn_attention_factor
from osslo.model.forward import PageKind
from osslo.model.presets import PRESETS, preset

# What openai/gpt-oss-20b publishes, without the fields that no forward pass reads.
PUBLISHED: Mapping[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "eos_token_id": 200002,
    "experts_per_token": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2880,
    "initial_context_length": 4096,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "max_position_embeddings": 131072,
    "model_type": "gpt_oss",
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "quantization_config": {"quant_method": "mxfp4"},
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "vocab_size": 201088,
}
PUBLISHED_ORIGINAL: Mapping[str, Any] = {
    "num_hidden_layers": 24,
    "num_experts": 32,
    "experts_per_token": 4,
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "swiglu_limit": 7.0,
    "head_dim": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "sliding_window": 128,
    "initial_context_length": 4096,
    "rope_theta": 150000,
    "rope_scaling_factor": 32.0,
    "rope_ntk_alpha": 1,
    "rope_ntk_beta": 32,
}
PUBLISHED_GGUF: Mapping[str, Any] = {
    "general.architecture": "gpt-oss",
    "gpt-oss.block_count": 24,
    "gpt-oss.context_length": 131072,
    "gpt-oss.embedding_length": 2880,
    "gpt-oss.feed_forward_length": 2880,
    "gpt-oss.attention.head_count": 64,
    "gpt-oss.attention.head_count_kv": 8,
    "gpt-oss.rope.freq_base": 150000.0,
    "gpt-oss.attention.layer_norm_rms_epsilon": 9.999999747378752e-06,
    "gpt-oss.expert_count": 32,
    "gpt-oss.expert_used_count": 4,
    "gpt-oss.attention.key_length": 64,
    "gpt-oss.attention.value_length": 64,
    "gpt-oss.attention.sliding_window": 128,
    "gpt-oss.expert_feed_forward_length": 2880,
    "gpt-oss.rope.scaling.type": "yarn",
    "gpt-oss.rope.scaling.factor": 32.0,
    "gpt-oss.rope.scaling.original_context_length": 4096,
    "tokenizer.ggml.tokens": ["t"] * 201088,
    "tokenizer.ggml.eos_token_id": 200002,
}
OURS = preset("gpt-oss-20b")


def test_published_huggingface_config() -> None:
    assert ModelConfig.from_huggingface(PUBLISHED) == replace(OURS, eos_token_ids=(200002,))


def test_rope_parameters_say_the_same_as_rope_scaling() -> None:
    newer = {k: v for k, v in PUBLISHED.items() if k not in ("rope_scaling", "rope_theta")}
    newer["rope_parameters"] = {**PUBLISHED["rope_scaling"], "rope_theta": 150000.0}
    assert ModelConfig.from_huggingface(newer) == ModelConfig.from_huggingface(PUBLISHED)


def test_published_original_config() -> None:
    assert ModelConfig.from_original(PUBLISHED_ORIGINAL) == replace(OURS, eos_token_ids=())


def test_published_gguf_metadata() -> None:
    read = ModelConfig.from_gguf(PUBLISHED_GGUF)
    assert replace(read, rms_eps=1e-5) == replace(OURS, eos_token_ids=(200002,))
    assert np.float32(read.rms_eps) == np.float32(1e-5)


@pytest.mark.parametrize("name", PRESETS)
def test_every_form_round_trips(name: str) -> None:
    config = PRESETS[name]
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert ModelConfig.from_huggingface(huggingface_config(config, mxfp4=True)) == config
    from_gguf = ModelConfig.from_gguf(gguf_metadata(config))
    assert replace(from_gguf, eos_token_ids=config.eos_token_ids) == config


def test_what_gguf_has_no_key_for_round_trips() -> None:
    yarn = OURS.yarn
    assert yarn is not None
    odd = replace(
        OURS, swiglu_limit=1e4, swiglu_alpha=1.5, yarn=replace(yarn, truncate=True, beta_fast=20.0)
    )
    assert ModelConfig.from_gguf(gguf_metadata(odd)) == replace(odd, eos_token_ids=())


def test_original_layout_refuses_what_it_cannot_say() -> None:
    with pytest.raises(ConfigurationError, match="layer_kinds"):
        original_config(PRESETS["tiny-odd"])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model_type", "llama", "model_type is 'llama'"),
        ("hidden_act", "gelu", "hidden_act is 'gelu'"),
        ("attention_bias", False, "attention_bias is False"),
        ("hidden_size", None, "hidden_size is missing"),
        ("hidden_size", 0, "hidden is 0"),
        ("hidden_size", "2880", "hidden_size is '2880'"),
        ("hidden_size", True, "hidden_size is True"),
        ("head_dim", 63, "head_dim is 63"),
        ("num_key_value_heads", 7, "heads is 64"),
        ("num_experts_per_tok", 33, "experts_per_token is 33"),
        ("num_hidden_layers", 23, "layer_kinds names 24 layers"),
        ("num_hidden_layers", 10**9, "layers is 1000000000"),
        ("layer_types", ["chunked_attention"] * 24, "'chunked_attention'"),
        ("layer_types", "sliding_attention", "layer_types"),
        ("sliding_window", None, "sliding_window is 0"),
        ("sliding_window", -1, "sliding_window is -1"),
        ("rope_theta", "many", "rope_theta is 'many'"),
        ("rope_theta", 1, "rope_theta is 1.0"),
        ("rope_scaling", {"rope_type": "linear", "factor": 2.0}, "rope_type is 'linear'"),
        ("rope_scaling", {"rope_type": "yarn"}, "original_max_position_embeddings is missing"),
        ("rope_scaling", [1], r"rope_scaling is \[1\]"),
        ("swiglu_limit", 0.0, "swiglu_limit is 0.0"),
        ("swiglu_limit", float("nan"), "swiglu_limit is nan"),
        ("rms_norm_eps", float("inf"), "rms_norm_eps is inf"),
        ("eos_token_id", 201088, "eos_token_ids"),
        ("eos_token_id", "x", "eos_token_id"),
        ("vocab_size", 2**31, "vocab_size is 2147483648"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        ModelConfig.from_huggingface({**PUBLISHED, field: value}, source="a/config.json")
    assert caught.value.message.startswith("a/config.json: ")
    assert "\n" not in caught.value.message


JUNK = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
DEEPER = JUNK | st.lists(JUNK, max_size=3) | st.dictionaries(st.text(max_size=5), JUNK, max_size=3)


@given(st.dictionaries(st.sampled_from(sorted(PUBLISHED)), DEEPER, min_size=1, max_size=3))
def test_junk_is_a_checkpoint_error(junk: dict[str, Any]) -> None:
    for read in (ModelConfig.from_huggingface, ModelConfig.from_original):
        with suppress(CheckpointError):
            read({**PUBLISHED, **PUBLISHED_ORIGINAL, **junk})


@given(st.dictionaries(st.sampled_from(sorted(PUBLISHED_GGUF)), DEEPER, min_size=1, max_size=3))
def test_junk_metadata_is_a_checkpoint_error(junk: dict[str, Any]) -> None:
    with suppress(CheckpointError):
        ModelConfig.from_gguf({**PUBLISHED_GGUF, "tokenizer.ggml.tokens": ["t"] * 9, **junk})


@given(st.dictionaries(st.sampled_from(sorted(OURS.to_dict())), DEEPER, min_size=1, max_size=3))
def test_a_junk_record_is_a_checkpoint_error(junk: dict[str, Any]) -> None:
    with suppress(CheckpointError):
        ModelConfig.from_dict({**OURS.to_dict(), **junk})


def test_an_unknown_field_of_our_own_record_is_refused() -> None:
    with pytest.raises(CheckpointError, match="colour is not a known field"):
        ModelConfig.from_dict({**OURS.to_dict(), "colour": 1})


def test_no_window_where_no_layer_has_one() -> None:
    read = ModelConfig.from_huggingface({**PUBLISHED, "layer_types": ["full_attention"] * 24})
    assert read.sliding_window == 0
    assert set(read.layer_kinds) == {PageKind.FULL}


def test_yarn_attention_factor() -> None:
    assert yarn_attention_factor(32.0) == pytest.approx(1.3465735902799727)
    assert yarn_attention_factor(1.0) == 1.0


ROPES = [
    {},
    {"truncate": True},
    {"factor": 4.0, "original_max_position_embeddings": 64},
    {"factor": 8.0, "original_max_position_embeddings": 12, "beta_fast": 4.0, "beta_slow": 2.0},
    {"attention_factor": 1.25},
    {"mscale": 0.7, "mscale_all_dim": 1.3},
    {"factor": 1.0},
    {"rope_type": "default"},
]


@pytest.mark.parametrize("changes", ROPES)
@pytest.mark.parametrize("head_dim", [16, 64, 80])
@pytest.mark.parametrize("theta", [10000.0, 150000.0])
def test_rope_frequencies_are_those_of_transformers(
    changes: dict[str, Any], head_dim: int, theta: float
) -> None:
    """To two units in the last place: the powers themselves differ by one between libraries."""
    from transformers import GptOssConfig
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRotaryEmbedding

    rope = {**PUBLISHED["rope_scaling"], "rope_theta": theta, **changes}
    theirs = GptOssRotaryEmbedding(GptOssConfig(head_dim=head_dim, rope_parameters=dict(rope)))
    values = {**PUBLISHED, "head_dim": head_dim, "rope_parameters": rope}
    ours, scale = rope_inverse_frequencies(ModelConfig.from_huggingface(values))
    np.testing.assert_array_max_ulp(ours, theirs.inv_freq.numpy(), maxulp=2)
    assert scale == pytest.approx(theirs.attention_scaling, rel=1e-12)
