"""From scheduled chunks to the `ForwardInput` of one step."""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from osslo.engine.sequence import Sequence
from osslo.model.forward import ForwardInput


class Chunk(NamedTuple):
    """The next `rows` tokens of a sequence run in this step: pending ones, then `drafts` that were
    guessed to follow them."""

    sequence: Sequence
    rows: int
    drafts: int = 0

    @property
    def is_last(self) -> bool:
        """No pending token is left afterwards: its logits, and those of the drafts, are wanted."""
        return self.sequence.computed + self.rows - self.drafts == self.sequence.length

    @property
    def logit_count(self) -> int:
        """Rows whose logits are wanted; the last ones."""
        if self.sequence.wants_all_rows:
            return self.rows
        return self.drafts + 1 if self.is_last else 0


def build_batch(chunks: list[Chunk]) -> ForwardInput:
    """One ragged batch, sequences in the order of `chunks`.

    Logits are asked for the last row of each chunk that leaves nothing pending, and for its drafts,
    and for all rows of texts that are scored, in row order. A step of one sequence has views of its
    arrays.
    """
    spans = [(c.sequence, c.sequence.computed, c.sequence.computed + c.rows) for c in chunks]
    starts = [0, *accumulate(chunk.rows for chunk in chunks)]
    adapters = tuple(chunk.sequence.adapter for chunk in chunks)
    return ForwardInput(
        token_ids=_join([seq.tokens[first:end] for seq, first, end in spans]),
        positions=_join([np.arange(first, end, dtype=np.int32) for _, first, end in spans]),
        sequence_starts=_rows(starts),
        full_pages=_table([c.sequence.full_pages[: c.sequence.page_count] for c in chunks]),
        window_pages=_table([c.sequence.window_pages[: c.sequence.page_count] for c in chunks]),
        logit_rows=_rows(_logit_rows(chunks, starts)),
        adapters=adapters if any(adapters) else (),
    )


def _logit_rows(chunks: list[Chunk], starts: list[int]) -> list[int]:
    rows: list[int] = []
    for chunk, end in zip(chunks, starts[1:], strict=True):
        rows.extend(range(end - chunk.logit_count, end))
    return rows


def _join(parts: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _table(rows: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    """Page tables below each other, -1 behind the end of the shorter ones."""
    if len(rows) == 1:
        return rows[0][np.newaxis]
    table = np.full((len(rows), max(map(len, rows))), -1, dtype=np.int32)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return table


def _rows(rows: list[int]) -> NDArray[np.int32]:
    return np.array(rows, dtype=np.int32)
