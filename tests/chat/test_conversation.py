"""Neutral messages to a harmony conversation."""

from __future__ import annotations

import pytest

from osslo.chat.conversation import build_conversation
from osslo.chat.events import Phase
from osslo.chat.models import PromptProfile
from osslo.chat.request import (
    AssistantTurn,
    ChatMessage,
    ChatRequest,
    DeveloperText,
    JsonSchema,
    SystemText,
    ToolOutput,
    UserText,
)
from osslo.errors import RequestError
from osslo.harmony.messages import Channel, Conversation, ReasoningEffort, Role
from osslo.types import SamplingParams, ToolCall


def converse(*messages: ChatMessage, effort: ReasoningEffort | None = None) -> Conversation:
    request = ChatRequest("r", messages, SamplingParams(100), effort=effort)
    return build_conversation(request, PromptProfile(), "2026-11-22")


def test_a_reasoning_line_sets_the_effort_and_leaves_the_text() -> None:
    conversation = converse(SystemText("Be brief.\nReasoning: high"), UserText("Hi"))
    assert conversation.effort is ReasoningEffort.HIGH
    assert conversation.instructions == "Be brief."


def test_a_system_message_that_is_only_the_line_leaves_no_instructions() -> None:
    conversation = converse(SystemText("Reasoning: high"), UserText("Hi"))
    assert (conversation.effort, conversation.instructions) == (ReasoningEffort.HIGH, "")


def test_the_parameter_wins_over_the_line() -> None:
    conversation = converse(
        SystemText("Reasoning: high"), UserText("Hi"), effort=ReasoningEffort.LOW
    )
    assert conversation.effort is ReasoningEffort.LOW


def test_leading_system_and_developer_messages_are_the_instructions() -> None:
    conversation = converse(SystemText("One."), DeveloperText("Two."), UserText("Hi"))
    assert conversation.instructions == "One.\n\nTwo."


def test_a_later_system_message_stays_in_its_place() -> None:
    conversation = converse(UserText("Hi"), SystemText("Now rhyme."), UserText("Go"))
    assert conversation.instructions == ""
    roles = [message.role for message in conversation.messages]
    assert roles == [Role.USER, Role.DEVELOPER, Role.USER]
    assert "Now rhyme." in conversation.messages[1].content


def test_a_call_its_reasoning_and_its_result_are_mapped() -> None:
    call = ToolCall("call_1", "get_weather", '{"city":"Oslo"}')
    conversation = converse(
        UserText("Weather?"),
        AssistantTurn(text="I'll look.", reasoning="Use the tool.", calls=(call,)),
        ToolOutput("call_1", "12 °C"),
    )
    _, thought, preamble, made, result = conversation.messages
    assert (thought.channel, thought.content) == (Channel.ANALYSIS, "Use the tool.")
    assert (preamble.channel, preamble.content) == (Channel.COMMENTARY, "I'll look.")
    assert (made.recipient, made.content) == ("functions.get_weather", call.arguments)
    assert made.content_type == "json"
    assert (result.role, result.name) == (Role.TOOL, "functions.get_weather")
    assert (result.recipient, result.content) == ("assistant", "12 °C")


def test_results_of_parallel_calls_find_their_functions_in_any_order() -> None:
    calls = (ToolCall("a", "f", "{}"), ToolCall("b", "g", "{}"))
    conversation = converse(
        UserText("?"), AssistantTurn(calls=calls), ToolOutput("b", "2"), ToolOutput("a", "1")
    )
    names = [m.name for m in conversation.messages if m.role is Role.TOOL]
    assert names == ["functions.g", "functions.f"]


def test_a_result_of_an_unknown_call_is_refused_by_place() -> None:
    with pytest.raises(RequestError, match="call_9") as caught:
        converse(UserText("?"), ToolOutput("call_9", "1"))
    assert caught.value.param == "messages[1].tool_call_id"


def test_reasoning_before_a_past_answer_is_dropped() -> None:
    conversation = converse(
        UserText("1+1?"), AssistantTurn(text="2", reasoning="Sum."), UserText("And 2+2?")
    )
    assert all(message.channel is not Channel.ANALYSIS for message in conversation.messages)


def test_a_schema_is_shown_to_the_model() -> None:
    request = ChatRequest(
        "r",
        (UserText("?"),),
        SamplingParams(1),
        output_format=JsonSchema("city", {"type": "object"}, "A city"),
    )
    conversation = build_conversation(request, PromptProfile(), "2026-11-22")
    assert conversation.response_formats[0].name == "city"
    assert conversation.current_date == "2026-11-22"


def test_the_profile_can_leave_the_date_out() -> None:
    request = ChatRequest("r", (UserText("?"),), SamplingParams(1))
    profile = PromptProfile(identity="You are small.", show_date=False)
    conversation = build_conversation(request, profile, "2026-11-22")
    assert (conversation.identity, conversation.current_date) == ("You are small.", None)


def test_a_preamble_stays_one_without_a_call_behind_it() -> None:
    said = AssistantTurn("One moment.", phase=Phase.COMMENTARY)
    conversation = converse(UserText("Q"), said, AssistantTurn("Done.", phase=Phase.FINAL))
    channels = [message.channel for message in conversation.messages[1:]]
    assert channels == [Channel.COMMENTARY, Channel.FINAL]
