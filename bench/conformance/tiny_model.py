"""A gpt-oss GGUF that computes almost nothing, for llama-server and for our engine.

Its weights are random. The head's rows of all tokens but printable ASCII are zero, so that of the
largest logits one of those is the first: no answer ends early, and every token is a character that
a server can send at once.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from osslo.engine.engine import Engine
from osslo.engine.limits import EngineLimits
from osslo.model.checkpoints import open_checkpoint
from osslo.model.checkpoints.gguf import GgufFile
from osslo.model.forward import PageKind
from osslo.model.model import Model
from osslo.model.pack import pack
from osslo.model.presets import preset
from osslo.model.synth import write_random
from osslo.model.tokenizer import Tokenizer

SEED = 20_250_805
CONTEXT_TOKENS = 256
"""Of each of those that are served at once."""

CONFIG = replace(
    preset("tiny"),
    layers=2,
    layer_kinds=(PageKind.WINDOW, PageKind.FULL),
    sliding_window=128,
    yarn=None,  # llama.cpp rounds its range to whole dimensions
)
SPOKEN = range(0x20, 0x7F)
"""Tokens that may be said; a token of a byte has its number as id."""


def write_tiny(path: Path) -> Path:
    """Write the model to `path`, which it gives."""
    write_random(CONFIG, path, format="gguf", seed=SEED)
    head = GgufFile(path).tensors["output.weight"]
    rows = np.memmap(
        path, np.uint8, "r+", head.offset, (CONFIG.vocab_size, head.type.row_bytes(CONFIG.hidden))
    )
    rows[: SPOKEN.start] = rows[SPOKEN.stop :] = 0
    rows.flush()
    return path


def tiny_engine(folder: Path, *, running: int) -> tuple[Engine, Tokenizer]:
    """An engine that serves so many at once of the model, whose files are made in `folder`. It has
    one thread: a second would wait longer than it computes."""
    gguf = write_tiny(folder / "tiny.gguf")
    model = Model.load(pack(open_checkpoint(gguf), folder / "tiny.osslo"), threads=1)
    limits = EngineLimits.for_model(
        model,
        context_tokens=CONTEXT_TOKENS,
        eos_token_ids=CONFIG.eos_token_ids,
        max_running=running,
        kv_tokens=running * CONTEXT_TOKENS,
    )
    return Engine(model, limits), model.tokenizer
