"""A model whose logits are noise, on the real vocabulary: whatever is right about its output comes
from the grammar.

Tokens that close strings, arrays and objects are likelier by an amount that is drawn anew for each
token, so that outputs end, some early and some late; without that none would.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from osslo.engine.constraint import ConstraintCompiler
from osslo.engine.engine import Engine
from osslo.engine.limits import EngineLimits
from osslo.errors import PackedFileError
from osslo.model.forward import ForwardInput, PageKind
from osslo.model.tokenizer import Tokenizer, harmony_tokenizer_from_ranks

CONTEXT_TOKENS = 1 << 17
CONCURRENT = 8


class _NoKv:
    """Noise has no memory."""

    def copy_page(self, kind: PageKind, source: int, target: int, tokens: int) -> None:
        pass

    def page(self, kind: PageKind, page: int) -> NDArray[np.uint8]:  # noqa: ARG002 - as below
        return np.empty(0, dtype=np.uint8)


class RandomModel:
    """A `ForwardModel` of noise."""

    max_context_tokens = CONTEXT_TOKENS
    sliding_window = 0

    def __init__(self, table: Sequence[bytes], seed: int) -> None:
        """`table` holds the bytes of every token."""
        self.vocab_size = len(table)
        self._source = np.random.default_rng(seed)
        # One long row of Gumbel noise, read from a random place each time: greedy choice among
        # logits + Gumbel noise is a draw from their softmax.
        self._noise = self._source.gumbel(size=self.vocab_size + (1 << 16)).astype(np.float32)
        self._closing = np.array([_closing(raw) for raw in table], dtype=np.float32)

    def page_bytes(self, kind: PageKind) -> int:  # noqa: ARG002 - the interface's
        return 0

    def new_kv(self, full_pages: int, window_pages: int) -> _NoKv:  # noqa: ARG002 - as above
        return _NoKv()

    def forward(
        self,
        kv: _NoKv,  # noqa: ARG002 - as above
        step: ForwardInput,
    ) -> NDArray[np.float32]:
        logits = np.empty((len(step.logit_rows), self.vocab_size), dtype=np.float32)
        for row in logits:
            start = self._source.integers(len(self._noise) - self.vocab_size)
            weight = np.float32(self._source.random())
            np.multiply(self._closing, weight, out=row)
            np.add(row, self._noise[start : start + self.vocab_size], out=row)
        return logits


def _closing(raw: bytes) -> float:
    """How much a token helps a JSON text to an end."""
    ends = raw.count(b'"') + raw.count(b"}") + raw.count(b"]")
    return 14.0 * bool(ends) - 0.5 * min(len(raw), 12)


def random_engine(tokenizer: Tokenizer, seed: int) -> Engine:
    """An engine over such a model, its grammars enforced as in serving."""
    ends = tuple(tokenizer.special(name) for name in ("<|return|>", "<|call|>"))
    limits = EngineLimits(
        context_tokens=CONTEXT_TOKENS,
        full_pages=2 * CONTEXT_TOKENS // 32,
        window_pages=0,
        eos_token_ids=ends,
        max_running=CONCURRENT,
        max_waiting=CONCURRENT,
        step_tokens=4096,
        mixed_prefill_tokens=4096,
        prefix_cache=False,
    )
    model = RandomModel(tokenizer.token_table(), seed)
    return Engine(model, limits, constraints=ConstraintCompiler(tokenizer, ends))


def real_tokenizer(cache: Path) -> Tokenizer:
    """o200k_harmony, kept in `cache` in its packed form."""
    packed = cache / "o200k_harmony-1.tokenizer"
    try:
        return Tokenizer.from_packed(packed.read_bytes())
    except (OSError, PackedFileError):
        tokenizer = harmony_tokenizer_from_ranks()
        cache.mkdir(parents=True, exist_ok=True)
        scratch = packed.with_suffix(f".{os.getpid()}")
        scratch.write_bytes(tokenizer.to_packed())
        scratch.replace(packed)
        return tokenizer
