"""The chat completions adapter, over ASGI."""

from __future__ import annotations

import json
from typing import Any

import pytest

from osslo.api.chat_completions.reply_schema import ChatCompletion, ChatCompletionChunk
from osslo.api.shapes import ErrorReply
from osslo.errors import EngineError, OverloadedError
from osslo.harmony.grammar import untuned_grammar
from osslo.harmony.messages import ReasoningEffort
from osslo.settings import LimitSettings
from osslo.types import FinishReason
from tests.api.conftest import ANSWER, Stage, ask, make_stage
from tests.scripted import ByteVocabulary, Prefill, Script

URL = "/v1/chat/completions"
VOCABULARY = ByteVocabulary()


async def post(stage: Stage, **fields: object) -> Any:
    async with stage.client() as client:
        return await client.post(URL, json=ask(**fields))


async def stream(stage: Stage, **fields: object) -> list[dict[str, Any]]:
    response = await post(stage, stream=True, **fields)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line]
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    return [json.loads(line) for line in data[:-1]]


def joined(chunks: list[dict[str, Any]], field: str, index: int = 0) -> str:
    return "".join(
        choice["delta"].get(field) or ""
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["index"] == index
    )


async def test_the_whole_answer_has_the_documented_shape(stage: Stage) -> None:
    response = await post(stage)
    reply = ChatCompletion.model_validate_json(response.text)
    message = reply.choices[0].message
    assert message.content == "Oslo."
    assert message.reasoning_content == message.reasoning == "Easy."
    assert reply.choices[0].finish_reason == "stop"
    assert reply.model == response.headers["x-osslo-model"] == "scripted-model"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.usage.completion_tokens_details.reasoning_tokens > 0
    assert reply.created == 1_800_000_000
    assert response.headers["x-request-id"].startswith("req_")
    assert int(response.headers["openai-processing-ms"]) >= 0


async def test_the_stream_has_the_documented_shape_and_says_the_same(stage: Stage) -> None:
    chunks = await stream(stage, stream_options={"include_usage": True})
    parsed = [ChatCompletionChunk.model_validate(chunk) for chunk in chunks]
    assert joined(chunks, "content") == "Oslo."
    assert joined(chunks, "reasoning") == joined(chunks, "reasoning_content") == "Easy."
    assert parsed[0].choices[0].delta.role == "assistant"
    assert parsed[-2].choices[0].finish_reason == "stop"
    assert parsed[-1].choices == []
    whole = ChatCompletion.model_validate_json((await post(stage)).text)
    assert parsed[-1].usage == whole.usage


async def test_without_the_option_no_chunk_has_usage(stage: Stage) -> None:
    assert all("usage" not in chunk for chunk in await stream(stage))


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_tokens_to_sample"])
async def test_every_spelling_of_the_limit_is_the_same(stage: Stage, name: str) -> None:
    reply = (await post(stage, **{name: 12})).json()
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 12


@pytest.mark.parametrize("fields", [{"stop": "l"}, {"stop": ["l"]}, {"stop_sequences": ["l"]}])
async def test_every_spelling_of_stop_is_the_same(stage: Stage, fields: dict[str, Any]) -> None:
    reply = (await post(stage, **fields)).json()
    assert reply["choices"][0]["message"]["content"] == "Os"
    assert reply["choices"][0]["finish_reason"] == "stop"


async def test_prompt_is_one_user_message(stage: Stage) -> None:
    assert (await post(stage, messages=None, prompt="Hei!")).status_code == 200
    prompt = VOCABULARY.text(stage.backend.requests[0].prompt)
    assert "<|start|>user<|message|>Hei!<|end|>" in prompt


async def test_sampling_parameters_reach_the_backend(stage: Stage) -> None:
    await post(
        stage,
        temperature=0.0,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        seed=7,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        repetition_penalty=1.1,
        logit_bias={"65": -100},
        max_tokens=9,
    )
    sampling = stage.backend.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.0, 0.9, 40)
    assert (sampling.min_p, sampling.seed, sampling.max_tokens) == (0.05, 7, 9)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert (sampling.repetition_penalty, sampling.logit_bias) == (1.1, ((65, -100.0),))
    assert sampling.logprobs is None


