"""The stand-in's dense base as `transformers` sees it."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from osslo.model.checkpoints.gguf import GgufFile
from osslo.model.standin.convert import LlamaSizes, unpermute

MATRICES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""A layer's matrices: their names in `transformers`, and in a GGUF."""
_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def llama_from_gguf(path: Path) -> LlamaForCausalLM:
    """`transformers`' dense model with a GGUF's weights, float32."""
    source = GgufFile(path)
    sizes = LlamaSizes.from_gguf(source.metadata)
    embedding = source.float32("token_embd.weight")
    config = LlamaConfig(
        vocab_size=len(embedding),
        hidden_size=sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        intermediate_size=sizes.intermediate,
        max_position_embeddings=sizes.context,
        rope_parameters={"rope_type": "default", "rope_theta": sizes.rope_theta},
        rms_norm_eps=sizes.rms_eps,
        tie_word_embeddings=True,
    )
    weights = {"model.embed_tokens": embedding, "lm_head": embedding}
    weights["model.norm"] = source.float32("output_norm.weight")
    heads = {"attn_q": sizes.heads, "attn_k": sizes.kv_heads}
    for layer in range(sizes.layers):
        for theirs, name in {**MATRICES, **_NORMS}.items():
            values = source.float32(f"blk.{layer}.{name}.weight")
            if name in heads:
                values = unpermute(values, heads[name])
            weights[f"model.layers.{layer}.{theirs}"] = values
    model = LlamaForCausalLM(config)
    state = {f"{name}.weight": torch.tensor(values) for name, values in weights.items()}
    model.load_state_dict(state)
    return model.eval()
