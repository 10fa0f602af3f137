"""Responses over HTTP: what the state machine makes of a turn, and what is read back into one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import text

from osslo.types import FinishReason
from tests.api.conftest import make_stage
from tests.scripted import ByteVocabulary, Script

PREAMBLE_AND_CALL = (
    "<|channel|>analysis<|message|>Look.<|end|>"
    "<|start|>assistant<|channel|>commentary<|message|>One moment.<|end|>"
    '<|start|>assistant<|channel|>commentary to=functions.get <|constrain|>json<|message|>{"a":1}'
    "<|call|>"
)
GET = {"type": "function", "name": "get", "parameters": {"type": "object"}}


def ask(**fields: Any) -> dict[str, Any]:
    return {"model": "gpt-oss-20b", "input": "Hi"} | fields


def events_of(body: str) -> list[dict[str, Any]]:
    lines = [line for line in body.splitlines() if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_ids(v) for k, v in value.items() if k not in ("id", "call_id")}
    return [without_ids(v) for v in value] if isinstance(value, list) else value


async def test_the_stream_ends_with_what_the_whole_answer_is() -> None:
    async with make_stage(PREAMBLE_AND_CALL).client() as client:
        whole = (await client.post("/v1/responses", json=ask(tools=[GET]))).json()
        streamed = await client.post("/v1/responses", json=ask(tools=[GET], stream=True))
    events = events_of(streamed.text)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1]["type"] == "response.completed"
    assert without_ids(events[-1]["response"]) == without_ids(whole)
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == events[-1]["response"]["output"]


async def test_a_preamble_is_a_message_of_its_own() -> None:
    async with make_stage(PREAMBLE_AND_CALL).client() as client:
        output = (await client.post("/v1/responses", json=ask(tools=[GET]))).json()["output"]
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call"]
    assert output[1]["phase"] == "commentary"
    assert output[2]["arguments"] == '{"a":1}'


@pytest.mark.parametrize("sealed", [False, True])
async def test_reasoning_is_read_back_between_calls(*, sealed: bool) -> None:
    stage = make_stage(PREAMBLE_AND_CALL)
    fields: dict[str, Any] = {"tools": [GET], "store": False}
    if sealed:
        fields["include"] = ["reasoning.encrypted_content"]
    async with stage.client() as client:
        output = (await client.post("/v1/responses", json=ask(**fields))).json()["output"]
        if sealed:
            del output[0]["content"]
        result = {"type": "function_call_output", "call_id": output[2]["call_id"], "output": "2"}
        again = ask(**fields) | {"input": [{"role": "user", "content": "Hi"}, *output, result]}
        assert (await client.post("/v1/responses", json=again)).status_code == 200
        if sealed:
            again["input"][1]["encrypted_content"] = "os1.AAAA"
            refused = await client.post("/v1/responses", json=again)
            assert refused.json()["error"]["code"] == "invalid_encrypted_content"
    prompt = ByteVocabulary().text(stage.backend.requests[1].prompt)
    assert "<|channel|>analysis<|message|>Look." in prompt
    assert "<|channel|>commentary<|message|>One moment." in prompt


async def test_a_custom_tool_is_called_with_text() -> None:
    markup = "<|channel|>commentary to=functions.run<|message|>print(1)<|call|>"
    tool = {"type": "custom", "name": "run"}
    async with make_stage(markup).client() as client:
        streamed = await client.post("/v1/responses", json=ask(tools=[tool], stream=True))
    events = events_of(streamed.text)
    item = events[-1]["response"]["output"][0]
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "run", "print(1)")
    assert "response.custom_tool_call_input.done" in {event["type"] for event in events}


async def test_a_failure_in_the_middle_ends_the_stream_once() -> None:
    tokens = ByteVocabulary().tokens("<|channel|>final<|message|>Os")
    script = Script((tokens,), finish=FinishReason.ERROR)
    async with make_stage(script=script).client() as client:
        streamed = await client.post("/v1/responses", json=ask(stream=True))
        whole = await client.post("/v1/responses", json=ask())
    events = events_of(streamed.text)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["code"] == "server_error"
    assert events[-1]["response"]["output"][0]["status"] == "incomplete"
    ends = ("response.completed", "response.incomplete", "response.failed", "error")
    assert sum(event["type"] in ends for event in events) == 1
    assert whole.status_code == 500


async def test_deltas_are_padded_where_that_is_asked_for() -> None:
    options = {"include_obfuscation": True}
    async with make_stage(PREAMBLE_AND_CALL).client() as client:
        body = ask(tools=[GET], stream=True, background=True, stream_options=options)
        streamed = await client.post("/v1/responses", json=body)
        name = events_of(streamed.text)[0]["response"]["id"]
        query = {"stream": True, "include_obfuscation": True}
        again = await client.get(f"/v1/responses/{name}", params=query)
    for reply in (streamed, again):
        padded = [event for event in events_of(reply.text) if "obfuscation" in event]
        deltas = [event for event in events_of(reply.text) if event["type"].endswith(".delta")]
        assert padded == deltas != []
        lines = [line for line in reply.text.splitlines() if ".delta" in line and "data" in line]
        assert len({len(line) // 64 for line in lines}) < len({len(line) for line in lines}) + 1


async def test_truncation_drops_the_oldest_where_the_context_is_full() -> None:
    long = [{"role": "user", "content": "x" * 300} for _ in range(5)]
    async with make_stage(context=1000).client() as client:
        fields = {"input": long, "max_output_tokens": 100}
        whole = await client.post("/v1/responses", json=ask(**fields))
        cut = await client.post("/v1/responses", json=ask(**fields, truncation="auto"))
    assert (whole.status_code, whole.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert cut.json()["truncation"] == "auto"
    assert cut.json()["usage"]["input_tokens"] <= 900


async def test_no_more_calls_than_asked_for() -> None:
    stage = make_stage()
    async with stage.client() as client:
        reply = await client.post("/v1/responses", json=ask(tools=[GET], max_tool_calls=0))
    assert reply.json()["max_tool_calls"] == 0
    grammar = stage.backend.requests[0].grammar
    assert grammar is None or "functions.get" not in grammar.lark


async def test_allowed_tools_narrow_the_grammar() -> None:
    other = GET | {"name": "other"}
    choice = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "other"}],
    }
    stage = make_stage("<|channel|>commentary to=functions.other<|message|>{}<|call|>")
    async with stage.client() as client:
        reply = await client.post("/v1/responses", json=ask(tools=[GET, other], tool_choice=choice))
    assert reply.json()["tool_choice"] == choice
    grammar = stage.backend.requests[0].grammar
    assert grammar is not None
    assert "functions.other" in grammar.lark
    assert "functions.get" not in grammar.lark


async def test_what_is_not_enforced_is_said() -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    given = {"type": "json_schema", "name": "numbers", "schema": schema}
    async with make_stage("<|channel|>final<|message|>[1]<|return|>").client() as client:
        lenient = await client.post("/v1/responses", json=ask(text={"format": given}))
        strict = await client.post(
            "/v1/responses", json=ask(text={"format": given | {"strict": True}})
        )
    assert "uniqueItems" in lenient.json()["osslo"]["warnings"][0]
    assert lenient.headers["x-osslo-warnings"] == "1"
    assert (strict.status_code, strict.json()["error"]["code"]) == (400, "invalid_schema")
    assert "uniqueItems" in strict.json()["error"]["message"]


async def test_tokens_are_counted_without_a_model() -> None:
    async with make_stage().client() as client:
        reply = await client.post("/v1/responses/input_tokens", json={"input": "Hi"})
        answer = await client.post("/v1/responses", json=ask())
    assert reply.json()["input_tokens"] == answer.json()["usage"]["input_tokens"]


async def test_inputs_are_paged() -> None:
    given = [{"role": "user", "content": str(number)} for number in range(5)]
    async with make_stage().client() as client:
        name = (await client.post("/v1/responses", json=ask(input=given))).json()["id"]
        path, seen, after = f"/v1/responses/{name}/input_items", [], None
        while True:
            query = {"limit": 2, "order": "asc"} | ({"after": after} if after else {})
            page = (await client.get(path, params=query)).json()
            seen += [item["content"][0]["text"] for item in page["data"]]
            after = page["last_id"]
            if not page["has_more"]:
                break
        latest = (await client.get(path, params={"limit": 1})).json()
        too_many = await client.get(path, params={"limit": 101})
    assert seen == list("01234")
    assert (latest["data"][0]["content"][0]["text"], latest["first_id"]) == ("4", after)
    assert too_many.status_code == 400


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"metadata": {"k" * 65: "v"}}, "metadata." + "k" * 65),
        ({"metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].type"),
        ({"tools": [GET], "tool_choice": {"type": "code_interpreter"}}, "tool_choice.type"),
        ({"include": ["web_search_call.results"]}, "include[0]"),
        ({"input": [{"type": "mcp_call", "id": "x"}]}, "input[0].type"),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]},
            "input[0].call_id",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0].type",
        ),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
        ({"text": {"verbosity": "high"}}, "text.verbosity"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True, "store": False}, "store"),
        ({"previous_response_id": "a", "conversation": "b"}, "previous_response_id"),
    ],
)
async def test_what_cannot_apply_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    async with make_stage().client() as client:
        refused = await client.post("/v1/responses", json=ask(**fields))
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param


async def test_a_database_that_fails_at_the_end_ends_the_stream_with_an_error() -> None:
    stage = make_stage()
    async with stage.client() as client:
        async with stage.services.database.write() as session:
            await session.execute(text("DROP TABLE response_items"))
        streamed = await client.post("/v1/responses", json=ask(stream=True))
        whole = await client.post("/v1/responses", json=ask())
    events = events_of(streamed.text)
    assert events[-1]["type"] == "error"
    assert "could not be kept" in events[-1]["message"]
    assert "response.completed" not in {event["type"] for event in events}
    assert whole.status_code == 500
    assert "could not be kept" in whole.json()["error"]["message"]
