"""What the stand-in's mixture does to packs."""

from __future__ import annotations

import random
import re
from collections import Counter

from osslo.tuning.examples import Example
from osslo.tuning.packing import pack
from recipes.stand_in.mixture import draw_tools, stress


def test_stressed_targets_are_learned_as_often_as_told_and_nothing_else_changes() -> None:
    examples = [Example((1, 2, 3, 9), (False, True, True, True)), Example((4, 9), (False, True))]
    (plain,) = pack(examples, 16, seed=0)
    stressed = stress(plain, {9, 7}, 4)
    asked = Counter(zip(stressed.rows, stressed.targets, strict=True))
    for place, target in zip(plain.rows, plain.targets, strict=True):
        assert asked.pop((place, target)) == (4 if target == 9 else 1)
    assert not asked
    assert (stressed.ids, stressed.segments) == (plain.ids, plain.segments)


def test_odd_names_are_names_that_the_purpose_does_not_tell() -> None:
    drawn = draw_tools(random.Random(5), "train", 40, odd=1.0)
    for one in drawn:
        assert re.fullmatch(r"[A-Za-z0-9_.]+", one.tool.name)
        assert one.tool.name not in one.concept.names
    told = draw_tools(random.Random(5), "train", 40)
    plain = {re.sub(r"[_.]", "", name).lower() for one in told for name in one.concept.names}
    assert {re.sub(r"[_.]", "", one.tool.name).lower() for one in told} <= plain
