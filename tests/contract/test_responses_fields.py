"""Field by field against the official client's types: what may be sent is known here, and every
event and item that is sent is one of theirs, with nothing that they do not know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest
from openai.types.responses import (
    Response,
    ResponseCustomToolCall,
    ResponseStreamEvent,
    input_item_list_params,
    input_token_count_params,
    response_create_params,
    response_retrieve_params,
)
from pydantic import BaseModel, TypeAdapter

from osslo.api.responses.reply_schema import ResponseReply
from osslo.api.responses.schema import (
    InputTokensRequest,
    ItemsQuery,
    ResponseRequest,
    RetrieveQuery,
)
from osslo.types import FinishReason
from tests.api.conftest import ANSWER, make_stage
from tests.api.test_responses import GET, PREAMBLE_AND_CALL, ask, events_of
from tests.scripted import ByteVocabulary, Script

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
OURS = {"osslo", "store"}  # OpenAI sends `store` too; the client does not name it
NEVER_SENT = {
    "access_programs",  # this and the next: OpenAI's own services
    "image",
    "input_transformations",
    "moderation",
    "prompt",
    "prompt_cache_diagnostics",
    "prompt_cache_options",
    "prompt_cache_retention",
    "tool_usage",
}


@pytest.mark.parametrize(
    ("params", "schema"),
    [
        (response_create_params.ResponseCreateParamsStreaming, ResponseRequest),
        (response_retrieve_params.ResponseRetrieveParamsStreaming, RetrieveQuery),
        (input_item_list_params.InputItemListParams, ItemsQuery),
        (input_token_count_params.InputTokenCountParams, InputTokensRequest),
    ],
)
def test_every_parameter_of_the_client_is_known(params: Any, schema: type[BaseModel]) -> None:
    assert set(get_type_hints(params)) - set(schema.model_fields) == set()


def test_every_field_that_the_client_reads_is_sent() -> None:
    read, sent = set(Response.model_fields), set(ResponseReply.model_fields)
    assert read - sent - NEVER_SENT == set()
    assert sent - read == OURS


def unknown(model: Any, path: str) -> Iterator[str]:
    """Where a parsed value holds what its type does not know."""
    if isinstance(model, BaseModel):
        # a kept custom call has a status there (`ResponseCustomToolCallItem`), a made one has none
        allowed = {"status"} if isinstance(model, ResponseCustomToolCall) else set()
        yield from (f"{path}.{name}" for name in set(model.model_extra or ()) - allowed)
        for name in type(model).model_fields:
            yield from unknown(getattr(model, name), f"{path}.{name}")
    elif isinstance(model, list):
        for index, entry in enumerate(model):
            yield from unknown(entry, f"{path}[{index}]")


def script(markup: str, **fields: Any) -> Script:
    return Script((ByteVocabulary().tokens(markup),), **fields)


@pytest.mark.parametrize(
    ("played", "fields", "kinds"),
    [
        (
            script(PREAMBLE_AND_CALL),
            {"tools": [GET], "include": ["reasoning.encrypted_content"]},
            "created in_progress output_item.added content_part.added reasoning_text.delta "
            "reasoning_text.done content_part.done output_item.done output_text.delta "
            "output_text.done function_call_arguments.delta function_call_arguments.done "
            "completed",
        ),
        (
            script("<|channel|>commentary to=functions.run<|message|>print(1)<|call|>"),
            {"tools": [{"type": "custom", "name": "run"}]},
            "custom_tool_call_input.delta custom_tool_call_input.done completed",
        ),
        (script(ANSWER), {"top_logprobs": 2, "background": True}, "queued completed"),
        (script(ANSWER), {"max_output_tokens": 30}, "incomplete"),
        (script("<|channel|>final<|message|>Os", finish=FinishReason.ERROR), {}, "failed"),
        (
            script('<|channel|>final<|message|>{"a":1}<|return|>'),
            {
                "text": {"format": {"type": "json_schema", "name": "a", "schema": {}}},
                "metadata": {"a": "b"},
                "instructions": "Be brief.",
                "reasoning": {"effort": "low", "summary": "auto"},
                "truncation": "auto",
                "parallel_tool_calls": True,
                "max_tool_calls": 3,
                "stream_options": {"include_obfuscation": False},
            },
            "completed",
        ),
    ],
)
async def test_every_event_is_one_of_the_clients(
    played: Script, fields: dict[str, Any], kinds: str
) -> None:
    async with make_stage(script=played).client() as client:
        reply = await client.post("/v1/responses", json=ask(stream=True, **fields))
        sent = events_of(reply.text)
        name = sent[0]["response"]["id"]
        if fields.get("background"):
            whole = (await client.get(f"/v1/responses/{name}")).json()
            assert sent[-1]["response"] == whole
    assert {f"response.{kind}" for kind in kinds.split()} <= {event["type"] for event in sent}
    for number, event in enumerate(sent):
        parsed = EVENT.validate_python(event)
        assert (parsed.type, parsed.sequence_number) == (event["type"], number)
        extra = {path.removeprefix("event.response.") for path in unknown(parsed, "event")}
        assert extra <= OURS, (event["type"], extra)
        if "response" in event:
            for field, expected in fields.items():
                if field in ("text", "tools", "stream_options", "include", "reasoning"):
                    continue
                assert event["response"][field] == expected
