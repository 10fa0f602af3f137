"""The Messages adapter, over ASGI: replies, streams, stops, errors and the model list."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from osslo.api.messages.errors import MessagesErrorReply
from osslo.api.messages.reply import PING, MessageBuilder, MessageEvents, MessageHead
from osslo.api.messages.reply_schema import (
    MessageReply,
    MessageStreamEvent,
    ModelInfo,
    ModelInfoPage,
    TokenCountReply,
)
from osslo.api.messages.request import Display
from osslo.api.messages.thinking import ThinkingSeal
from osslo.api.seal import Seal
from osslo.api.turns import failure_of
from osslo.chat.assembler import TurnAssembler
from osslo.chat.events import TurnEnd, TurnEnded, TurnEvent, TurnStarted
from osslo.errors import EngineError, GrammarError, OverloadedError, QuotaError, RateLimitError
from osslo.types import FinishReason, Usage
from tests.api.conftest import Stage, make_stage
from tests.harmony.malformed import CORPUS
from tests.scripted import ByteVocabulary, Prefill, Script

URL = "/v1/messages"
VOCABULARY = ByteVocabulary()
TOOL = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
CALL = (
    "<|channel|>analysis<|message|>Look.<|end|>"
    "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json"
    '<|message|>{"city":"Oslo"}<|call|>'
)
THINK = {"type": "adaptive"}


def message(**fields: object) -> dict[str, object]:
    return {
        "model": "gpt-oss-20b",
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": "What is the capital of Norway?"}],
    } | fields


async def post(stage: Stage, url: str = URL, /, **fields: object) -> Any:
    async with stage.client() as client:
        return await client.post(url, json=message(**fields))


async def reply(stage: Stage, **fields: object) -> MessageReply:
    response = await post(stage, **fields)
    assert response.status_code == 200, response.text
    return MessageReply.model_validate_json(response.text)


async def stream(stage: Stage, **fields: object) -> list[dict[str, Any]]:
    """A stream's events, each checked against the documented shape and its own name."""
    response = await post(stage, stream=True, **fields)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return events_of(response.text)


def events_of(text: str) -> list[dict[str, Any]]:
    events = []
    for part in (part for part in text.split("\n\n") if part and not part.startswith(":")):
        name, data = part.split("\n")
        event = json.loads(data.removeprefix("data: "))
        MessageStreamEvent.model_validate(event)
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def rebuilt(events: list[dict[str, Any]]) -> dict[str, Any]:
    """A message from its events, as an independent client would put it together."""
    fields: dict[str, Any] = {}
    partial: dict[int, str] = {}
    for event in events:
        match event["type"]:
            case "message_start":
                fields = event["message"]
            case "content_block_start":
                assert event["index"] == len(fields["content"])
                fields["content"].append(dict(event["content_block"]))
            case "content_block_delta":
                block, delta = fields["content"][event["index"]], event["delta"]
                match delta["type"]:
                    case "text_delta":
                        block["text"] += delta["text"]
                    case "thinking_delta":
                        block["thinking"] += delta["thinking"]
                    case "signature_delta":
                        block["signature"] = delta["signature"]
                    case "input_json_delta":
                        index = event["index"]
                        partial[index] = partial.get(index, "") + delta["partial_json"]
            case "message_delta":
                fields |= event["delta"]
                fields["usage"] |= event["usage"]
    for index, text in partial.items():
        fields["content"][index]["input"] = json.loads(text)
    return fields


def without_fresh(fields: dict[str, Any]) -> dict[str, Any]:
    """A message without what differs between two answers of the same content."""
    content = [
        {key: value for key, value in block.items() if key not in ("id", "signature")}
        for block in fields["content"]
    ]
    return {**fields, "id": "", "content": content}


# --- answers ------------------------------------------------------------------------------------


