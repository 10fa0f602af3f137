"""Custom tools, strictness of each tool, guided formats and what a stream may bring besides."""

from __future__ import annotations

import json
from typing import Any

import pytest

from osslo.api.chat_completions.reply_schema import ChatCompletion, ChatCompletionChunk
from osslo.api.shapes import ErrorReply
from osslo.settings import LimitSettings
from tests.api.conftest import Stage, make_stage
from tests.api.test_chat_completions import TOOL, VOCABULARY, post, stream

CUSTOM_CALL = (
    "<|channel|>analysis<|message|>Run it.<|end|><|start|>assistant"
    "<|channel|>commentary to=functions.shell<|message|>ls -l | wc\n<|call|>"
)
SHELL = {"type": "custom", "custom": {"name": "shell", "description": "Runs a command."}}


def calls_of(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        call
        for chunk in chunks
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls", [])
    ]


def grammar_of(stage: Stage) -> str:
    grammar = stage.backend.requests[-1].grammar
    assert grammar is not None
    return grammar.lark


async def test_a_custom_call_whole_and_streamed() -> None:
    stage = make_stage(CUSTOM_CALL)
    reply = (await post(stage, tools=[SHELL, TOOL])).json()
    ChatCompletion.model_validate(reply)
    (call,) = reply["choices"][0]["message"]["tool_calls"]
    assert (call["type"], call["custom"]["name"]) == ("custom", "shell")
    assert call["custom"]["input"] == "ls -l | wc\n"
    assert "function" not in call
    chunks = await stream(stage, tools=[SHELL, TOOL])
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    first, *rest = calls_of(chunks)
    assert (first["type"], first["custom"]) == ("custom", {"name": "shell", "input": ""})
    assert "".join(piece["custom"]["input"] for piece in rest) == "ls -l | wc\n"
    assert {piece["index"] for piece in (first, *rest)} == {0}


async def test_a_custom_call_and_its_result_go_back_into_the_prompt() -> None:
    stage = make_stage(CUSTOM_CALL)
    message = (await post(stage, tools=[SHELL])).json()["choices"][0]["message"]
    messages = [
        {"role": "user", "content": "How many files?"},
        message,
        {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "12"},
    ]
    assert (await post(stage, messages=messages, tools=[SHELL])).status_code == 200
    prompt = VOCABULARY.text(stage.backend.requests[-1].prompt)
    assert "<|channel|>analysis<|message|>Run it.<|end|>" in prompt
    assert "ls -l | wc\n" in prompt
    assert "<|start|>functions.shell to=assistant" in prompt
    assert "Runs a command." in prompt


@pytest.mark.parametrize(
    ("syntax", "definition", "part"),
    [("regex", "[a-z]+ [0-9]+", "[a-z]+"), ("lark", 'start: "yes" | "no"', '"yes"')],
)
async def test_the_input_of_a_custom_tool_may_follow_a_grammar(
    syntax: str, definition: str, part: str
) -> None:
    stage = make_stage(CUSTOM_CALL)
    form = {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}}
    tool = {"type": "custom", "custom": {"name": "shell", "format": form}}
    assert (await post(stage, tools=[tool])).status_code == 200
    assert part in grammar_of(stage)


async def test_a_custom_tool_can_be_chosen() -> None:
    stage = make_stage(CUSTOM_CALL)
    named = {"type": "custom", "custom": {"name": "shell"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}}
    for choice in (named, allowed):
        assert (await post(stage, tools=[SHELL, TOOL], tool_choice=choice)).status_code == 200
        assert "functions.shell" in grammar_of(stage)
        assert "functions.get_weather" not in grammar_of(stage)


