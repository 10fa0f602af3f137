"""Many examples in one row of tokens, with what they share computed once.

Examples that begin alike (the same system message, the same tools) become one shared prefix and a
branch each. A branch sees the prefix and itself, at the positions it would have alone, so that
losses and gradients equal those of the examples one by one; the prefix costs once instead of once
for each. `attention` computes it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from osslo.tuning.examples import Example
from osslo.types import TokenId

MIN_SHARED_TOKENS = 16
"""A shorter common beginning is not worth a segment of its own."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows `[start, end)` of a pack; `prefix` is the index of the segment it continues."""

    start: int
    end: int
    prefix: int | None = None


@dataclass(frozen=True, slots=True)
class Pack:
    """One row of tokens for the model.

    `ids` and `positions` have T entries, `segments` tile them in order. `rows[i]` is the row whose
    logits are to predict `targets[i]`; a row may appear more than once, where branches part.
    """

    ids: tuple[TokenId, ...]
    positions: tuple[int, ...]
    segments: tuple[Segment, ...]
    rows: tuple[int, ...]
    targets: tuple[TokenId, ...]
    examples: int

    @property
    def tokens(self) -> int:
        return len(self.ids)


class PackBuilder:
    """Collects groups of examples until a row is full."""

    def __init__(self, max_tokens: int) -> None:
        self._max = max_tokens
        self._clear()

    def _clear(self) -> None:
        self._ids: list[TokenId] = []
        self._positions: list[int] = []
        self._segments: list[Segment] = []
        self._rows: list[int] = []
        self._targets: list[TokenId] = []
        self._examples = 0

    def add(self, group: Sequence[Example], shared: int) -> Iterator[Pack]:
        """Add examples whose first `shared` tokens are the same; gives the packs that fill up."""
        rest = list(group)
        while rest:
            taken = self._fitting(rest, shared)
            if not taken and self._ids:
                yield self.finish()
                continue
            self._append(rest[: max(taken, 1)], shared)
            rest = rest[max(taken, 1) :]

    def finish(self) -> Pack:
        """What is collected, as a pack."""
        pack = Pack(
            tuple(self._ids),
            tuple(self._positions),
            tuple(self._segments),
            tuple(self._rows),
            tuple(self._targets),
            self._examples,
        )
        self._clear()
        return pack

    @property
    def empty(self) -> bool:
        return not self._ids

    def _fitting(self, group: Sequence[Example], shared: int) -> int:
        room = self._max - len(self._ids) - shared
        count = 0
        for example in group:
            room -= len(example.ids) - shared
            if room < 0:
                break
            count += 1
        return count

    def _append(self, group: Sequence[Example], shared: int) -> None:
        if len(group) == 1:
            shared = 0
        prefix: int | None = None
        if shared:
            prefix = len(self._segments)
            self._segment(group[0].ids[:shared], 0, None)
            self._learn(group[0], 1, shared, self._segments[prefix].start, 0)
        for example in group:
            start = len(self._ids)
            self._segment(example.ids[shared:], shared, prefix)
            if prefix is not None and example.learned[shared]:
                self._rows.append(self._segments[prefix].end - 1)
                self._targets.append(example.ids[shared])
            self._learn(example, shared + 1, len(example.ids), start, shared)
        self._examples += len(group)

    def _segment(self, ids: Sequence[TokenId], position: int, prefix: int | None) -> None:
        start = len(self._ids)
        self._ids += ids
        self._positions += range(position, position + len(ids))
        self._segments.append(Segment(start, start + len(ids), prefix))

    def _learn(self, example: Example, first: int, end: int, start: int, offset: int) -> None:
        """Tokens `first` to `end` of an example whose token `offset` stands in row `start`."""
        for index in range(first, end):
            if example.learned[index]:
                self._rows.append(start + index - offset - 1)
                self._targets.append(example.ids[index])


def pack(examples: Sequence[Example], max_tokens: int, *, seed: int) -> list[Pack]:
    """All examples in packs of at most `max_tokens` (longer examples have one of their own), in a
    random order of groups that begin alike. The same seed gives the same packs."""
    source = random.Random(seed)
    groups = group_by_prefix(examples)
    source.shuffle(groups)
    builder = PackBuilder(max_tokens)
    packs: list[Pack] = []
    for shared, members in groups:
        source.shuffle(members)
        packs += builder.add(members, shared)
    if not builder.empty:
        packs.append(builder.finish())
    source.shuffle(packs)
    return packs


def group_by_prefix(examples: Sequence[Example]) -> list[tuple[int, list[Example]]]:
    """Examples that begin alike, with the length of what they share. A token that some example
    learns is never shared, so that every example keeps its own share of the loss."""
    groups: list[tuple[int, list[Example]]] = []
    for example in sorted(examples, key=lambda one: one.ids):
        if groups:
            shared, members = groups[-1]
            common = _common(members[0], example)
            limit = common if len(members) == 1 else min(shared, common)
            if limit >= MIN_SHARED_TOKENS and limit * 2 >= shared:
                groups[-1] = (limit, [*members, example])
                continue
        groups.append((0, [example]))
    return groups


def _common(first: Example, second: Example) -> int:
    """How many tokens two examples share before either learns one or ends."""
    limit = min(len(first.ids), len(second.ids)) - 1
    for index in range(limit):
        differs = first.ids[index] != second.ids[index]
        if differs or first.learned[index] or second.learned[index]:
            return index
    return max(limit, 0)
