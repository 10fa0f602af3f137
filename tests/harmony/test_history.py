"""Reasoning stays until the turn's final message; then it goes. Told turn by turn."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from osslo.harmony.history import drop_past_analysis
from osslo.harmony.messages import Channel, Message, Role
from tests.harmony.strategies import messages

USER = Message(Role.USER, "Q")
THOUGHT = Message(Role.ASSISTANT, "hm", channel=Channel.ANALYSIS)
PREAMBLE = Message(Role.ASSISTANT, "Looking.", channel=Channel.COMMENTARY)
CALL = Message(Role.ASSISTANT, "{}", channel=Channel.COMMENTARY, recipient="functions.f")
RESULT = Message(Role.TOOL, "4", name="functions.f", channel=Channel.COMMENTARY)
PYTHON = Message(Role.ASSISTANT, "2+2", channel=Channel.ANALYSIS, recipient="python")
PYTHON_SAYS = Message(Role.TOOL, "4", name="python", channel=Channel.ANALYSIS)
FINAL = Message(Role.ASSISTANT, "A", channel=Channel.FINAL)
PLAIN = Message(Role.ASSISTANT, "A")


def test_a_first_turn_keeps_its_reasoning_between_calls() -> None:
    running = (USER, THOUGHT, PREAMBLE, CALL, RESULT, THOUGHT, PYTHON, PYTHON_SAYS)
    for length in range(len(running) + 1):
        assert drop_past_analysis(running[:length]) == running[:length]


def test_the_final_message_ends_it() -> None:
    past = (USER, THOUGHT, PREAMBLE, CALL, RESULT, THOUGHT, FINAL)
    assert drop_past_analysis(past) == (USER, PREAMBLE, CALL, RESULT, FINAL)


def test_the_second_turn_keeps_its_own_reasoning_and_not_the_first_s() -> None:
    past = (USER, THOUGHT, CALL, RESULT, FINAL)
    running = (USER, THOUGHT, CALL, RESULT, THOUGHT)
    assert drop_past_analysis(past + running) == (USER, CALL, RESULT, FINAL, *running)


def test_the_third_turn_has_none_of_either() -> None:
    past = (USER, THOUGHT, FINAL, USER, THOUGHT, CALL, RESULT, THOUGHT, FINAL)
    assert drop_past_analysis((*past, USER)) == (USER, FINAL, USER, CALL, RESULT, FINAL, USER)


def test_built_in_calls_go_with_the_reasoning_they_were_part_of() -> None:
    for result in (PYTHON_SAYS, Message(Role.TOOL, "4", name="python")):
        assert drop_past_analysis((USER, PYTHON, result, FINAL, USER)) == (USER, FINAL, USER)


def test_functions_called_on_the_analysis_channel_stay() -> None:
    call = Message(Role.ASSISTANT, "{}", channel=Channel.ANALYSIS, recipient="functions.f")
    result = Message(Role.TOOL, "4", name="functions.f", channel=Channel.ANALYSIS)
    assert drop_past_analysis((USER, call, result, FINAL)) == (USER, call, result, FINAL)


def test_an_answer_without_a_channel_is_final() -> None:
    assert drop_past_analysis((USER, THOUGHT, PLAIN, USER)) == (USER, PLAIN, USER)


def test_reasoning_after_an_answer_belongs_to_the_next_turn() -> None:
    assert drop_past_analysis((FINAL, THOUGHT)) == (FINAL, THOUGHT)


@given(st.lists(messages, max_size=10))
def test_applying_it_again_changes_nothing(history: list[Message]) -> None:
    once = drop_past_analysis(history)
    assert drop_past_analysis(once) == once
    kept = [m for m in once if m.channel is not Channel.ANALYSIS and m.role is not Role.TOOL]
    assert kept == [
        m for m in history if m.channel is not Channel.ANALYSIS and m.role is not Role.TOOL
    ]
