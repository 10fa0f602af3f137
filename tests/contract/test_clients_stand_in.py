"""Every client completes a script on the stand-in: a real (small) model, engine and grammar.

What a small model says is not judged, only its form: that streams add up, that a required call and
a structured output are what the grammar makes them, that errors and cancelling work. It reasons
first: where a client can, it is told not to, and else there is room for it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
)
from langchain_openai import ChatOpenAI
from openai.types.shared import Reasoning
from pydantic import BaseModel
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIChatModelSettings
from pydantic_ai.providers.openai import OpenAIProvider

from osslo.serve import Server, build
from osslo.settings import load_settings
from tests.contract.conftest import Node
from tests.scripted import serving

pytestmark = pytest.mark.model
MODEL = "gpt-oss-20b"
QUESTION = "What is the capital of Norway?"
ROOM = 400
"""Tokens for reasoning and an answer."""


class City(BaseModel):
    name: str
    large: bool


@function_tool
def note(large: bool) -> str:
    """Note whether the city is large."""
    return "noted"


NOTE = {
    "type": "object",
    "properties": {"large": {"type": "boolean"}},
    "required": ["large"],
    "additionalProperties": False,
}
CITY = City.model_json_schema() | {"additionalProperties": False}
CITY["properties"]["name"]["maxLength"] = 12


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, build_cache: Path) -> Iterator[tuple[str, str]]:
    """The base URL and the key of a server over the stand-in."""
    home = str(tmp_path_factory.mktemp("home"))
    variables = {"HOME": home, "OSSLO_HOME": home, "OSSLO_CACHE": str(build_cache)}
    server: Server = build(
        load_settings(environment=variables, overrides={"context": 2048, "worker": False})
    )
    try:
        with serving(server.app) as url:
            yield url, server.key
    finally:
        server.model.backend.close_blocking()  # type: ignore[attr-defined]  # it is the engine


@pytest.fixture
async def client(site: tuple[str, str]) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=site[0] + "/v1", api_key=site[1], max_retries=0, timeout=60
    ) as made:
        yield made


async def test_openai_chat(client: openai.AsyncOpenAI) -> None:
    ask: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": ROOM,
        "temperature": 0,
    }
    whole = await client.chat.completions.create(**ask)
    stream = await client.chat.completions.create(**ask, stream=True)
    text = "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])
    assert whole.choices[0].message.content == text != ""
    tool = {"type": "function", "function": {"name": "note", "parameters": NOTE, "strict": True}}
    called = await client.chat.completions.create(
        **ask, reasoning_effort="none", tools=[tool], tool_choice="required"
    )
    (call,) = called.choices[0].message.tool_calls or ()
    assert isinstance(json.loads(call.function.arguments)["large"], bool)
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(**ask | {"max_tokens": 5000})


async def test_openai_responses(client: openai.AsyncOpenAI) -> None:
    ask: dict[str, Any] = {"model": MODEL, "max_output_tokens": ROOM, "temperature": 0}
    ask |= {"reasoning": {"effort": "none"}}
    form = {"type": "json_schema", "name": "city", "schema": CITY, "strict": True}
    whole = await client.responses.create(**ask, input=QUESTION, text={"format": form})
    City.model_validate_json(whole.output_text)
    async with client.responses.stream(
        **ask, input="And of Sweden?", previous_response_id=whole.id
    ) as stream:
        pieces = [e.delta async for e in stream if e.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert "".join(pieces) == final.output_text


def test_openai_for_node(site: tuple[str, str], node: Node) -> None:
    url, key = site
    seen = node(url, "stand_in", key)
    assert seen["text"] == seen["streamed"] != ""
    assert list(seen["call"]) == ["city"]
    assert list(seen["city"]) == ["name", "country"]
    assert seen["followed"] in ("completed", "incomplete")
    assert (seen["aborted"], seen["error"]) == (True, "BadRequestError")


async def test_cancelling_frees_the_engine(client: openai.AsyncOpenAI, site: Any) -> None:
    messages = [{"role": "user", "content": "Count to a thousand."}]
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=messages,
        stream=True,
        max_tokens=1000,
        extra_body={"ignore_eos": True},
    )
    await anext(aiter(stream))
    await stream.close()
    await client.chat.completions.create(model=MODEL, messages=messages, max_tokens=1)


async def test_anthropic(site: tuple[str, str]) -> None:
    async with anthropic.AsyncAnthropic(
        base_url=site[0], api_key=site[1], max_retries=0, timeout=60
    ) as client:
        ask: dict[str, Any] = {
            "model": MODEL,
            "max_tokens": 64,
            "messages": [{"role": "user", "content": QUESTION}],
            "thinking": {"type": "disabled"},
        }
        tool = {"name": "note", "input_schema": NOTE, "strict": True}
        async with client.messages.stream(
            **ask, tools=[tool], tool_choice={"type": "any"}
        ) as stream:
            message = await stream.get_final_message()
        assert message.stop_reason == "tool_use"
        assert [b.name for b in message.content if b.type == "tool_use"] == ["note"]
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.create(**ask | {"model": "nonesuch"})


@pytest.mark.parametrize("kind", [OpenAIChatCompletionsModel, OpenAIResponsesModel])
async def test_agents(client: openai.AsyncOpenAI, kind: Any) -> None:
    agent = Agent(
        name="a",
        model=kind(MODEL, client),
        tools=[note],
        tool_use_behavior="stop_on_first_tool",
        model_settings=ModelSettings(
            tool_choice="required",
            max_tokens=ROOM,
            temperature=0,
            reasoning=Reasoning(effort="none"),
        ),
    )
    result = await Runner.run(agent, QUESTION, run_config=RunConfig(tracing_disabled=True))
    assert result.final_output == "noted"


@pytest.mark.parametrize("responses", [False, True])
def test_langchain(site: tuple[str, str], *, responses: bool) -> None:
    model = ChatOpenAI(
        model=MODEL,
        base_url=site[0] + "/v1",
        api_key=site[1],
        max_retries=0,
        temperature=0,
        max_tokens=ROOM,
        reasoning_effort="none",
        use_responses_api=responses,
    )
    pieces = [chunk.text for chunk in model.stream(QUESTION)]
    assert "".join(pieces)
    city = model.with_structured_output(CITY | {"title": "city"}, strict=True).invoke(QUESTION)
    City.model_validate(city)


async def test_pydantic_ai(client: openai.AsyncOpenAI) -> None:
    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(openai_client=client))

    class Size(BaseModel):
        large: bool

    settings = OpenAIChatModelSettings(max_tokens=ROOM, openai_reasoning_effort="none")
    agent = PydanticAgent(model, output_type=NativeOutput(Size))
    result = await asyncio.wait_for(agent.run(QUESTION, model_settings=settings), 60)
    assert isinstance(result.output.large, bool)