async def test_a_plain_request_gets_its_text_as_the_first_block(stage: Stage) -> None:
    response = await post(stage)
    answer = MessageReply.model_validate_json(response.text)
    assert [(block.type, getattr(block, "text", "")) for block in answer.content] == [
        ("text", "Oslo.")
    ]
    assert answer.stop_reason == "end_turn"
    assert answer.model == response.headers["x-osslo-model"] == "scripted-model"
    assert answer.id.startswith("msg_")
    assert answer.usage.output_tokens_details.thinking_tokens == 16
    assert response.headers["request-id"] == response.headers["x-request-id"]
    assert stage.backend.requests[0].sampling.max_tokens == 1000


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({}, ["text"]),
        ({"thinking": THINK}, ["thinking", "text"]),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, ["thinking", "text"]),
        ({"thinking": THINK | {"display": "omitted"}}, ["thinking", "text"]),
        ({"thinking": THINK | {"display": "summarized"}}, ["thinking", "text"]),
        ({"thinking": {"type": "disabled"}}, ["text"]),
        ({"tools": [TOOL]}, ["thinking", "text"]),
        ({"tools": [TOOL], "thinking": {"type": "disabled"}}, ["text"]),
    ],
)
async def test_what_is_shown_of_the_thinking(
    stage: Stage, fields: dict[str, object], kinds: list[str]
) -> None:
    answer = await reply(stage, **fields)
    assert [block.type for block in answer.content] == kinds


async def test_omitted_thinking_has_a_signature_but_no_text(stage: Stage) -> None:
    events = await stream(stage, thinking=THINK | {"display": "omitted"})
    block = rebuilt(events)["content"][0]
    assert block["thinking"] == ""
    assert block["signature"]
    assert "Easy" not in json.dumps(events)


async def test_a_call_is_a_tool_use_block() -> None:
    answer = await reply(make_stage(CALL), tools=[TOOL])
    thought, call = answer.content
    assert (thought.type, call.type) == ("thinking", "tool_use")
    assert call.type == "tool_use"
    assert (call.name, call.input) == ("get_weather", {"city": "Oslo"})
    assert call.id.startswith("toolu_")
    assert answer.stop_reason == "tool_use"


async def test_a_preamble_is_a_block_of_its_own() -> None:
    markup = (
        "<|channel|>commentary<|message|>I look it up.<|end|><|start|>assistant"
        "<|channel|>final<|message|>Oslo.<|return|>"
    )
    answer = await reply(make_stage(markup))
    assert [getattr(block, "text", None) for block in answer.content] == ["I look it up.", "Oslo."]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"city":"Oslo"}', {"city": "Oslo"}),
        ("", {}),
        ("  ", {}),
        ("\n {}", {}),
        ("Oslo", {"INVALID_JSON": "Oslo"}),
        ('["Oslo"]', {"INVALID_JSON": '["Oslo"]'}),
    ],
)
async def test_a_calls_input_is_always_an_object(arguments: str, expected: dict[str, str]) -> None:
    markup = f"<|channel|>commentary to=functions.get_weather json<|message|>{arguments}<|call|>"
    whole = await reply(make_stage(markup), tools=[TOOL])
    assert [block.input for block in whole.content if block.type == "tool_use"] == [expected]
    streamed = rebuilt(await stream(make_stage(markup), tools=[TOOL]))
    assert [block["input"] for block in streamed["content"]] == [expected]


async def test_a_call_that_was_cut_off_keeps_what_there_is() -> None:
    markup = CALL.replace('"Oslo"}<|call|>', '"Oslo","unit":"cel')
    stage = make_stage(script=Script((VOCABULARY.tokens(markup),), finish=FinishReason.LENGTH))
    answer = await reply(stage, tools=[TOOL])
    assert answer.stop_reason == "max_tokens"
    assert [b.input for b in answer.content if b.type == "tool_use"] == [{"city": "Oslo"}]


# --- why it stopped -----------------------------------------------------------------------------