async def test_n_choices_have_seeds_of_their_own_and_one_prompt_in_usage(stage: Stage) -> None:
    reply = ChatCompletion.model_validate_json((await post(stage, n=3, seed=5)).text)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert all(choice.message.content == "Oslo." for choice in reply.choices)
    assert sorted(r.sampling.seed or 0 for r in stage.backend.requests) == [5, 6, 7]
    assert len({r.request_id for r in stage.backend.requests}) == 3
    single = ChatCompletion.model_validate_json((await post(stage)).text)
    assert reply.usage.prompt_tokens == single.usage.prompt_tokens
    assert reply.usage.completion_tokens == 3 * single.usage.completion_tokens


async def test_n_choices_stream_side_by_side(stage: Stage) -> None:
    chunks = await stream(stage, n=2)
    assert joined(chunks, "content", 0) == joined(chunks, "content", 1) == "Oslo."
    ends = [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]]
    assert ends.count("stop") == 2


async def test_logprobs_cover_exactly_the_content(stage: Stage) -> None:
    reply = ChatCompletion.model_validate_json(
        (await post(stage, logprobs=True, top_logprobs=2)).text
    )
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(record.token for record in logprobs.content) == "Oslo."
    assert all(len(record.top_logprobs) == 2 for record in logprobs.content)
    chunks = await stream(stage, logprobs=True)
    tokens = [
        record["token"]
        for chunk in chunks
        for choice in chunk["choices"]
        for record in (choice["logprobs"] or {"content": []})["content"]
    ]
    assert "".join(tokens) == "Oslo."


CALL = (
    "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant"
    "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
    '{"city":"Oslo"}<|call|>'
)
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


async def test_a_tool_call_whole_and_streamed() -> None:
    stage = make_stage(CALL)
    reply = ChatCompletion.model_validate_json((await post(stage, tools=[TOOL])).text)
    message = reply.choices[0].message
    assert reply.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    assert message.tool_calls is not None
    assert message.tool_calls[0].function.name == "get_weather"
    assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Oslo"}
    chunks = await stream(stage, tools=[TOOL])
    calls = [
        call
        for chunk in chunks
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls", [])
    ]
    assert calls[0]["function"]["name"] == "get_weather"
    assert "".join(call["function"]["arguments"] for call in calls) == '{"city":"Oslo"}'
    assert {call["index"] for call in calls} == {0}


async def test_a_tool_result_and_the_reasoning_before_it_go_into_the_prompt(stage: Stage) -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city":"Oslo"}'},
    }
    messages = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "Wea"}, {"type": "text", "text": "ther?"}],
        },
        {"role": "assistant", "content": None, "reasoning_content": "Look.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "12 C"},
    ]
    assert (await post(stage, messages=messages, tools=[TOOL])).status_code == 200
    prompt = VOCABULARY.text(stage.backend.requests[0].prompt)
    assert "<|start|>user<|message|>Weather?<|end|>" in prompt
    assert "<|channel|>analysis<|message|>Look.<|end|>" in prompt
    assert "<|start|>functions.get_weather to=assistant<|channel|>commentary" in prompt
    assert "type get_weather = " in prompt


@pytest.mark.parametrize(
    ("fields", "echo", "line"),
    [
        ({}, "medium", "Reasoning: medium"),
        ({"reasoning_effort": "high"}, "high", "Reasoning: high"),
        ({"reasoning": {"effort": "low"}}, "low", "Reasoning: low"),
        ({"reasoning_effort": "minimal"}, "low", "Reasoning: low"),
        ({"reasoning_effort": "xhigh"}, "high", "Reasoning: high"),
    ],
)
async def test_effort_is_applied_and_echoed(
    stage: Stage, fields: dict[str, Any], echo: str, line: str
) -> None:
    assert (await post(stage, **fields)).json()["reasoning_effort"] == echo
    assert line in VOCABULARY.text(stage.backend.requests[0].prompt)
    assert (await stream(stage, **fields))[0]["reasoning_effort"] == echo


