"""The contract of one forward step over a ragged batch, shared by the native model, the NumPy
reference and the engine's fakes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

PAGE_TOKENS = 32
"""Positions per KV page. Also the block of the streaming softmax: a fixed order of summation that
depends on absolute positions only."""


class PageKind(StrEnum):
    """Full-attention and sliding-window layers have page pools of their own. One page holds its
    positions for all layers of its kind."""

    FULL = "full"
    WINDOW = "window"


class LoadedAdapter(Protocol):
    """A LoRA adapter in memory, in the form of the model that loaded it.

    `identity` is a digest of its contents: adapters of one identity compute the same.
    """

    @property
    def identity(self) -> str: ...

    @property
    def resident_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class ForwardInput:
    """One ragged step of S sequences and T rows; row r of sequence s is one token at one position.

    The rows of a sequence are consecutive positions. Its page tables are indexed by
    `position // PAGE_TOKENS`; entries never read (windows that have passed, the future) are -1.
    """

    token_ids: NDArray[np.int32]  # [T]
    positions: NDArray[np.int32]  # [T]
    sequence_starts: NDArray[np.int32]  # [S + 1] first row of each sequence, then T
    full_pages: NDArray[np.int32]  # [S, P]
    window_pages: NDArray[np.int32]  # [S, P]
    logit_rows: NDArray[np.int32]  # [L] rows whose logits are wanted
    adapters: tuple[LoadedAdapter | None, ...] = ()  # [S], or empty where no sequence has one


class KvCache(Protocol):
    """Page pools that a model's forward reads and writes. Who owns which page is the engine's."""

    def copy_page(self, kind: PageKind, source: int, target: int, tokens: int) -> None:
        """Copy the first `tokens` positions of a page, all layers (copy on write)."""
        ...

    def page(self, kind: PageKind, page: int) -> NDArray[np.uint8]:
        """The `page_bytes(kind)` of a page, all layers: the memory itself, to be read or written
        between two forwards."""
        ...


class ForwardModel(Protocol):
    """A model as the engine sees it: sizes, page pools, and one step."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_context_tokens(self) -> int: ...

    @property
    def sliding_window(self) -> int:
        """Positions a window layer sees, its own included; 0 where no layer has a window."""
        ...

    def page_bytes(self, kind: PageKind) -> int: ...

    def new_kv(self, full_pages: int, window_pages: int) -> KvCache: ...

    def forward(self, kv: KvCache, step: ForwardInput) -> NDArray[np.float32]:
        """Run all layers, write K and V of every row into its pages, return logits `[L, V]`.

        Blocks without the GIL. Called by one thread at a time.
        """
        ...