async def test_a_stop_sequence_is_named(stage: Stage) -> None:
    answer = await reply(stage, stop_sequences=["nowhere", "lo"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "lo")
    assert [getattr(block, "text", None) for block in answer.content] == ["Os"]


async def test_the_callers_limit_and_the_contexts_are_told_apart(stage: Stage) -> None:
    assert (await reply(stage, max_tokens=5)).stop_reason == "max_tokens"
    narrow = make_stage(context=258)
    answer = await reply(narrow, max_tokens=20_000)
    assert answer.stop_reason == "model_context_window_exceeded"
    assert narrow.backend.requests[0].sampling.max_tokens == 7


async def test_cached_tokens_are_not_counted_as_input() -> None:
    stage = make_stage(script=Script((VOCABULARY.tokens("Hi<|return|>"),), cached_tokens=100))
    usage = (await reply(stage)).usage
    assert usage.cache_read_input_tokens == 100
    assert usage.input_tokens == len(stage.backend.requests[0].prompt) - 100


# --- streams ------------------------------------------------------------------------------------


@pytest.mark.parametrize("markup", [None, CALL, "Hi", "<|channel|>analysis<|message|>Hm"])
async def test_a_stream_adds_up_to_the_whole_message(markup: str | None) -> None:
    fields: dict[str, object] = {"tools": [TOOL], "stop_sequences": ["!"]}
    made = [make_stage(markup) if markup else make_stage() for _ in range(2)]
    whole = (await post(made[0], **fields)).json()
    events = await stream(made[1], **fields)
    assert without_fresh(rebuilt(events)) == without_fresh(whole)
    assert [event["type"] for event in events][-2:] == ["message_delta", "message_stop"]


@pytest.mark.parametrize("form", CORPUS, ids=lambda form: form.name)
@pytest.mark.parametrize("display", Display)
def test_every_malformed_stream_adds_up_too(form: Any, display: Display) -> None:
    assert_adds_up(VOCABULARY.tokens(form.stream), display)


@given(
    st.lists(
        st.sampled_from(
            [*VOCABULARY.specials.values(), *b'a{}" \n', *map(ord, "analysisfinal to=f")]
        ),
        max_size=60,
    ),
    st.sampled_from(Display),
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_stream_of_tokens_adds_up(tokens: list[int], display: Display) -> None:
    assert_adds_up(tuple(tokens), display)


def assert_adds_up(tokens: tuple[int, ...], display: Display) -> None:
    head = MessageHead("msg_1", "m", display, ThinkingSeal(Seal(b"k" * 32), "t"), fits=True)
    writer, message = MessageEvents(head), MessageBuilder()
    events = [sent for event in turn_of(tokens) for sent in writer.feed(event)]
    for event in events:
        MessageStreamEvent.model_validate(event)
    blocks = [e["index"] for e in events if e["type"] == "content_block_start"]
    assert blocks == [e["index"] for e in events if e["type"] == "content_block_stop"]
    assert blocks == list(range(len(blocks)))
    for event in json.loads(json.dumps(events)):
        message.add(event)
    MessageReply.model_validate(message.fields)
    inputs_whole = all(
        "INVALID_JSON" not in block.get("input", {}) for block in message.fields["content"]
    )
    if inputs_whole and not _is_cut(events):
        assert without_fresh(rebuilt(events)) == without_fresh(message.fields)


def _is_cut(events: list[dict[str, Any]]) -> bool:
    """Some call's JSON is not whole, so that a plain parser cannot read it."""
    texts: dict[int, str] = {}
    for event in events:
        if event.get("delta", {}).get("type") == "input_json_delta":
            texts[event["index"]] = texts.get(event["index"], "") + event["delta"]["partial_json"]
    try:
        for text in texts.values():
            json.loads(text)
    except ValueError:
        return True
    return False


def turn_of(tokens: tuple[int, ...]) -> list[TurnEvent]:
    assembler = TurnAssembler(VOCABULARY, stop=(), functions=frozenset({"f", "get_weather"}))
    events: list[TurnEvent] = [TurnStarted(3)]
    for token in tokens:
        events += assembler.feed(token)
    events += assembler.finish()
    reason = TurnEnd.TOOL_CALLS if assembler.calls else TurnEnd.STOP
    return [*events, TurnEnded(reason, Usage(3, len(tokens)))]


async def test_progress_is_a_comment() -> None:
    steps = (Prefill(1, 2), VOCABULARY.tokens("<|channel|>final<|message|>Hi<|return|>"))
    text = (await post(make_stage(script=Script(steps)), stream=True)).text
    assert ": prefill 1/2\n\n" in text
    assert rebuilt(events_of(text))["content"] == [{"type": "text", "text": "Hi"}]


async def test_a_ping_has_the_documented_shape() -> None:
    (event,) = events_of(PING.decode())
    assert event == {"type": "ping"}


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refusal", "status", "kind", "code"),
    [
        (OverloadedError("Full.", retry_after_s=2.5), 529, "overloaded_error", "overloaded"),
        (RateLimitError("Slow.", retry_after_s=7), 429, "rate_limit_error", "rate_limit_exceeded"),
        (QuotaError("Empty."), 402, "billing_error", "insufficient_quota"),
        (GrammarError("No.", param="tools"), 400, "invalid_request_error", "invalid_schema"),
        (EngineError("Broken."), 500, "api_error", "engine_error"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_refusals_have_anthropics_shape(
    refusal: Exception, status: int, kind: str, code: str, streamed: bool
) -> None:
    stage = make_stage(script=Script(refusal=refusal))  # type: ignore[arg-type]  # OssloErrors
    response = await post(stage, stream=streamed)
    error = MessagesErrorReply.model_validate_json(response.text)
    assert (response.status_code, error.error.type) == (status, kind)
    assert error.error.details is not None
    assert error.error.details.error_code == code
    assert error.request_id == response.headers["request-id"]
    retry_after = {529: "3", 429: "7"}.get(status)
    assert response.headers.get("retry-after") == retry_after
    assert response.headers.get("x-should-retry") == ("false" if status == 402 else None)


async def test_an_error_within_a_stream_is_its_last_event() -> None:
    script = Script(
        (VOCABULARY.tokens("<|channel|>final<|message|>Os"),),
        finish=FinishReason.ERROR,
        error=EngineError("It broke."),
    )
    events = await stream(make_stage(script=script))
    assert [event["type"] for event in events].count("error") == 1
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["type"] == "api_error"
    assert events[-1]["error"]["message"] == "It broke."


async def test_a_whole_answer_that_fails_is_an_error() -> None:
    script = Script((VOCABULARY.tokens("Os"),), finish=FinishReason.ERROR, error=EngineError("No."))
    assert (await post(make_stage(script=script))).status_code == 500


def test_an_aborted_turn_is_an_overload() -> None:
    failure = failure_of(TurnEnded(TurnEnd.ABORT, Usage(1, 1)))
    assert failure is not None
    assert failure.status == 503


async def test_a_prompt_that_does_not_fit_is_told_in_anthropics_words() -> None:
    response = await post(make_stage(context=64))
    error = MessagesErrorReply.model_validate_json(response.text).error
    assert response.status_code == 400
    assert error.message.startswith("prompt is too long: ")
    assert "64 tokens" in error.message


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/batches", "/v1/messages/x/y"])
async def test_unknown_routes_and_methods_have_anthropics_shape(stage: Stage, path: str) -> None:
    async with stage.client() as client:
        response = await client.get(path)
    assert response.status_code in (404, 405)
    MessagesErrorReply.model_validate_json(response.text)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"x-api-key": "sk-wrong"}, 401),
        ({"x-api-key": ""}, 401),
        ({"x-api-key": "sk-test-key"}, 200),
        ({"authorization": "Bearer sk-test-key"}, 200),
        ({"authorization": "Bearer sk-test-key", "x-api-key": "sk-other"}, 200),
    ],
)
async def test_keys_in_either_header(stage: Stage, headers: dict[str, str], status: int) -> None:
    async with stage.client(None) as client:
        response = await client.post(URL, json=message(), headers=headers)
        chat = await client.get("/v1/models", headers=headers)
    assert (response.status_code, chat.status_code) == (status, status)
    if status == 401:
        error = MessagesErrorReply.model_validate_json(response.text)
        assert error.error.type == "authentication_error"