async def test_reasoning_can_be_left_out_of_the_answer(stage: Stage) -> None:
    for fields in ({"include_reasoning": False}, {"reasoning": {"exclude": True}}):
        message = (await post(stage, **fields)).json()["choices"][0]["message"]
        assert "reasoning" not in message
        assert joined(await stream(stage, **fields), "reasoning") == ""


MISSING = "missing_required_parameter"
UNSUPPORTED = "unsupported_parameter"
IMAGE = {"type": "image_url", "image_url": {}}
RESULT = {"role": "tool", "content": "x"}
LOST_RESULT = RESULT | {"tool_call_id": "c"}
NO_SUCH_TOOL = {"type": "function", "function": {"name": "x"}}


def said(content: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"messages": None}, "messages", MISSING),
        ({"messages": []}, "messages", MISSING),
        ({"messages": [{"role": "user"}]}, "messages[0].content", MISSING),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role", "invalid_type"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", MISSING),
        (said(5), "messages[0].content", "invalid_type"),
        (said([{"type": "text", "text": 5}]), "messages[0].content[0].text", "invalid_type"),
        (said([IMAGE]), "messages[0].content[0].type", UNSUPPORTED),
        ({"messages": [RESULT]}, "messages[0].tool_call_id", MISSING),
        ({"messages": [LOST_RESULT]}, "messages[0].tool_call_id", "invalid_value"),
        ({"prompt": "x"}, "prompt", "invalid_value"),
        ({"model": "nonesuch"}, "model", "model_not_found"),
        ({"model": None}, "model", "invalid_type"),
        ({"max_tokens": "12"}, "max_tokens", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "invalid_type"),
        ({"max_tokens": 10**6}, "max_tokens", "integer_above_max_value"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "invalid_value"),
        ({"max_tokens": 8190}, "messages", "context_length_exceeded"),
        ({"temperature": 3}, "temperature", "invalid_type"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"n": 99}, "n", "invalid_value"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"logit_bias": {"99999": 1}}, "logit_bias.99999", "invalid_value"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x", "invalid_value"),
        ({"stop": [""]}, "stop", "invalid_value"),
        ({"stop": ["x"] * 17}, "stop", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", UNSUPPORTED),
        ({"tools": [{"type": "function"}]}, "tools[0].function", MISSING),
        ({"tools": [TOOL, TOOL]}, "tools[1].function.name", "invalid_value"),
        ({"tools": [TOOL], "tool_choice": NO_SUCH_TOOL}, "tool_choice", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", MISSING),
        ({"reasoning_effort": "huge"}, "reasoning_effort", "invalid_value"),
        ({"functions": []}, "functions", UNSUPPORTED),
        ({"audio": {}}, "audio", UNSUPPORTED),
        ({"modalities": ["audio"]}, "modalities", UNSUPPORTED),
        ({"service_tier": "flex"}, "service_tier", UNSUPPORTED),
        ({"banana": 1}, "banana", "unknown_parameter"),
        ({"stream_options": {"banana": 1}}, "stream_options.banana", "unknown_parameter"),
    ],
)  # fmt: skip
async def test_each_wrong_parameter_is_refused_by_name(
    stage: Stage, fields: dict[str, Any], param: str, code: str
) -> None:
    response = await post(stage, **fields)
    error = ErrorReply.model_validate_json(response.text).error
    assert (error.param, error.code) == (param, code)
    assert response.status_code == (404 if code == "model_not_found" else 400)
    assert error.type == "invalid_request_error"
    assert stage.backend.requests == []


async def test_null_is_the_same_as_leaving_a_parameter_out(stage: Stage) -> None:
    names = ("temperature", "stop", "tools", "tool_choice", "response_format", "functions", "n")
    assert (await post(stage, **dict.fromkeys(names))).status_code == 200


async def test_what_the_answer_holds_can_be_sent_back(stage: Stage) -> None:
    message = (await post(stage)).json()["choices"][0]["message"]
    messages = [
        {"role": "user", "content": "a"},
        message | {"annotations": [], "audio": None, "function_call": None},
        {"role": "user", "content": "b"},
    ]
    assert (await post(stage, messages=messages)).status_code == 200


