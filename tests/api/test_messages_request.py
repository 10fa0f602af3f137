"""What a Messages request asks of the model: every parameter, block and refusal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from osslo.api.body import parse_body
from osslo.api.messages.request import Display, Terms, thinking_plan, to_chat_request
from osslo.api.messages.schema import MessagesRequest
from osslo.api.messages.thinking import ThinkingSeal
from osslo.api.seal import Seal
from osslo.chat.events import Phase
from osslo.chat.request import (
    AssistantTurn,
    ChatRequest,
    JsonSchema,
    SystemText,
    ToolOutput,
    UserText,
)
from osslo.errors import RequestError, UnsupportedError
from osslo.harmony.grammar import ToolChoice, ToolMode
from osslo.harmony.messages import ReasoningEffort
from osslo.settings import LimitSettings
from osslo.types import ToolCall
from tests.api.conftest import make_stage
from tests.api.test_messages import THINK, TOOL, VOCABULARY, message, post
from tests.scripted import Script

SEAL = ThinkingSeal(Seal(b"k" * 32), "tenant")
USER = {"role": "user", "content": "Weather in Oslo?"}
USE = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Tromsø"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "12"}


def asked(limits: LimitSettings | None = None, **fields: object) -> ChatRequest:
    body = parse_body(json.dumps(message(**fields)).encode(), MessagesRequest)
    return to_chat_request(body, Terms("msg_1", "tenant", limits or LimitSettings(), SEAL))


def said(*messages: dict[str, Any], **fields: object) -> tuple[object, ...]:
    return asked(messages=list(messages), **fields).messages


def plan(**fields: object) -> Any:
    return thinking_plan(MessagesRequest.model_validate(message(**fields)))


# --- parameters ---------------------------------------------------------------------------------


def test_the_defaults() -> None:
    request = asked()
    assert request.max_tokens is None  # a ceiling, not a demand
    assert request.sampling.max_tokens == 1000
    assert (request.sampling.temperature, request.sampling.top_p) == (1.0, 1.0)
    assert request.reasoning
    assert not request.parallel_tool_calls
    assert request.tenant == "tenant"


def test_sampling_parameters() -> None:
    sampling = asked(temperature=0.3, top_p=0.9, top_k=40).sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.3, 0.9, 40)
    assert asked(stop_sequences=["a", "b"]).stop == ("a", "b")


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("Be brief.", (SystemText("Be brief."),)),
        ([{"type": "text", "text": "A"}, {"type": "text", "text": "B"}],
         (SystemText("A"), SystemText("B"))),
        ([{"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cch=ab12;"},
          {"type": "text", "text": "A", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
         (SystemText("A"),)),
        ("", ()),
        ([], ()),
    ],
)  # fmt: skip
def test_system_prompts(system: object, expected: tuple[object, ...]) -> None:
    assert said(USER, system=system) == (*expected, UserText("Weather in Oslo?"))


async def test_a_reasoning_line_of_the_system_prompt_sets_the_effort() -> None:
    stage = make_stage()
    await post(stage, system="Reasoning: high\nBe brief.")
    prompt = VOCABULARY.text(stage.backend.requests[0].prompt)
    assert "Reasoning: high" in prompt
    assert "# Instructions\n\nBe brief." in prompt


@pytest.mark.parametrize(
    ("effort", "expected"),
    [
        ("low", ReasoningEffort.LOW),
        ("medium", ReasoningEffort.MEDIUM),
        ("high", ReasoningEffort.HIGH),
        ("xhigh", ReasoningEffort.HIGH),
        ("max", ReasoningEffort.HIGH),
        (None, None),
    ],
)
def test_efforts(effort: str | None, expected: ReasoningEffort | None) -> None:
    assert asked(output_config={"effort": effort}).effort is expected


@pytest.mark.parametrize(
    ("fields", "reason", "display", "budget"),
    [
        ({}, True, Display.HIDDEN, None),
        ({"tools": [TOOL]}, True, Display.SHOWN, None),
        ({"thinking": THINK}, True, Display.SHOWN, None),
        ({"thinking": {"type": "disabled"}}, False, Display.HIDDEN, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 99}}, True, Display.SHOWN, 99),
        ({"thinking": {"type": "enabled", "budget_tokens": 5000}}, True, Display.SHOWN, None),
        ({"thinking": THINK | {"display": "omitted"}}, True, Display.OMITTED, None),
    ],
)
def test_thinking(
    fields: dict[str, object], reason: bool, display: Display, budget: int | None
) -> None:
    made = plan(**fields)
    assert (made.reason, made.display, made.max_tokens) == (reason, display, budget)
    request = asked(**fields)
    assert (request.reasoning, request.reasoning_max_tokens) == (reason, budget)


@pytest.mark.parametrize(
    ("choice", "expected", "parallel"),
    [
        (None, ToolChoice(), False),
        ({"type": "auto"}, ToolChoice(), False),
        ({"type": "auto", "disable_parallel_tool_use": False}, ToolChoice(), True),
        ({"type": "any", "disable_parallel_tool_use": True}, ToolChoice(ToolMode.REQUIRED), False),
        ({"type": "none"}, ToolChoice(ToolMode.NONE), False),
        ({"type": "tool", "name": "get_weather"}, ToolChoice.named("get_weather"), False),
    ],
)
def test_tool_choices(choice: object, expected: ToolChoice, parallel: bool) -> None:
    request = asked(tools=[TOOL], tool_choice=choice)
    assert request.tool_choice == expected
    assert request.parallel_tool_calls is parallel


def test_tools() -> None:
    examples = [{"city": "Oslo"}]
    other = {"type": "custom", "name": "f", "input_schema": {"type": "object"}, "strict": True}
    tools = asked(tools=[TOOL | {"input_examples": examples, "strict": None}, other]).tools
    assert tools[0].description == (
        'The weather in a city.\nExample of the input: {"city": "Oslo"}'
    )
    assert tools[0].parameters == TOOL["input_schema"]
    assert [tool.strict for tool in tools] == [None, True]


@pytest.mark.parametrize("spelling", ["output_config", "output_format"])
def test_structured_outputs_are_strict(spelling: str) -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    fields: dict[str, object] = {spelling: {"format": form} if "config" in spelling else form}
    assert asked(**fields).output_format == JsonSchema("response", {"type": "object"}, strict=True)


async def test_a_schema_that_cannot_be_enforced_is_refused_or_warned_of() -> None:
    schema = {"type": "object", "properties": {"a": {"not": {"type": "null"}}}}
    form = {"format": {"type": "json_schema", "schema": schema}}
    assert (await post(make_stage(), output_config=form)).status_code == 400
    tool = {"name": "f", "input_schema": schema}
    assert (await post(make_stage(), tools=[tool | {"strict": True}])).status_code == 400
    lenient = await post(make_stage(), tools=[tool])
    assert lenient.status_code == 200
    assert "not" in lenient.json()["warnings"][0]
    assert lenient.headers["x-osslo-warnings"] == "1"


# --- messages -----------------------------------------------------------------------------------


def test_texts_and_blocks() -> None:
    blocks = [{"type": "text", "text": "A"}, {"type": "text", "text": "B", "citations": None}]
    assert said({"role": "user", "content": blocks}) == (UserText("A\nB"),)
    assert said(USER, {"role": "system", "content": "Now in French."}) == (
        UserText("Weather in Oslo?"),
        SystemText("Now in French."),
    )


def test_a_tool_loop() -> None:
    thought = {"type": "thinking", "thinking": "Look.", "signature": "foreign"}
    text = {"type": "text", "text": "I look."}
    more = {"type": "text", "text": "And?"}
    assert said(
        USER,
        {"role": "assistant", "content": [thought, text, USE]},
        {"role": "user", "content": [RESULT, more]},
    ) == (
        UserText("Weather in Oslo?"),
        AssistantTurn(
            "I look.", "Look.", (ToolCall("toolu_1", "get_weather", '{"city":"Tromsø"}'),)
        ),
        ToolOutput("toolu_1", "12"),
        UserText("And?"),
    )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "12"),
        ({"is_error": True}, "Error: 12"),
        ({"is_error": False}, "12"),
        ({"content": None}, ""),
        ({"content": []}, ""),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "a\nb"),
    ],
)
def test_tool_results(fields: dict[str, object], text: str) -> None:
    turn = {"role": "assistant", "content": [USE]}
    told = said(USER, turn, {"role": "user", "content": [RESULT | fields]})
    assert told[-1] == ToolOutput("toolu_1", text)


def test_thinking_after_a_preamble_parts_the_turn() -> None:
    def thought(text: str) -> dict[str, str]:
        return {"type": "thinking", "thinking": text, "signature": ""}

    words = {"type": "text", "text": "I look."}
    told = said(
        USER,
        {"role": "assistant", "content": [thought("a"), words, thought("b"), USE]},
        {"role": "user", "content": [RESULT]},
    )
    assert told[1] == AssistantTurn("I look.", "a", (), Phase.COMMENTARY)
    assert isinstance(told[2], AssistantTurn)
    assert (told[2].text, told[2].reasoning, len(told[2].calls)) == ("", "b", 1)


async def test_what_came_out_goes_back_in_as_it_was() -> None:
    """The prompt of the next turn continues the tokens of the last one, so that the prefix cache
    finds them."""
    markup = (
        "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant to=functions.get_weather"
        '<|channel|>commentary <|constrain|>json<|message|>{"city":"Oslo"}<|call|>'
    )
    stage = make_stage(markup)
    tools = {"tools": [TOOL], "system": "Be brief."}
    first = (await post(stage, messages=[USER], **tools)).json()
    use = first["content"][-1]
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": "12"}
    conversation = [
        USER,
        {"role": "assistant", "content": first["content"]},
        {"role": "user", "content": [result]},
    ]
    stage.backend.script = Script((VOCABULARY.tokens("<|channel|>final<|message|>12<|return|>"),))
    assert (await post(stage, messages=conversation, **tools)).status_code == 200
    before, after = (request.prompt for request in stage.backend.requests)
    generated = VOCABULARY.tokens(markup)
    assert after[: len(before) + len(generated)] == (*before, *generated)


# --- prefill ------------------------------------------------------------------------------------


def test_a_last_message_of_the_assistant_begins_the_answer() -> None:
    request = asked(messages=[USER, {"role": "assistant", "content": "The answer is ("}])
    assert request.prefill == "The answer is ("
    assert request.messages == (UserText("Weather in Oslo?"),)


async def test_the_answer_goes_on_behind_its_beginning() -> None:
    stage = make_stage("B)<|return|>")
    begun = {"role": "assistant", "content": [{"type": "text", "text": "The answer is ("}]}
    response = await post(stage, messages=[USER, begun])
    assert response.json()["content"] == [{"type": "text", "text": "B)"}]
    prompt = VOCABULARY.text(stage.backend.requests[0].prompt)
    assert prompt.endswith("<|channel|>final<|message|>The answer is (")


def test_a_beginning_leaves_no_room_for_thinking() -> None:
    begun = [USER, {"role": "assistant", "content": "The"}]
    with pytest.raises(RequestError) as caught:
        asked(messages=begun, thinking={"type": "enabled", "budget_tokens": 1024})
    assert caught.value.param == "thinking"
    assert asked(messages=begun, thinking=THINK).prefill == "The"


def test_an_empty_last_message_begins_nothing() -> None:
    request = asked(messages=[USER, {"role": "assistant", "content": ""}])
    assert request.prefill == ""
    assert request.messages == (UserText("Weather in Oslo?"),)


# --- thinking handed back -----------------------------------------------------------------------


def handed_back(thinking: str, signature: str) -> object:
    block = {"type": "thinking", "thinking": thinking, "signature": signature}
    turn = {"role": "assistant", "content": [block, USE]}
    told = said(USER, turn, {"role": "user", "content": [RESULT]})[1]
    assert isinstance(told, AssistantTurn)
    return told.reasoning


def test_own_thinking_comes_back() -> None:
    assert handed_back("Look.", SEAL.sign("Look.", shown=True)) == "Look."
    assert handed_back("", SEAL.sign("Look.", shown=False)) == "Look."


@pytest.mark.parametrize("shown", [True, False])
def test_changed_thinking_is_refused(shown: bool) -> None:
    with pytest.raises(RequestError) as caught:
        handed_back("Do not look.", SEAL.sign("Look.", shown=shown))
    assert caught.value.param == "messages[1].content[0].signature"
    assert caught.value.code == "invalid_signature"


@pytest.mark.parametrize(
    "signature",
    ["", "EqoBCkYIAhgCKkDY", ThinkingSeal(Seal(b"x" * 32), "tenant").sign("Look.", shown=True)],
)
def test_thinking_of_another_server_is_taken_as_it_reads(signature: str) -> None:
    assert handed_back("Look.", signature) == "Look."


def test_thinking_that_only_another_tenant_can_read_stays_closed() -> None:
    other = ThinkingSeal(Seal(b"k" * 32), "other")
    assert handed_back("", other.sign("Secret.", shown=False)) == ""


def test_redacted_thinking() -> None:
    def told(data: str) -> tuple[object, ...]:
        block = {"type": "redacted_thinking", "data": data}
        return said(USER, {"role": "assistant", "content": [block]}, USER)

    again = UserText("Weather in Oslo?")
    sealed = SEAL.sign("Look.", shown=False)
    assert told(sealed) == (again, AssistantTurn("", "Look."), again)
    assert told("foreign") == (again, again)


# --- refusals -----------------------------------------------------------------------------------


def block(kind: str, **fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": [{"type": kind, **fields}]}]}


def of_assistant(*blocks: object) -> dict[str, object]:
    return {"messages": [USER, {"role": "assistant", "content": list(blocks)}, USER]}


def tool(**fields: object) -> dict[str, object]:
    return {"tools": [TOOL | fields]}


UNSUPPORTED: list[tuple[dict[str, object], str]] = [
    (block("image", source={"type": "url", "url": "https://x"}), "messages[0].content[0].type"),
    (block("document", source={}), "messages[0].content[0].type"),
    (block("search_result"), "messages[0].content[0].type"),
    (block("container_upload", file_id="f"), "messages[0].content[0].type"),
    (of_assistant({"type": "server_tool_use"}), "messages[1].content[0].type"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]},
     "tools[0].type"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
    (tool(defer_loading=True), "tools[0].defer_loading"),
    (tool(allowed_callers=["code_execution_20250825"]), "tools[0].allowed_callers"),
    ({"thinking": {"type": "between_tools"}}, "thinking.type"),
    ({"thinking": THINK | {"display": "updates"}}, "thinking.display"),
    ({"thinking": THINK | {"block_binding": {"a": 1}}}, "thinking.block_binding"),
    ({"speed": "fast"}, "speed"),
    ({"output_config": {"task_budget": {"type": "tokens", "total": 5}}},
     "output_config.task_budget"),
    ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
     "context_management.edits[0].type"),
    *(({name: {"a": 1}}, name) for name in (
        "billing_policy", "compaction", "container", "diagnostics", "fallbacks", "mcp_servers",
        "thread", "inference_geo", "user_profile_id", "workspace_id", "fallback_credit_token",
    )),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), UNSUPPORTED)
def test_what_cannot_apply_is_refused_by_name(fields: dict[str, object], param: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        asked(**fields)
    assert caught.value.param == param
    assert param.removesuffix(".type") in caught.value.message


WRONG: list[tuple[dict[str, object], str]] = [
    ({"bogus": 1}, "bogus"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 32_769}, "max_tokens"),
    ({"max_tokens": "9"}, "max_tokens"),
    ({"temperature": 2.5}, "temperature"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    (block("text"), "messages[0].content[0].text"),
    (block("text", text="a", bogus=1), "messages[0].content[0].bogus"),
    (block("text", text=3), "messages[0].content[0].text"),
    (block("tool_use", id="a", name="f", input={}), "messages[0].content[0].type"),
    (block("thinking", thinking="a", signature="b"), "messages[0].content[0].type"),
    (block("tool_result", tool_use_id="x"), "messages[0].content[0].tool_use_id"),
    (of_assistant(RESULT), "messages[1].content[0].type"),
    (of_assistant(USE, USE), "messages[1].content[1].id"),
    (of_assistant(USE | {"input": "x"}), "messages[1].content[0].input"),
    ({"messages": [USER, {"role": "assistant", "content": [USE]}]}, "messages[1]"),
    ({"system": [{"type": "image"}]}, "system[0].type"),
    ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
    ({"tools": [TOOL, TOOL]}, "tools[1].name"),
    (tool(name="a b"), "tools[0].name"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tool_choice": {"type": "tool", "name": "f"}, "tools": [TOOL]}, "tool_choice"),
    ({"tool_choice": {"type": "tool"}, "tools": [TOOL]}, "tool_choice.name"),
    ({"tool_choice": {"type": "auto", "name": "f"}, "tools": [TOOL]}, "tool_choice.name"),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    ({"thinking": THINK | {"budget_tokens": 5}}, "thinking.budget_tokens"),
    ({"stop_sequences": [""]}, "stop_sequences"),
    ({"output_config": {"effort": "huge"}}, "output_config.effort"),
    ({"output_config": {"format": {"type": "json_schema", "schema": {"a": 1}}},
      "output_format": {"type": "json_schema", "schema": {}}}, "output_format"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), WRONG)
def test_what_is_wrong_is_named(fields: dict[str, object], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        asked(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"user_id": "u"}, "service_tier": "standard_only", "speed": "standard"},
        {"cache_control": {"type": "ephemeral"}},
        {"mcp_servers": [], "container": None},
        {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
        tool(eager_input_streaming=True, allowed_callers=["direct"], defer_loading=False,
             cache_control={"type": "ephemeral"}),
        {"tool_choice": {"type": "auto"}},
        {"output_config": {}},
    ],
)  # fmt: skip
def test_what_changes_nothing_is_accepted(fields: dict[str, object]) -> None:
    assert asked(**fields).messages


@pytest.mark.parametrize(
    ("limits", "fields", "param"),
    [
        (LimitSettings(max_messages=1), {"messages": [USER, USER]}, "messages"),
        (LimitSettings(max_tools=0), {"tools": [TOOL]}, "tools"),
        (LimitSettings(max_schema_bytes=64), {"tools": [TOOL]}, "tools[0].input_schema"),
        (LimitSettings(max_output_tokens=10), {}, "max_tokens"),
    ],
)
def test_the_servers_limits(limits: LimitSettings, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        asked(limits, **fields)
    assert caught.value.param == param