async def test_versions_and_betas_are_tolerated(stage: Stage) -> None:
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "nonesuch-2099-01-01,x"}
    async with stage.client() as client:
        response = await client.post(URL + "?beta=true", json=message(), headers=headers)
    assert response.status_code == 200


# --- counting and models ------------------------------------------------------------------------


async def test_the_count_is_the_prompts_length(stage: Stage) -> None:
    fields: dict[str, object] = {"system": "Be brief.", "tools": [TOOL], "thinking": THINK}
    await reply(stage, **fields)
    async with stage.client() as client:
        body = {key: value for key, value in message(**fields).items() if key != "max_tokens"}
        response = await client.post(URL + "/count_tokens", json=body)
    counted = TokenCountReply.model_validate_json(response.text)
    assert counted.input_tokens == len(stage.backend.requests[0].prompt)
    assert len(stage.backend.requests) == 1


async def test_counting_takes_no_parameters_of_the_output(stage: Stage) -> None:
    response = await post(stage, URL + "/count_tokens")
    assert response.status_code == 400
    assert MessagesErrorReply.model_validate_json(response.text).error.message == (
        "Unrecognized parameter: 'max_tokens'."
    )


async def get_models(stage: Stage, path: str = "", **query: object) -> Any:
    async with stage.client() as client:
        headers = {"anthropic-version": "2023-06-01"}
        return await client.get("/v1/models" + path, params=query, headers=headers)


