"""Reasoning effort from parameters and from system texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osslo.errors import RequestError
from osslo.harmony.effort import EFFORTS, extract_effort, parse_effort
from osslo.harmony.messages import ReasoningEffort

LOW, MEDIUM, HIGH = ReasoningEffort


@pytest.mark.parametrize(
    ("text", "rest", "effort"),
    [
        ("Reasoning: high", "", HIGH),
        ("reasoning: LOW\n", "", LOW),
        ("Reasoning effort: medium", "", MEDIUM),
        ("reasoning_effort = high", "", HIGH),
        ("reasoning-effort:low", "", LOW),
        ("  Reasoning:high  \r\nBe kind.", "Be kind.", HIGH),
        ("- Reasoning: high.", "", HIGH),
        ("**Reasoning:** high", "", HIGH),
        ("# Reasoning: minimal", "", LOW),
        ("Be kind.\n\nReasoning: high\n\nBe brief.", "Be kind.\n\nBe brief.", HIGH),
        ("Be kind.\nReasoning: low\nBe brief.", "Be kind.\nBe brief.", LOW),
        ("Be kind.\n\nReasoning: high", "Be kind.", HIGH),
        ("Reasoning: low\nReasoning: high", "", HIGH),
    ],
)
def test_a_line_of_effort_is_taken_out(text: str, rest: str, effort: ReasoningEffort) -> None:
    assert extract_effort(text) == (rest, effort)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Be kind.\n\n",
        "Your reasoning: high standards only.",
        "Reasoning: high quality matters",
        "Reasoning: extreme",
        "Show your reasoning: low",
        "Reasoning high",
        "Reasoning:\nhigh",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert extract_effort(text) == (text, None)


@given(st.text(), st.text())
def test_what_stands_around_the_line_is_kept(before: str, after: str) -> None:
    rest, effort = extract_effort(f"{before}\nReasoning: high\n{after}")
    assert effort is not None
    assert (
        "".join((before + after).split()) == "".join(rest.split()) or "easoning" in before + after
    )


@pytest.mark.parametrize("spelling", EFFORTS)
def test_every_spelling_maps(spelling: str) -> None:
    assert parse_effort(f" {spelling.upper()} ") is EFFORTS[spelling]


def test_an_unknown_effort_is_refused_with_the_spellings() -> None:
    with pytest.raises(RequestError, match="'extreme' is not one of none, minimal, low") as caught:
        parse_effort("extreme")
    assert caught.value.param == "reasoning_effort"
