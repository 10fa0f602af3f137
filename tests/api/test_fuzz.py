"""Whatever is sent, the answer is never a 5xx, and every 4xx has OpenAI's shape."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from osslo.api.chat_completions.schema import ChatCompletionRequest
from osslo.api.shapes import ErrorReply
from tests.api.conftest import ask, make_stage
from tests.api.test_chat_completions import TOOL

URL = "/v1/chat/completions"

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["auto", "none", "required", "function", "text", "user", "json_object"])
)
documents = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
FULL: dict[str, Any] = ask(
    tools=[TOOL],
    tool_choice="auto",
    stop=["x"],
    n=1,
    logit_bias={"65": 1},
    max_tokens=50,
    messages=[
        {"role": "system", "content": "Reasoning: low"},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {
            "role": "assistant",
            "reasoning": "hm",
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "c", "content": "1"},
    ],
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path into a document, the root aside."""
    keys = (
        node.keys() if isinstance(node, dict) else range(len(node) if isinstance(node, list) else 0)
    )
    return [p for key in keys for p in ((*path, key), *places(node[key], (*path, key)))]


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """A full request in which some values are replaced, and some parameters added."""
    body = copy.deepcopy(FULL)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(body)))
        node: Any = body
        for step in path[:-1]:
            node = node[step]
        node[path[-1]] = draw(documents)
    names = sorted(ChatCompletionRequest.model_fields)
    return body | draw(st.dictionaries(st.sampled_from(names), documents, max_size=2))


STAGE = make_stage()


async def check(content: bytes | None = None, body: Any = None) -> None:
    async with STAGE.client() as client:
        if content is not None:
            response = await client.post(URL, content=content)
        else:
            response = await client.post(URL, json=body)
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        ErrorReply.model_validate_json(response.text)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated())
async def test_mutated_requests(body: dict[str, Any]) -> None:
    await check(body=body)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(documents)
async def test_any_json(body: Any) -> None:
    await check(body=body)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=200))
async def test_any_bytes(content: bytes) -> None:
    await check(content=content)
