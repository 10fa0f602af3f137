"""A tiny dense model and examples that share their beginnings."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from osslo.tuning.attention import register
from osslo.tuning.examples import Example


@pytest.fixture
def tiny() -> LlamaForCausalLM:
    register()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
    )
    return LlamaForCausalLM(config).train()


@pytest.fixture
def examples() -> list[Example]:
    source = random.Random(3)
    made = []
    for _ in range(3):
        prefix = [source.randrange(97) for _ in range(24)]
        for _ in range(4):
            own = [source.randrange(97) for _ in range(source.randint(5, 12))]
            learned = [False] * (len(prefix) + 2) + [True] * (len(own) - 2)
            made.append(Example(tuple(prefix + own), tuple(learned)))
    return made