async def test_strictness_is_each_tools_own() -> None:
    stage = make_stage(CUSTOM_CALL)
    unenforceable = {"type": "object", "not": {}}

    def tool(name: str, schema: dict[str, Any], *, strict: bool | None) -> dict[str, Any]:
        return {
            "type": "function",
            "function": {"name": name, "parameters": schema, "strict": strict},
        }

    good = tool("good", {"type": "object"}, strict=True)
    lenient = await post(stage, tools=[good, tool("odd", unenforceable, strict=None)])
    assert lenient.status_code == 200
    warnings = lenient.json()["osslo"]["warnings"]
    assert len(warnings) == 1
    assert "odd" in warnings[0]
    assert lenient.headers["x-osslo-warnings"] == "1"
    strict = await post(stage, tools=[good, tool("odd", unenforceable, strict=True)])
    assert strict.status_code == 400
    assert strict.json()["error"]["code"] == "invalid_schema"
    assert "not" in strict.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"guided_regex": "[0-9]{3}"}, "[0-9]{3}"),
        ({"guided_choice": ["red", "green"]}, '"red" | "green"'),
        ({"guided_grammar": 'start: "maybe"'}, '"maybe"'),
        ({"guided_json": {"type": "integer"}}, '%json {"type": "integer"'),
        ({"guided_json": '{"type": "integer"}'}, '%json {"type": "integer"'),
        ({"structured_outputs": {"regex": "[0-9]{3}"}}, "[0-9]{3}"),
        ({"structured_outputs": {"choice": ["red", "green"]}}, '"red" | "green"'),
        ({"structured_outputs": {"json": {"type": "integer"}}}, '%json {"type": "integer"'),
        ({"structured_outputs": {"json_object": True}}, '%json {"type": "object"'),
        ({"structured_outputs": {"grammar": 'start: "maybe"'}}, '"maybe"'),
    ],
)
async def test_every_guided_format_reaches_the_grammar(
    stage: Stage, fields: dict[str, Any], part: str
) -> None:
    response = await post(stage, **fields)
    assert response.status_code == 200, response.text
    assert part in grammar_of(stage)


MISSING = "missing_required_parameter"
UNSUPPORTED = "unsupported_parameter"
NAMESAKE = {"type": "custom", "custom": {"name": "get_weather"}}
NO_GRAMMAR = {"type": "custom", "custom": {"name": "x", "format": {"type": "grammar"}}}
TWO_REGEXES = {"guided_regex": "a", "structured_outputs": {"regex": "b"}}
TWO_FORMATS = {"guided_regex": "a", "response_format": {"type": "json_object"}}
SPACED = {"structured_outputs": {"whitespace_pattern": " "}}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tools": [{"type": "custom"}]}, "tools[0].custom", MISSING),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].custom.name", MISSING),
        ({"tools": [TOOL, NAMESAKE]}, "tools[1].custom.name", "invalid_value"),
        ({"tools": [NO_GRAMMAR]}, "tools[0].custom.format.grammar", MISSING),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice", "invalid_value"),
        (TWO_REGEXES, "structured_outputs.regex", "invalid_value"),
        (TWO_FORMATS, "response_format", "invalid_value"),
        ({"guided_choice": []}, "guided_choice", "invalid_type"),
        ({"guided_json": "no json"}, "guided_json", "invalid_value"),
        ({"guided_regex": "("}, "guided_regex", "invalid_schema"),
        ({"structured_outputs": {"grammar": "x"}}, "structured_outputs", "invalid_schema"),
        (SPACED, "structured_outputs.whitespace_pattern", UNSUPPORTED),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"metadata": {"x" * 65: "y"}}, "metadata", "invalid_type"),
    ],
)
async def test_each_wrong_parameter_is_refused_by_name(
    stage: Stage, fields: dict[str, Any], param: str, code: str
) -> None:
    response = await post(stage, **fields)
    error = ErrorReply.model_validate_json(response.text).error
    assert response.status_code == 400
    assert error.param is not None
    assert error.param.startswith(param)
    assert error.code == code
    assert stage.backend.requests == []


async def test_grammars_are_limited_in_size() -> None:
    stage = make_stage(limits=LimitSettings(max_schema_bytes=64))
    long = 'start: "' + "x" * 100 + '"'
    response = await post(stage, guided_grammar=long)
    assert response.json()["error"]["param"] == "guided_grammar"
    form = {"type": "grammar", "grammar": {"syntax": "lark", "definition": long}}
    tool = {"type": "custom", "custom": {"name": "x", "format": form}}
    response = await post(stage, tools=[tool])
    assert response.json()["error"]["param"] == "tools[0].custom.format.grammar.definition"


async def test_obfuscation_pads_events_to_a_step(stage: Stage) -> None:
    chunks = await stream(stage, stream_options={"include_obfuscation": True})
    sizes = {
        len(json.dumps(chunk | {"obfuscation": ""}, ensure_ascii=False, separators=(",", ":")))
        + len(chunk["obfuscation"])
        for chunk in chunks
    }
    assert len({size % 64 for size in sizes}) == 1
    assert any(chunk["obfuscation"] for chunk in chunks)
    assert all("obfuscation" not in chunk for chunk in await stream(stage))


async def test_a_whole_answer_says_where_its_time_went(stage: Stage) -> None:
    timing = (await post(stage, n=2)).headers["server-timing"]
    assert timing == "queued;dur=100.0, prefill;dur=200.0, decode;dur=300.0"
