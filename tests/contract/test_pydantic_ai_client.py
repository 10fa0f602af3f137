"""`pydantic-ai` against a real server: chat completions, responses, and Anthropic's messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import openai
import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, ToolOutput
from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from osslo.errors import EngineError
from osslo.types import FinishReason
from tests.api.conftest import KEY, Stage
from tests.api.test_chat_completions import CALL
from tests.contract.conftest import StartServer
from tests.scripted import ByteVocabulary, Gate, Script

VOCABULARY = ByteVocabulary()
FINAL = "<|channel|>final<|message|>12 degrees.<|return|>"


class City(BaseModel):
    """A city."""

    name: str
    country: str


@asynccontextmanager
async def chat(url: str, key: str) -> AsyncIterator[Model]:
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key=key, max_retries=0) as client:
        yield OpenAIChatModel("gpt-oss-20b", provider=OpenAIProvider(openai_client=client))


@asynccontextmanager
async def responses(url: str, key: str) -> AsyncIterator[Model]:
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key=key, max_retries=0) as client:
        yield OpenAIResponsesModel("gpt-oss-20b", provider=OpenAIProvider(openai_client=client))


@asynccontextmanager
async def messages(url: str, key: str) -> AsyncIterator[Model]:
    async with anthropic.AsyncAnthropic(base_url=url, api_key=key, max_retries=0) as client:
        yield AnthropicModel("gpt-oss-20b", provider=AnthropicProvider(anthropic_client=client))


@pytest.fixture(params=[chat, responses, messages], ids=lambda made: made.__name__)
def model_at(request: pytest.FixtureRequest) -> Callable[..., Any]:
    made: Callable[..., Any] = request.param
    return made


def answers(stage: Stage, *markups: str) -> None:
    left = iter(markups)
    stage.backend.script = lambda _: Script((VOCABULARY.tokens(next(left)),))


def with_weather(model: Model) -> Agent[None, str]:
    agent = Agent(model)

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return f"12 degrees in {city}"

    return agent


async def test_an_answer(start_server: StartServer, model_at: Any) -> None:
    url, stage = start_server()
    async with model_at(url, KEY) as model:
        result = await Agent(model, instructions="Be brief.").run("Capital of Norway?")
    assert result.output == "Oslo."
    assert result.usage.output_tokens > 0
    assert "Be brief." in VOCABULARY.text(stage.backend.requests[0].prompt)


async def test_a_stream(start_server: StartServer, model_at: Any) -> None:
    url, _ = start_server()
    async with (
        model_at(url, KEY) as model,
        Agent(model).run_stream("Capital of Norway?") as result,
    ):
        pieces = [p async for p in result.stream_text(delta=True, debounce_by=None)]
    assert "".join(pieces) == "Oslo."


async def test_a_tool_loop_keeps_the_reasoning(start_server: StartServer, model_at: Any) -> None:
    url, stage = start_server()
    answers(stage, CALL, FINAL)
    async with model_at(url, KEY) as model:
        result = await with_weather(model).run("Weather in Oslo?")
    assert result.output == "12 degrees."
    second = VOCABULARY.text(stage.backend.requests[1].prompt)
    assert "12 degrees in Oslo" in second
    assert "<|channel|>analysis<|message|>Look.<|end|>" in second


async def test_a_streamed_tool_loop(start_server: StartServer, model_at: Any) -> None:
    url, stage = start_server()
    answers(stage, CALL, FINAL)
    async with (
        model_at(url, KEY) as model,
        with_weather(model).run_stream("Weather in Oslo?") as result,
    ):
        assert await result.get_output() == "12 degrees."


@pytest.mark.parametrize("way", [NativeOutput, ToolOutput])
async def test_structured_output(start_server: StartServer, model_at: Any, way: Any) -> None:
    answer = '{"name":"Oslo","country":"Norway"}'
    markup = f"<|channel|>final<|message|>{answer}<|return|>"
    if way is ToolOutput:
        markup = f"<|channel|>commentary to=functions.final_result<|message|>{answer}<|call|>"
    url, stage = start_server(markup)
    if way is NativeOutput and model_at is messages:
        pytest.skip("platform: pydantic-ai asks only models that it knows by name for it")
    async with model_at(url, KEY) as model:
        result = await Agent(model, output_type=way(City)).run("Capital of Norway?")
    assert result.output == City(name="Oslo", country="Norway")
    assert stage.backend.requests[0].grammar is not None


async def test_errors_are_raised(start_server: StartServer, model_at: Any) -> None:
    url, stage = start_server()
    async with model_at(url, "sk-wrong") as model:
        with pytest.raises(ModelHTTPError) as wrong:
            await Agent(model).run("Hi")
    assert wrong.value.status_code == 401
    begun = VOCABULARY.tokens("<|channel|>final<|message|>Os")
    stage.backend.script = Script(
        (begun,), finish=FinishReason.ERROR, error=EngineError("It broke.")
    )
    async with model_at(url, KEY) as model:
        with pytest.raises((ModelAPIError, openai.APIError, anthropic.APIError)):
            async with Agent(model).run_stream("Hi") as result:
                await result.get_output()


async def test_cancelling_stops_the_generation(start_server: StartServer, model_at: Any) -> None:
    gate = Gate()
    begun = VOCABULARY.tokens("<|channel|>final<|message|>Os")
    url, stage = start_server(script=Script((begun, gate)))
    async with model_at(url, KEY) as model:
        running = asyncio.create_task(Agent(model).run("Hi"))
        assert await asyncio.to_thread(gate.reached.wait, 10)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await asyncio.to_thread(stage.backend.abandoned.wait, 10)
