"""OpenAI's Agents SDK against a real server, over chat completions and over responses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
import pytest
from agents import (
    Agent,
    Model,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
)
from agents.exceptions import AgentsException
from openai.types.responses import ResponseTextDeltaEvent
from pydantic import BaseModel

from osslo.errors import EngineError
from osslo.types import FinishReason
from tests.api.conftest import KEY, Stage
from tests.api.test_chat_completions import CALL
from tests.contract.conftest import StartServer
from tests.scripted import ByteVocabulary, Gate, Script

VOCABULARY = ByteVocabulary()
FINAL = "<|channel|>final<|message|>12 degrees.<|return|>"
QUIET = RunConfig(tracing_disabled=True)  # its traces would go to OpenAI
MODELS = (OpenAIChatCompletionsModel, OpenAIResponsesModel)


@function_tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"12 degrees in {city}"


class City(BaseModel):
    name: str
    country: str


@pytest.fixture(params=MODELS, ids=["chat", "responses"])
def kind(request: pytest.FixtureRequest) -> type[Model]:
    chosen: type[Model] = request.param
    return chosen


@asynccontextmanager
async def model_of(kind: type[Model], url: str, key: str = KEY) -> AsyncIterator[Model]:
    """The SDK's model over the official client, which never retries."""
    async with openai.AsyncOpenAI(
        base_url=url + "/v1", api_key=key, max_retries=0, timeout=20
    ) as client:
        yield kind("gpt-oss-20b", client)  # type: ignore[call-arg]  # both take these two


def answers(stage: Stage, *markups: str) -> None:
    """One script for each request, in order."""
    left = iter(markups)
    stage.backend.script = lambda _: Script((VOCABULARY.tokens(next(left)),))


async def test_an_agent_answers(start_server: StartServer, kind: type[Model]) -> None:
    url, stage = start_server()
    async with model_of(kind, url) as model:
        agent = Agent(name="a", instructions="Answer briefly.", model=model)
        result = await Runner.run(agent, "Capital of Norway?", run_config=QUIET)
    assert result.final_output == "Oslo."
    assert "Answer briefly." in VOCABULARY.text(stage.backend.requests[0].prompt)


async def test_a_tool_loop_keeps_the_reasoning(
    start_server: StartServer, kind: type[Model]
) -> None:
    url, stage = start_server()
    answers(stage, CALL, FINAL)
    async with model_of(kind, url) as model:
        agent = Agent(name="a", model=model, tools=[get_weather])
        result = await Runner.run(agent, "Weather in Oslo?", run_config=QUIET)
    assert result.final_output == "12 degrees."
    second = VOCABULARY.text(stage.backend.requests[1].prompt)
    assert "12 degrees in Oslo" in second
    if kind is OpenAIResponsesModel:  # over chat completions not tested
        assert "<|channel|>analysis<|message|>Look.<|end|>" in second


async def test_a_streamed_tool_loop(start_server: StartServer, kind: type[Model]) -> None:
    url, stage = start_server()
    answers(stage, CALL, FINAL)
    async with model_of(kind, url) as model:
        agent = Agent(name="a", model=model, tools=[get_weather])
        result = Runner.run_streamed(agent, "Weather in Oslo?", run_config=QUIET)
        pieces, names = [], []
        async for event in result.stream_events():
            if event.type == "run_item_stream_event":
                names.append(event.name)
            elif event.type == "raw_response_event" and isinstance(
                event.data, ResponseTextDeltaEvent
            ):
                pieces.append(event.data.delta)
    assert "".join(pieces) == "12 degrees."
    assert [n for n in names if n.startswith("tool_")] == ["tool_called", "tool_output"]


async def test_structured_output(start_server: StartServer, kind: type[Model]) -> None:
    answer = '{"name":"Oslo","country":"Norway"}'
    url, stage = start_server(f"<|channel|>final<|message|>{answer}<|return|>")
    async with model_of(kind, url) as model:
        agent = Agent(name="a", model=model, output_type=City)
        result = await Runner.run(agent, "Capital of Norway?", run_config=QUIET)
    assert result.final_output == City(name="Oslo", country="Norway")
    assert stage.backend.requests[0].grammar is not None


async def test_a_required_tool_is_a_grammar(start_server: StartServer, kind: type[Model]) -> None:
    url, stage = start_server()
    answers(stage, CALL, FINAL)
    async with model_of(kind, url) as model:
        agent = Agent(
            name="a",
            model=model,
            tools=[get_weather],
            model_settings=ModelSettings(tool_choice="required", parallel_tool_calls=False),
        )
        await Runner.run(agent, "Weather?", run_config=QUIET)
    grammar = stage.backend.requests[0].grammar
    assert grammar is not None
    assert "get_weather" in grammar.lark


async def test_errors_are_raised(start_server: StartServer, kind: type[Model]) -> None:
    url, stage = start_server()
    async with model_of(kind, url, key="sk-wrong") as model:
        with pytest.raises(openai.AuthenticationError):
            await Runner.run(Agent(name="a", model=model), "Hi", run_config=QUIET)
    begun = VOCABULARY.tokens("<|channel|>final<|message|>Os")
    stage.backend.script = Script(
        (begun,), finish=FinishReason.ERROR, error=EngineError("It broke.")
    )
    async with model_of(kind, url) as model:
        result = Runner.run_streamed(Agent(name="a", model=model), "Hi", run_config=QUIET)
        with pytest.raises((openai.APIError, AgentsException)):
            async for _ in result.stream_events():
                pass


async def test_cancelling_a_run_stops_the_generation(
    start_server: StartServer, kind: type[Model]
) -> None:
    gate = Gate()
    begun = VOCABULARY.tokens("<|channel|>final<|message|>Os")
    url, stage = start_server(script=Script((begun, gate)))
    async with model_of(kind, url) as model:
        running = asyncio.create_task(
            Runner.run(Agent(name="a", model=model), "Hi", run_config=QUIET)
        )
        assert await asyncio.to_thread(gate.reached.wait, 10)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await asyncio.to_thread(stage.backend.abandoned.wait, 10)
