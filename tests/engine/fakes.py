"""A deterministic fake `ForwardModel` whose logits depend on everything a row can see.

Its KV pages hold (token, position) per slot. A row's logits are noise seeded by a hash of the
tokens that it finds through its page tables: all of [0, position] in full pages, the window in
window pages. A page that is lost, stale, shared too long, copied too short or written by a
neighbour therefore changes the answer, or fails loudly.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from osslo.model.forward import PAGE_TOKENS, ForwardInput, PageKind

POISON = -7


class FakeKv:
    def __init__(self, full_pages: int, window_pages: int) -> None:
        counts = {PageKind.FULL: full_pages, PageKind.WINDOW: window_pages}
        self.pools = {
            kind: np.full((pages, 2, PAGE_TOKENS), POISON, dtype=np.int32)
            for kind, pages in counts.items()
        }
        self.tokens = {kind: pool[:, 0] for kind, pool in self.pools.items()}
        self.positions = {kind: pool[:, 1] for kind, pool in self.pools.items()}
        self.copies = 0

    def page(self, kind: PageKind, page: int) -> NDArray[np.uint8]:
        return self.pools[kind][page].reshape(-1).view(np.uint8)

    def copy_page(self, kind: PageKind, source: int, target: int, tokens: int) -> None:
        assert source != target
        assert 0 < tokens < PAGE_TOKENS
        for pages in (self.tokens[kind], self.positions[kind]):
            pages[target, :tokens] = pages[source, :tokens]
            pages[target, tokens:] = POISON
        self.copies += 1


class FakeModel:
    """`fail_next` makes so many coming steps raise."""

    def __init__(
        self, *, vocab_size: int = 50, max_context_tokens: int = 512, sliding_window: int = 40
    ) -> None:
        self.vocab_size = vocab_size
        self.max_context_tokens = max_context_tokens
        self.sliding_window = sliding_window
        self.fail_next = 0
        self.steps: list[ForwardInput] = []

    def page_bytes(self, kind: PageKind) -> int:
        return PAGE_TOKENS * 8

    def new_kv(self, full_pages: int, window_pages: int) -> FakeKv:
        self.kv = FakeKv(full_pages, window_pages)
        return self.kv

    def forward(self, kv: FakeKv, step: ForwardInput) -> NDArray[np.float32]:
        self.steps.append(step)
        if self.fail_next:
            self.fail_next -= 1
            raise RuntimeError("the fake was told to fail")
        self._check(step)
        sequence_of = np.repeat(np.arange(len(step.full_pages)), np.diff(step.sequence_starts))
        for row, sequence in enumerate(sequence_of):
            self._write(kv, step, row, int(sequence))
        logits = [self._read(kv, step, int(r), int(sequence_of[r])) for r in step.logit_rows]
        return np.array(logits, dtype=np.float32).reshape(len(step.logit_rows), self.vocab_size)

    def logits_after(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """The logits that follow `tokens`, without any pages: what every schedule must give."""
        text = np.array(tokens, dtype=np.int32)
        seen = text[-self.sliding_window :] if self.sliding_window else text[:0]
        return self._noise(text, seen)

    def _check(self, step: ForwardInput) -> None:
        starts = step.sequence_starts
        assert starts[0] == 0
        assert starts[-1] == len(step.token_ids) == len(step.positions)
        assert (np.diff(starts) > 0).all()
        assert (
            step.full_pages.shape
            == step.window_pages.shape
            == (len(starts) - 1, step.full_pages.shape[1])
        )
        for name in ("token_ids", "positions", "full_pages", "window_pages", "logit_rows"):
            assert getattr(step, name).dtype == np.int32
        for start, end in pairwise(starts):
            assert (np.diff(step.positions[start:end]) == 1).all()
        assert (np.diff(step.logit_rows) > 0).all()
        self._check_writers(step)

    def _check_writers(self, step: ForwardInput) -> None:
        """No two sequences write the same page."""
        writers: dict[tuple[PageKind, int], int] = {}
        for sequence in range(len(step.full_pages)):
            start, end = step.sequence_starts[sequence : sequence + 2]
            for index in {int(p) // PAGE_TOKENS for p in step.positions[start:end]}:
                for kind, table in self._tables(step, sequence):
                    page = int(table[index])
                    assert page >= 0, f"{kind}: no page for a row to write"
                    assert writers.setdefault((kind, page), sequence) == sequence

    def _tables(self, step: ForwardInput, sequence: int):
        yield PageKind.FULL, step.full_pages[sequence]
        if self.sliding_window:
            yield PageKind.WINDOW, step.window_pages[sequence]

    def _write(self, kv: FakeKv, step: ForwardInput, row: int, sequence: int) -> None:
        index, slot = divmod(int(step.positions[row]), PAGE_TOKENS)
        for kind, table in self._tables(step, sequence):
            kv.tokens[kind][table[index], slot] = step.token_ids[row]
            kv.positions[kind][table[index], slot] = step.positions[row]

    def _read(self, kv: FakeKv, step: ForwardInput, row: int, sequence: int) -> NDArray[np.float32]:
        position = int(step.positions[row])
        seen = {PageKind.WINDOW: np.empty(0, dtype=np.int32)}
        for kind, table in self._tables(step, sequence):
            first = 0 if kind is PageKind.FULL else max(0, position - self.sliding_window + 1)
            wanted = np.arange(first, position + 1)
            pages, slots = table[wanted // PAGE_TOKENS], wanted % PAGE_TOKENS
            assert (pages >= 0).all(), f"{kind}: a page in sight is missing"
            assert (kv.positions[kind][pages, slots] == wanted).all(), f"{kind}: a foreign entry"
            seen[kind] = kv.tokens[kind][pages, slots]
        return self._noise(seen[PageKind.FULL], seen[PageKind.WINDOW])

    def _noise(self, full: NDArray[np.int32], window: NDArray[np.int32]) -> NDArray[np.float32]:
        text = np.ascontiguousarray(full, dtype=np.int32).tobytes() + b"|"
        text += np.ascontiguousarray(window, dtype=np.int32).tobytes()
        seed = int.from_bytes(blake2b(text, digest_size=8).digest(), "little")
        return np.random.default_rng(seed).normal(0, 3, self.vocab_size).astype(np.float32)