async def test_models_in_both_shapes(stage: Stage) -> None:
    page = ModelInfoPage.model_validate_json((await get_models(stage)).text)
    assert [model.id for model in page.data] == ["scripted-model", "gpt-oss-20b"]
    assert page.data[0].max_input_tokens == 8192
    assert page.data[0].created_at == "2023-11-14T22:13:20Z"
    alias = ModelInfo.model_validate_json((await get_models(stage, "/gpt-oss-20b")).text)
    assert alias.display_name == "gpt-oss-20b (scripted-model)"
    missing = await get_models(stage, "/nonesuch")
    assert missing.status_code == 404
    assert MessagesErrorReply.model_validate_json(missing.text).error.type == "not_found_error"
    async with stage.client() as client:
        assert (await client.get("/v1/models")).json()["object"] == "list"


@pytest.mark.parametrize(
    ("query", "ids", "more"),
    [
        ({"limit": 1}, ["scripted-model"], True),
        ({"limit": 1, "after_id": "scripted-model"}, ["gpt-oss-20b"], False),
        ({"before_id": "gpt-oss-20b"}, ["scripted-model"], False),
        ({"after_id": "gpt-oss-20b"}, [], False),
        ({"lifecycle[]": "retired"}, [], False),
    ],
)
async def test_pages_of_models(
    stage: Stage, query: dict[str, object], ids: list[str], more: bool
) -> None:
    page = ModelInfoPage.model_validate_json((await get_models(stage, **query)).text)
    assert [model.id for model in page.data] == ids
    assert page.has_more is more
    assert (page.first_id, page.last_id) == ((ids[0], ids[-1]) if ids else (None, None))


@pytest.mark.parametrize("query", [{"limit": 0}, {"after_id": "nonesuch"}, {"bogus": 1}])
async def test_a_bad_query_is_named(stage: Stage, query: dict[str, object]) -> None:
    response = await get_models(stage, **query)
    assert response.status_code == 400
    details = MessagesErrorReply.model_validate_json(response.text).error.details
    assert details is not None
    assert details.param in query


async def test_the_same_key_gives_the_same_message(stage: Stage) -> None:
    headers = {"idempotency-key": "k1"}
    async with stage.client() as client:
        first = await client.post(URL, json=message(), headers=headers)
        again = await client.post(URL, json=message(), headers=headers)
        other = await client.post(URL, json=message(max_tokens=9), headers=headers)
    assert first.text == again.text
    assert len(stage.backend.requests) == 1
    assert MessagesErrorReply.model_validate_json(other.text).error.type == "invalid_request_error"


def test_the_documented_request_takes_what_the_server_takes(stage: Stage) -> None:
    document = stage.app.openapi()
    schema = {"$ref": "#/components/schemas/MessagesRequest", "components": document["components"]}
    validator = Draft202012Validator(schema)
    use = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "b"}]}
    good = message(
        tools=[TOOL, TOOL | {"type": "custom"}],
        system=[{"type": "text", "text": "a"}],
        messages=[
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": [{"type": "text", "text": "b"}, use]},
            {"role": "user", "content": [result]},
        ],
    )
    assert [error.message for error in validator.iter_errors(good)] == []
    assert not validator.is_valid(message(messages=[{"role": "user", "content": [{"text": "a"}]}]))
