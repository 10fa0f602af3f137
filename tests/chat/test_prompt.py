"""Prompts: counting, truncation, an answer begun by the caller."""

from __future__ import annotations

import pytest

from osslo.chat.events import Phase, TextDelta, TextStarted, ToolCallStarted, TurnEnded, TurnEvent
from osslo.chat.models import ServedModel
from osslo.chat.prompt import count_tokens, render_prompt
from osslo.chat.request import (
    AssistantTurn,
    ChatMessage,
    ChatRequest,
    ChoiceText,
    DeveloperText,
    LarkText,
    RegexText,
    SystemText,
    ToolOutput,
    UserText,
)
from osslo.chat.turn import Turn, prepare
from osslo.errors import ContextLengthError, GrammarError, RequestError
from osslo.harmony.bodies import LarkBody
from osslo.harmony.grammar import CustomTool, ToolChoice, ToolMode
from osslo.harmony.messages import FunctionTool
from osslo.types import SamplingParams, ToolCall
from tests.chat.conftest import ServeScript
from tests.scripted import ByteVocabulary

TODAY = "2026-11-22"


def request(*messages: ChatMessage, **fields: object) -> ChatRequest:
    sampling = SamplingParams(max_tokens=1000)
    return ChatRequest("r", messages or (UserText("Hi"),), sampling, **fields)  # type: ignore[arg-type]  # as a test writes them


def shown(model: ServedModel, asked: ChatRequest) -> str:
    return ByteVocabulary().text(render_prompt(model, asked, today=TODAY).tokens)


async def run(model: ServedModel, asked: ChatRequest) -> list[TurnEvent]:
    turn = Turn(model, prepare(model, asked, today=TODAY))
    return [event async for event in turn.events()]


def test_counting_gives_what_would_be_sent(serve: ServeScript) -> None:
    asked = request(SystemText("Be brief."), UserText("Hi"), tools=(FunctionTool("f"),))
    model = serve("")
    assert count_tokens(model, asked, today=TODAY) == len(
        prepare(model, asked, today=TODAY).generation.prompt
    )


# --- truncation -----------------------------------------------------------------------------------

LONG = "x" * 100
TALK = (
    SystemText("Be brief."),
    UserText("first " + LONG),
    AssistantTurn("second " + LONG),
    UserText("third " + LONG),
    AssistantTurn("", calls=(ToolCall("c1", "f", "{}"), ToolCall("c2", "f", "{}"))),
    ToolOutput("c1", "fourth " + LONG),
    DeveloperText("Stay polite."),
    ToolOutput("c2", "fifth " + LONG),
    AssistantTurn("sixth " + LONG),
    UserText("last"),
)
WORDS = ("first", "second", "third", "fourth", "fifth", "sixth", "last")


@pytest.mark.parametrize("room", range(0, 1400, 60))
def test_the_oldest_messages_go_until_the_rest_fits(serve: ServeScript, room: int) -> None:
    context = 700 + room
    model = serve("", context=context)
    asked = request(*TALK, truncate=True, max_tokens=50, tools=(FunctionTool("f"),))
    whole = count_tokens(serve("", context=10_000), asked, today=TODAY)
    try:
        prompt = prepare(model, asked, today=TODAY).generation.prompt
    except ContextLengthError:
        smallest = request(*TALK[:1], TALK[6], TALK[-1], tools=(FunctionTool("f"),))
        assert count_tokens(serve("", context=10_000), smallest, today=TODAY) + 50 > context
        return
    text = ByteVocabulary().text(prompt)
    kept = [word in text for word in WORDS]
    assert kept == sorted(kept)
    assert kept[3] == kept[4]  # both results of one message's calls
    assert kept[-1]
    assert "Be brief." in text
    assert "Stay polite." in text
    assert len(prompt) + 50 <= context
    dropped = prepare(model, asked, today=TODAY).dropped_messages
    assert (dropped > 0) is (whole + 50 > context)


def test_without_truncation_nothing_is_dropped(serve: ServeScript) -> None:
    with pytest.raises(ContextLengthError):
        prepare(serve("", context=900), request(*TALK), today=TODAY)


def test_truncation_drops_no_more_than_it_must(serve: ServeScript) -> None:
    asked = request(*TALK, truncate=True, max_tokens=10)
    whole = count_tokens(serve("", context=10_000), asked, today=TODAY)
    tight = serve("", context=whole + 10)
    assert prepare(tight, asked, today=TODAY).dropped_messages == 0
    assert prepare(serve("", context=whole + 9), asked, today=TODAY).dropped_messages == 1


# --- an answer begun ------------------------------------------------------------------------------


async def test_the_output_goes_on_behind_the_given_beginning(serve: ServeScript) -> None:
    model = serve("lo is the END capital.<|return|>")
    asked = request(prefill="END Os", stop=("END",))
    assert shown(model, asked).endswith("<|start|>assistant<|channel|>final<|message|>END Os")
    events = await run(model, asked)
    assert TextStarted(Phase.FINAL) in events
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "lo is the "
    ended = events[-1]
    assert isinstance(ended, TurnEnded)
    assert ended.stop_string == "END"
    assert ended.usage.completion_tokens == len("lo is the END")
    assert ended.usage.prompt_tokens == count_tokens(model, asked, today=TODAY)


