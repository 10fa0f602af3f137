"""What the stand-in is measured on shares no tool, no name and no wording with what it learns."""

from __future__ import annotations

import random
import re

from bench.stand_in_eval import QUESTIONS, build_cases
from recipes.stand_in import base_answers, mixture, tasks, tool_banks, written_answers
from recipes.stand_in.tools import concepts
from recipes.stand_in.values import KINDS

OPEN_KINDS = ("city", "country", "person", "company", "title", "animal", "food", "thing", "topic")
"""Kinds of values that are names. Numbers, dates and choices of an enum are both sets'."""


def plain(text: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9{} ]", " ", text.lower()).split())


def test_tools_and_their_questions_are_held_out() -> None:
    names = [{n for c in concepts(split) for n in c.names} for split in ("train", "held_out")]
    assert names[0].isdisjoint(names[1])
    asked = [
        {plain(q) for c in concepts(split) for q in c.questions} for split in ("train", "held_out")
    ]
    assert asked[0].isdisjoint(asked[1])
    verbs, nouns = tool_banks.VERBS["train"], tool_banks.NOUNS["train"]
    families = {plain(f"{a}_{b}") for v in verbs for n in nouns for a, b in ((v, n), (n, v))}
    assert families.isdisjoint(map(plain, names[1]))
    for bank in (tool_banks.VERBS, tool_banks.NOUNS, tool_banks.ATTRIBUTES):
        assert set(bank["train"]).isdisjoint(bank["held_out"])


def test_names_are_held_out() -> None:
    source = random.Random(1)
    for kind in OPEN_KINDS:
        train, held = (
            {str(KINDS[kind].draw(source, split).json) for _ in range(1500)}
            for split in ("train", "held_out")
        )
        assert train.isdisjoint(held), kind


def test_wording_is_held_out() -> None:
    assert set(mixture.INSTRUCTIONS).isdisjoint(mixture.HELD_OUT_INSTRUCTIONS)
    for bank in (tasks.EXTRACTING, tasks.LOOKUPS, tasks.RECORDS, base_answers.TOPICS):
        assert {plain(text) for text in bank["train"]}.isdisjoint(
            plain(text) for text in bank["held_out"]
        )
    assert set(tasks.RESULT_FIELDS).isdisjoint(tasks.HELD_OUT_FIELDS)
    written = " ".join(plain(pair.question) for pair in written_answers.read())
    assert not [t for t in base_answers.TOPICS["held_out"] if plain(t) in written]
    assert {plain(q) for q in QUESTIONS}.isdisjoint(
        plain(pair.question) for pair in written_answers.read()
    )
    openings = tuple(plain(opening) for opening in base_answers.ASKING["train"])
    forms = [re.compile(re.escape(text).replace(r"\{\}", ".+") + "$") for text in openings]
    assert not [q for q in QUESTIONS if any(form.match(plain(q)) for form in forms)]


def test_there_are_five_hundred_prompts_and_the_same_each_time() -> None:
    cases = build_cases()
    assert len(cases) >= 500
    assert cases == build_cases()
