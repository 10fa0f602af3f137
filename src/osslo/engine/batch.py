"""From scheduled chunks to the `ForwardInput` of one step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from osslo.engine.sequence import Sequence
from osslo.model.forward import ForwardInput


class Chunk(NamedTuple):
    """The next `rows` pending tokens of a sequence run in this step."""

    sequence: Sequence
    rows: int

    @property
    def is_last(self) -> bool:
        """Nothing is pending afterwards: the last row's logits are wanted."""
        return self.sequence.computed + self.rows == self.sequence.length


def build_batch(chunks: list[Chunk]) -> ForwardInput:
    """One ragged batch, sequences in the order of `chunks`.

    Logits are asked for the last row of each chunk that leaves nothing pending, and for all rows of
    texts that are scored, in row order.
    """
    count = len(chunks)
    starts = np.zeros(count + 1, dtype=np.int32)
    np.cumsum([chunk.rows for chunk in chunks], out=starts[1:])
    total = int(starts[-1])
    tokens = np.empty(total, dtype=np.int32)
    positions = np.empty(total, dtype=np.int32)
    width = max(chunk.sequence.page_count for chunk in chunks)
    full = np.full((count, width), -1, dtype=np.int32)
    window = np.full((count, width), -1, dtype=np.int32)
    logit_rows: list[int] = []
    adapters = tuple(chunk.sequence.adapter for chunk in chunks)
    row = 0
    for index, chunk in enumerate(chunks):
        seq, rows = chunk
        first, end = seq.computed, row + rows
        if rows == 1:
            tokens[row] = seq.tokens[first]
            positions[row] = first
        else:
            tokens[row:end] = seq.tokens[first : first + rows]
            positions[row:end] = np.arange(first, first + rows, dtype=np.int32)
        full[index, : seq.page_count] = seq.full_pages[: seq.page_count]
        window[index, : seq.page_count] = seq.window_pages[: seq.page_count]
        if seq.wants_all_rows:
            logit_rows.extend(range(row, end))
        elif chunk.is_last:
            logit_rows.append(end - 1)
        row = end
    return ForwardInput(
        tokens,
        positions,
        starts,
        full,
        window,
        _rows(logit_rows),
        adapters if any(adapters) else (),
    )


def _rows(rows: list[int]) -> NDArray[np.int32]:
    return np.array(rows, dtype=np.int32)