def test_a_begun_answer_keeps_its_form(serve: ServeScript) -> None:
    asked = request(prefill="ye", output_format=ChoiceText(("yes", "no")))
    grammar = prepare(serve(""), asked, today=TODAY).generation.grammar
    assert grammar is not None
    assert ByteVocabulary().text(grammar.read) == "<|channel|>final<|message|>ye"
    assert "analysis" not in grammar.lark


def test_a_begun_answer_and_a_required_call_exclude_each_other(serve: ServeScript) -> None:
    asked = request(
        prefill="x", tools=(FunctionTool("f"),), tool_choice=ToolChoice(ToolMode.REQUIRED)
    )
    with pytest.raises(RequestError, match="leave one out"):
        prepare(serve(""), asked, today=TODAY)


# --- formats and custom tools ---------------------------------------------------------------------


def test_formats_become_grammars(serve: ServeScript) -> None:
    for output_format, words in (
        (RegexText("[ab]{3}"), "/[ab]{3}/"),
        (LarkText('start: "qq"'), '"qq"'),
        (ChoiceText(("yes", "no")), '"yes" | "no"'),
    ):
        asked = request(output_format=output_format)
        grammar = prepare(serve(""), asked, today=TODAY).generation.grammar
        assert grammar is not None
        assert words in grammar.lark


def test_a_budget_of_reasoning_is_in_the_grammar(serve: ServeScript) -> None:
    asked = request(reasoning_max_tokens=77)
    grammar = prepare(serve(""), asked, today=TODAY).generation.grammar
    assert grammar is not None
    assert "max_tokens=77" in grammar.lark


@pytest.mark.parametrize(("own", "of_request"), [(True, False), (None, True)])
def test_a_tools_own_strictness_comes_first(
    serve: ServeScript, own: bool | None, of_request: bool
) -> None:
    tool = FunctionTool("f", "", {"properties": {"a": {"uniqueItems": True}}}, strict=own)
    with pytest.raises(GrammarError, match=r"tool f.*uniqueItems"):
        prepare(serve(""), request(tools=(tool,), strict=of_request), today=TODAY)


@pytest.mark.parametrize(("own", "of_request"), [(False, True), (None, False)])
def test_lenient_tools_come_with_a_warning(
    serve: ServeScript, own: bool | None, of_request: bool
) -> None:
    members = {
        "a": {"uniqueItems": True},
        "b": {"pattern": "(?=x)y"},
        "c": {"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]},
    }
    tool = FunctionTool("f", "", {"properties": members}, strict=own)
    prepared = prepare(serve(""), request(tools=(tool,), strict=of_request), today=TODAY)
    for word in ("'uniqueItems' is not enforced", "'pattern'", "'oneOf' is enforced as 'anyOf'"):
        assert any("tool f" in warning and word in warning for warning in prepared.warnings)


async def test_custom_tools_are_shown_called_and_told_back(serve: ServeScript) -> None:
    tool = CustomTool("sql", LarkBody('start: "SELECT 1"'), "Runs a query.")
    past = ToolCall("c1", "sql", "SELECT 1", custom=True)
    asked = request(
        UserText("Hi"),
        AssistantTurn(calls=(past,)),
        ToolOutput("c1", "1"),
        tools=(FunctionTool("f"),),
        custom_tools=(tool,),
    )
    model = serve("<|channel|>commentary to=functions.sql<|message|>SELECT 1<|call|>")
    text = shown(model, asked)
    assert "// Runs a query.\n" in text
    assert 'start: "SELECT 1"' in text
    assert "type sql = (_: string) => any;" in text
    assert "to=functions.sql<|channel|>commentary<|message|>SELECT 1<|call|>" in text
    started = [e for e in await run(model, asked) if isinstance(e, ToolCallStarted)]
    assert [(call.name, call.custom) for call in started] == [("sql", True)]


async def test_text_says_whether_it_is_a_preamble(serve: ServeScript) -> None:
    model = serve(
        "<|channel|>commentary<|message|>I will look.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Four.<|return|>"
    )
    events = await run(model, request())
    phases = [event.phase for event in events if isinstance(event, TextStarted)]
    assert phases == [Phase.COMMENTARY, Phase.FINAL]


def test_the_number_of_calls_is_bounded(serve: ServeScript) -> None:
    def lark(**fields: object) -> str:
        asked = request(tools=(FunctionTool("f"),), parallel_tool_calls=True, **fields)
        grammar = prepare(serve(""), asked, today=TODAY).generation.grammar
        assert grammar is not None
        return grammar.lark

    assert "(sep call){0,15}" in lark()
    assert "(sep call){0,2}" in lark(max_tool_calls=3)
    assert "sep call" not in lark(max_tool_calls=1)
    assert "functions.f" not in lark(max_tool_calls=0)
    with pytest.raises(GrammarError, match="max_tool_calls"):
        lark(max_tool_calls=0, tool_choice=ToolChoice(ToolMode.REQUIRED))
