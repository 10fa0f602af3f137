"""Named shapes for random checkpoints: the published models, and small ones for tests.

The small ones are not shrunken copies: each bends a shape that code could wrongly take for granted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from osslo.errors import ConfigurationError
from osslo.model.config import ModelConfig, YarnConfig, yarn_attention_factor
from osslo.model.forward import PageKind

BYTE_TOKENS = 256
"""Ids of single bytes in the vocabulary of small presets; the special tokens follow."""

BYTE_SPECIALS = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|return|>",
    "<|constrain|>",
    "<|channel|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|call|>",
)
"""The special tokens of small presets, in the order of their ids."""


def preset(name: str) -> ModelConfig:
    """A preset's configuration. Raises ConfigurationError naming the presets there are."""
    if name not in PRESETS:
        raise ConfigurationError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def _yarn(factor: float, original_context: int) -> YarnConfig:
    return YarnConfig(factor, original_context, yarn_attention_factor(factor))


def _alternating(layers: int) -> tuple[PageKind, ...]:
    return tuple(PageKind.FULL if i % 2 else PageKind.WINDOW for i in range(layers))


def _byte_special(name: str) -> int:
    return BYTE_TOKENS + BYTE_SPECIALS.index(name)


_GPT_OSS_20B = ModelConfig(
    hidden=2880,
    layers=24,
    heads=64,
    kv_heads=8,
    head_dim=64,
    intermediate=2880,
    experts=32,
    experts_per_token=4,
    vocab_size=201_088,
    layer_kinds=_alternating(24),
    sliding_window=128,
    rope_theta=150_000.0,
    yarn=_yarn(32.0, 4096),
    max_context=131_072,
    eos_token_ids=(200_002, 199_999, 200_012),
)

_TINY = ModelConfig(
    hidden=64,
    layers=4,
    heads=4,
    kv_heads=2,
    head_dim=32,
    intermediate=64,
    experts=4,
    experts_per_token=2,
    vocab_size=320,
    layer_kinds=_alternating(4),
    sliding_window=16,
    rope_theta=10_000.0,
    yarn=_yarn(64.0, 64),
    max_context=4096,
    eos_token_ids=tuple(map(_byte_special, ("<|return|>", "<|endoftext|>", "<|call|>"))),
)

PRESETS: Mapping[str, ModelConfig] = MappingProxyType(
    {
        "gpt-oss-20b": _GPT_OSS_20B,
        "gpt-oss-120b": replace(_GPT_OSS_20B, layers=36, layer_kinds=_alternating(36), experts=128),
        # a window of half a page, YaRN from 64 positions on
        "tiny": _TINY,
        # gpt-oss-120b's routing
        "tiny-128-experts": replace(
            _TINY,
            hidden=96,
            intermediate=32,
            layers=2,
            layer_kinds=_alternating(2),
            experts=128,
            experts_per_token=4,
        ),
        # no two sizes alike, groups of 3, a window across pages, windows not alternating
        "tiny-odd": replace(
            _TINY,
            hidden=160,
            layers=3,
            layer_kinds=(PageKind.FULL, PageKind.WINDOW, PageKind.WINDOW),
            heads=6,
            head_dim=64,
            intermediate=224,
            experts=5,
            experts_per_token=3,
            vocab_size=777,
            sliding_window=40,
            yarn=_yarn(8.0, 512),
        ),
        # neither windows nor YaRN, one key/value head for all
        "tiny-full": replace(
            _TINY,
            layer_kinds=(PageKind.FULL,) * 4,
            sliding_window=0,
            kv_heads=1,
            yarn=None,
        ),
        # large enough to time, small enough to keep: about 110 MB
        "small": replace(
            _TINY,
            hidden=512,
            layers=8,
            layer_kinds=_alternating(8),
            heads=16,
            kv_heads=4,
            head_dim=64,
            intermediate=512,
            experts=16,
            experts_per_token=4,
            vocab_size=4096,
            sliding_window=128,
            yarn=_yarn(8.0, 4096),
            max_context=32_768,
        ),
    }
)
"""Every preset, by name."""
