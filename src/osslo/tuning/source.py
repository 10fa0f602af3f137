"""Packs of a fixed data set, in a new order each epoch. Needs no torch."""

from __future__ import annotations

import random
from collections.abc import Sequence

from osslo.tuning.packing import Pack


class EpochSource:
    """`per_step` packs a step; an epoch's order depends on the seed and its number only."""

    def __init__(
        self, packs: Sequence[Pack], held: Sequence[Pack], *, per_step: int, seed: int
    ) -> None:
        self._packs = tuple(packs)
        self._held = tuple(held)
        self._per_step = per_step
        self._seed = seed

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self._packs) // self._per_step)

    def step(self, index: int) -> Sequence[Pack]:
        epoch, place = divmod(index, self.steps_per_epoch)
        order = list(range(len(self._packs)))
        random.Random(f"{self._seed}/{epoch}").shuffle(order)
        chosen = order[place * self._per_step : (place + 1) * self._per_step]
        return [self._packs[number] for number in chosen]

    def validation(self) -> Sequence[Pack]:
        return self._held
