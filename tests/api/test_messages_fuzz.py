"""Whatever Anthropic's routes are sent: never a 5xx, and every 4xx has its shape."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from osslo.api.complete.schema import CompleteRequest
from osslo.api.messages.errors import MessagesErrorReply
from osslo.api.messages.schema import CountTokensRequest, MessagesRequest
from tests.api.conftest import make_stage
from tests.api.test_fuzz import documents, places
from tests.api.test_messages import TOOL, message

USE = {"type": "tool_use", "id": "a", "name": "get_weather", "input": {"city": "Oslo"}}
RESULT = {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "b"}]}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "os1.AAAA"}
FULL: dict[str, Any] = message(
    system=[{"type": "text", "text": "Reasoning: low", "cache_control": {"type": "ephemeral"}}],
    tools=[TOOL, TOOL | {"name": "g", "strict": True, "input_examples": [{"city": "x"}]}],
    tool_choice={"type": "auto", "disable_parallel_tool_use": False},
    thinking={"type": "enabled", "budget_tokens": 99, "display": "omitted"},
    output_config={"effort": "low"},
    context_management={"edits": [{"type": "clear_thinking_20251015"}]},
    metadata={"user_id": "u"},
    stop_sequences=["x"],
    messages=[
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": [THOUGHT, {"type": "text", "text": "I look."}, USE]},
        {"role": "user", "content": [RESULT]},
    ],
)
COUNTED = {key: FULL[key] for key in CountTokensRequest.model_fields if key in FULL}
PROMPT: dict[str, Any] = {
    "model": "gpt-oss-20b",
    "prompt": "\n\nHuman: Hi\n\nAssistant: He",
    "max_tokens_to_sample": 20,
    "stop_sequences": ["x"],
    "metadata": {"user_id": "u"},
}
ROUTES: list[tuple[str, dict[str, Any], type[BaseModel]]] = [
    ("/v1/messages", FULL, MessagesRequest),
    ("/v1/messages/count_tokens", COUNTED, CountTokensRequest),
    ("/v1/complete", PROMPT, CompleteRequest),
]
STAGE = make_stage()


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A route, and a full request to it with some values replaced and some parameters added."""
    url, full, schema = draw(st.sampled_from(ROUTES))
    body = copy.deepcopy(full)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(body)))
        node: Any = body
        for step in path[:-1]:
            node = node[step]
        node[path[-1]] = draw(documents)
    names = sorted(schema.model_fields)
    return url, body | draw(st.dictionaries(st.sampled_from(names), documents, max_size=2))


async def check(url: str, body: Any) -> int:
    async with STAGE.client() as client:
        response = await client.post(url, json=body)
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        MessagesErrorReply.model_validate_json(response.text)
    return response.status_code


@pytest.mark.parametrize(("url", "body", "schema"), ROUTES)
async def test_the_full_requests_are_good(url: str, body: Any, schema: type[BaseModel]) -> None:
    schema.model_validate(body)
    assert await check(url, body) == 200


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated())
async def test_mutated_requests(asked: tuple[str, dict[str, Any]]) -> None:
    await check(*asked)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([url for url, _, _ in ROUTES]), documents)
async def test_any_json(url: str, body: Any) -> None:
    await check(url, body)