async def test_a_full_queue_is_503_with_retry_after_also_for_streams() -> None:
    stage = make_stage(script=Script(refusal=OverloadedError("full", retry_after_s=2.5)))
    for streamed in (False, True):
        response = await post(stage, stream=streamed)
        assert response.status_code == 503
        assert response.headers["retry-after"] == "3"
        assert response.json()["error"]["code"] == "overloaded"


async def test_a_failure_of_the_engine_is_a_500_or_an_error_event() -> None:
    script = Script(
        (Prefill(1, 2), VOCABULARY.tokens("<|channel|>final<|message|>Os")),
        finish=FinishReason.ERROR,
        error=EngineError("The engine broke."),
    )
    stage = make_stage(script=script)
    response = await post(stage)
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "engine_error"
    text = (await post(stage, stream=True)).text
    assert ": prefill 1/2\n\n" in text
    last = json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["message"] == "The engine broke."


async def test_limits_on_messages_tools_and_schemas() -> None:
    limits = LimitSettings(max_messages=2, max_tools=1, max_schema_bytes=100)
    stage = make_stage(limits=limits)
    user = {"role": "user", "content": "x"}
    other = {"type": "function", "function": {"name": "other"}}
    assert (await post(stage, messages=[user] * 3)).json()["error"]["param"] == "messages"
    assert (await post(stage, tools=[other, TOOL])).json()["error"]["param"] == "tools"
    large = {"name": "x", "schema": {"description": "y" * 200}}
    wanted = {"type": "json_schema", "json_schema": large}
    error = (await post(stage, response_format=wanted)).json()["error"]
    assert error["param"] == "response_format.json_schema.schema"


async def test_metadata_is_echoed_and_prompts_never_reach_the_log(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG", logger="osslo"):
        reply = (await post(stage, metadata={"a": "b"})).json()
    assert reply["metadata"] == {"a": "b"}
    logged = " ".join(str(vars(record)) for record in caplog.records)
    assert "completion_tokens" in logged
    assert "Norway" not in logged
    assert "Oslo." not in logged


async def test_a_system_line_sets_the_effort_as_the_mission_asks(stage: Stage) -> None:
    messages = [
        {"role": "system", "content": "Reasoning: high"},
        {"role": "user", "content": "What is the capital of Norway?"},
    ]
    reply = (await post(stage, messages=messages, max_tokens=2048, temperature=0.0)).json()
    assert reply["reasoning_effort"] == ReasoningEffort.HIGH
    assert "# Instructions" not in VOCABULARY.text(stage.backend.requests[0].prompt)
    assert ANSWER.count("Oslo.") == 1


async def test_no_reasoning_at_all_is_asked_for_with_none(stage: Stage) -> None:
    assert (await post(stage, reasoning_effort="none")).json()["reasoning_effort"] == "none"
    assert stage.backend.requests[0].grammar == untuned_grammar()


async def test_a_strict_schema_that_cannot_be_enforced_is_a_400(stage: Stage) -> None:
    schema = {"name": "x", "strict": True, "schema": {"type": "array", "uniqueItems": True}}
    response = await post(stage, response_format={"type": "json_schema", "json_schema": schema})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_schema"
    assert "uniqueItems" in response.json()["error"]["message"]


async def test_tool_choice_narrows_the_grammar(stage: Stage) -> None:
    other = {"type": "function", "function": {"name": "other"}}
    named = {"type": "function", "function": {"name": "get_weather"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}}
    for choice in (named, allowed):
        assert (await post(stage, tools=[TOOL, other], tool_choice=choice)).status_code == 200
        grammar = stage.backend.requests[-1].grammar
        assert grammar is not None
        assert "functions.get_weather" in grammar.lark
        assert "functions.other" not in grammar.lark


async def test_a_schema_that_is_not_strict_is_enforced_as_far_as_possible_with_a_warning(
    stage: Stage,
) -> None:
    schema = {"name": "x", "schema": {"type": "array", "uniqueItems": True}}
    wanted = {"type": "json_schema", "json_schema": schema}
    warnings = (await post(stage, response_format=wanted)).json()["osslo"]["warnings"]
    assert "uniqueItems" in warnings[0]
    chunks = await stream(stage, response_format=wanted)
    assert chunks[0]["osslo"]["warnings"] == warnings
    assert all("warnings" not in chunk for chunk in chunks[1:])
