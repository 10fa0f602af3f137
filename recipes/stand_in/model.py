"""The model that the recipe trains, and the delta that ships: one from the other, both ways.

A delta's factors are the LoRA layers' own A and B, under the names and in the row order of the
base's GGUF. `delta_of` writes them down, `load_delta` puts them back, so that training goes on from
a delta as from a checkpoint (but for the optimizer's state and the rounding to int8).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from osslo.errors import CheckpointError
from osslo.model.checkpoints.gguf import GgufFile
from osslo.model.standin.convert import Float, LlamaSizes, permute, unpermute
from osslo.model.standin.delta import Delta, Factors
from osslo.model.standin.markers import HARMONY_MARKERS, Marked, add_markers, read_fitted
from osslo.model.tokenizer_sources import from_gguf
from osslo.tuning import attention
from osslo.tuning.fused import fuse
from osslo.tuning.model import TokenRows, Trainable
from recipes.stand_in.dense import MATRICES, llama_from_gguf

RANK = 32
ALPHA = 64
_NAME = re.compile(r".*layers\.(\d+)\.(\w+\.\w+)\.lora_([AB])\.default\.weight")


def open_base(path: Path, *, fitted: bool = True) -> Marked:
    """The tables of the base's GGUF with the markers in them; `fitted` rows are the real base's."""
    gguf = GgufFile(path)
    embedding = gguf.float32("token_embd.weight")
    return add_markers(from_gguf(gguf.metadata), embedding, read_fitted() if fitted else None)


def start_rows(marked: Marked) -> TokenRows:
    """The markers' rows as training begins. A marker that has no head row starts from what stands
    in its place in ChatML."""
    tokenizer = marked.tokenizer
    ids = [tokenizer.special(name) for name in HARMONY_MARKERS]
    inputs, outputs = marked.embedding[ids].copy(), marked.head[ids].copy()
    newline = tokenizer.encode("\n")[0]
    opener = marked.embedding[tokenizer.specials["<|im_start|>"]]
    for place, name in enumerate(HARMONY_MARKERS):
        if name in ("<|message|>", "<|channel|>", "<|constrain|>"):
            outputs[place] = 0.5 * marked.embedding[newline]
        if name == "<|start|>":
            outputs[place] = opener
    rows = [torch.tensor(np.ascontiguousarray(part)) for part in (inputs, outputs)]
    return TokenRows(torch.tensor(ids), *rows)


def build_trainable(path: Path, marked: Marked, compute: torch.dtype = torch.float32) -> Trainable:
    """The dense base in the GGUF `path` with LoRA layers, and the markers' rows."""
    torch.manual_seed(0)
    model = llama_from_gguf(path)
    model.resize_token_embeddings(len(marked.embedding), mean_resizing=False)
    model.requires_grad_(requires_grad=False)
    attention.register()
    model.set_attn_implementation(attention.NAME)
    targets = [name.split(".")[1] for name in MATRICES]
    get_peft_model(
        model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, lora_dropout=0.0)
    )
    model.train()
    trainable = Trainable(model, start_rows(marked), compute=compute)
    if compute is not torch.float32:
        fuse(model, compute)
    return trainable


def delta_of(parameters: Mapping[str, torch.Tensor], sizes: LlamaSizes) -> Delta:
    """The delta that a checkpoint's parameters make."""
    parts: dict[str, dict[str, Float]] = {}
    for name, value in parameters.items():
        if found := _NAME.fullmatch(name):
            layer, matrix, factor = found.groups()
            parts.setdefault(_gguf_name(layer, matrix), {})[factor] = value.numpy()
    factors = {}
    for name, both in parts.items():
        b, heads = both["B"] * np.float32(ALPHA / RANK), _rotated_heads(name, sizes)
        factors[name] = Factors(both["A"], permute(b, heads) if heads else b)
    return Delta(factors, parameters["rows.inputs"].numpy(), parameters["rows.outputs"].numpy())


def load_delta(trainable: Trainable, delta: Delta, sizes: LlamaSizes) -> None:
    """Let training go on from a delta. Raises `CheckpointError` for one of another shape."""
    state = {
        "rows.inputs": torch.tensor(delta.inputs),
        "rows.outputs": torch.tensor(delta.outputs),
    }
    for name, value in trainable.parameters():
        if found := _NAME.fullmatch(name):
            layer, matrix, factor = found.groups()
            gguf_name = _gguf_name(layer, matrix)
            factors = delta.factors[gguf_name]
            heads = _rotated_heads(gguf_name, sizes)
            b = unpermute(factors.b, heads) if heads else factors.b
            state[name] = torch.tensor(factors.a if factor == "A" else b * (RANK / ALPHA))
            if state[name].shape != value.shape:
                raise CheckpointError(
                    f"the delta's {gguf_name} is of rank {factors.a.shape[0]}, the recipe's {RANK}"
                )
    trainable.load_state(state)


def _gguf_name(layer: str, matrix: str) -> str:
    return f"blk.{layer}.{MATRICES[matrix]}.weight"


def _rotated_heads(name: str, sizes: LlamaSizes) -> int:
    """How many heads' rows stand in another order in a GGUF; 0 for matrices without rotation."""
    return {"attn_q": sizes.heads, "attn_k": sizes.kv_heads}.get(name.split(".")[2], 0)
