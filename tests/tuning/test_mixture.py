"""What the stand-in's mixture does to packs."""

from __future__ import annotations

import random
import re
from collections import Counter

from osslo.tuning.examples import Example, ExampleRenderer
from osslo.tuning.packing import pack
from recipes.stand_in.mixture import (
    Shares,
    draw_tools,
    places_of_tokens,
    places_of_words,
    stress,
)
from tests.scripted import ByteVocabulary


def test_stressed_targets_are_learned_as_often_as_told_and_nothing_else_changes() -> None:
    examples = [Example((1, 2, 3, 9), (False, True, True, True)), Example((4, 9), (False, True))]
    (plain,) = pack(examples, 16, seed=0)
    stressed = stress(plain, places_of_tokens(plain, {9, 7}), 4)
    asked = Counter(zip(stressed.rows, stressed.targets, strict=True))
    for place, target in zip(plain.rows, plain.targets, strict=True):
        assert asked.pop((place, target)) == (4 if target == 9 else 1)
    assert not asked
    assert (stressed.ids, stressed.segments) == (plain.ids, plain.segments)


def test_the_tokens_of_words_are_found_and_no_others() -> None:
    vocabulary = ByteVocabulary()
    text = "Use run_q7. Not run_q7x, my.run_q7"
    (plain,) = pack([ExampleRenderer(vocabulary).text(text, end=None)], 64, seed=0)
    places = places_of_words(plain, {"run_q7", "run"}, vocabulary)
    learned = vocabulary.encode(text)[1:]
    assert [learned[place] for place in places] == vocabulary.encode("run_q7" * 2)
    assert places_of_words(plain, set(), vocabulary) == []


def test_odd_names_are_names_that_the_purpose_does_not_tell() -> None:
    drawn = draw_tools(random.Random(5), "train", 40, odd=1.0)
    for one in drawn:
        assert re.fullmatch(r"[A-Za-z0-9_.]+", one.tool.name)
        assert one.tool.name not in one.concept.names
    told = draw_tools(random.Random(5), "train", 40)
    plain = {re.sub(r"[_.]", "", name).lower() for one in told for name in one.concept.names}
    assert {re.sub(r"[_.]", "", one.tool.name).lower() for one in told} <= plain


def test_shares_with_more_plain_answers_keep_their_sum_and_proportions() -> None:
    usual = Shares()
    plainer = usual.with_plain(0.3)
    assert plainer.plain == 0.3
    whole = plainer.functions + plainer.plain + plainer.builtin + plainer.json
    assert abs(whole - 1) < 1e-9
    assert abs(plainer.functions / plainer.json - usual.functions / usual.json) < 1e-9
