"""A tiny random dense base of the stand-in, in GGUF."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from osslo.model.checkpoints.gguf import GgmlType, MetadataValue
from osslo.model.checkpoints.writing import GgufSpec, gguf_writer
from osslo.model.vocabulary import bytes_to_name


def write_tiny_llama(path: Path, *, seed: int = 0) -> None:
    """A random dense model of two layers whose tokens are the bytes and ChatML's markers."""
    random = np.random.default_rng(seed)
    hidden, heads, kv_heads, inner, layers = 64, 4, 2, 128, 2
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*specials, *(bytes_to_name(bytes([byte])) for byte in range(256)), "th"]
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(tokens), hidden),
        "output_norm.weight": (hidden,),
    }
    kv = hidden // heads * kv_heads
    for i in range(layers):
        shapes |= {
            f"blk.{i}.attn_norm.weight": (hidden,),
            f"blk.{i}.ffn_norm.weight": (hidden,),
            f"blk.{i}.attn_q.weight": (hidden, hidden),
            f"blk.{i}.attn_k.weight": (kv, hidden),
            f"blk.{i}.attn_v.weight": (kv, hidden),
            f"blk.{i}.attn_output.weight": (hidden, hidden),
            f"blk.{i}.ffn_gate.weight": (inner, hidden),
            f"blk.{i}.ffn_up.weight": (inner, hidden),
            f"blk.{i}.ffn_down.weight": (hidden, inner),
        }
    metadata: dict[str, MetadataValue] = {
        "general.architecture": "llama",
        "llama.embedding_length": hidden,
        "llama.block_count": layers,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": kv_heads,
        "llama.feed_forward_length": inner,
        "llama.context_length": 512,
        "llama.rope.freq_base": 10000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": list(tokens),
        "tokenizer.ggml.token_type": [3] * len(specials) + [1] * 257,
        "tokenizer.ggml.merges": ["t h"],
    }
    specs = [GgufSpec(name, GgmlType.F32, shape) for name, shape in shapes.items()]
    with gguf_writer(path, metadata, specs) as writer:
        for spec in specs:
            values = random.normal(0, 0.3, spec.shape).astype(np.float32)
            writer.write(spec.name, values + (1 if "norm" in spec.name else 0))
