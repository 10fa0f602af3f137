"""`langchain-openai` against a real server, over chat completions and over responses."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from osslo.errors import EngineError
from osslo.types import FinishReason
from tests.api.conftest import KEY, Stage
from tests.api.test_chat_completions import CALL
from tests.contract.conftest import StartServer
from tests.scripted import ByteVocabulary, Gate, Script

VOCABULARY = ByteVocabulary()
FINAL = "<|channel|>final<|message|>12 degrees.<|return|>"


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"12 degrees in {city}"


class City(BaseModel):
    """A city."""

    name: str
    country: str


@pytest.fixture(params=[False, True], ids=["chat", "responses"])
def responses(request: pytest.FixtureRequest) -> bool:
    chosen: bool = request.param
    return chosen


def chat(url: str, *, responses: bool, **fields: Any) -> ChatOpenAI:
    given = {"api_key": KEY, "max_retries": 0, "timeout": 20} | fields
    return ChatOpenAI(
        model="gpt-oss-20b", base_url=url + "/v1", use_responses_api=responses, **given
    )


def answers(stage: Stage, *markups: str) -> None:
    left = iter(markups)
    stage.backend.script = lambda _: Script((VOCABULARY.tokens(next(left)),))


def test_an_answer(start_server: StartServer, *, responses: bool) -> None:
    url, stage = start_server()
    answer = chat(url, responses=responses).invoke(
        [SystemMessage("Be brief."), HumanMessage("Capital of Norway?")]
    )
    assert answer.text == "Oslo."
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_token_details"]["reasoning"] == 16
    assert "Be brief." in VOCABULARY.text(stage.backend.requests[0].prompt)


def test_a_stream(start_server: StartServer, *, responses: bool) -> None:
    url, _ = start_server()
    chunks = list(chat(url, responses=responses, stream_usage=True).stream("Capital of Norway?"))
    assert "".join(chunk.text for chunk in chunks) == "Oslo."
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["input_tokens"] > 0


def test_a_tool_loop(start_server: StartServer, *, responses: bool) -> None:
    url, stage = start_server()
    answers(stage, CALL, FINAL)
    model = chat(url, responses=responses).bind_tools([get_weather])
    messages: list[Any] = [HumanMessage("Weather in Oslo?")]
    first = model.invoke(messages)
    assert [(c["name"], c["args"]) for c in first.tool_calls] == [("get_weather", {"city": "Oslo"})]
    result = get_weather.invoke(first.tool_calls[0])
    assert isinstance(result, ToolMessage)
    second = model.invoke([*messages, first, result])
    assert second.text == "12 degrees."
    assert "12 degrees in Oslo" in VOCABULARY.text(stage.backend.requests[1].prompt)


def test_streamed_calls_add_up(start_server: StartServer, *, responses: bool) -> None:
    url, _ = start_server(CALL)
    whole: Any = None
    for chunk in chat(url, responses=responses).bind_tools([get_weather]).stream("Weather?"):
        whole = chunk if whole is None else whole + chunk
    assert [(c["name"], c["args"]) for c in whole.tool_calls] == [("get_weather", {"city": "Oslo"})]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(start_server: StartServer, method: Any, *, responses: bool) -> None:
    answer = '{"name":"Oslo","country":"Norway"}'
    markup = f"<|channel|>final<|message|>{answer}<|return|>"
    if method == "function_calling":
        markup = f"<|channel|>commentary to=functions.City<|message|>{answer}<|call|>"
    url, stage = start_server(markup)
    model = chat(url, responses=responses).with_structured_output(City, method=method)
    assert model.invoke("Capital of Norway?") == City(name="Oslo", country="Norway")
    assert stage.backend.requests[0].grammar is not None


def test_errors_are_raised(start_server: StartServer, *, responses: bool) -> None:
    url, stage = start_server()
    with pytest.raises(openai.AuthenticationError):
        chat(url, responses=responses, api_key="sk-wrong").invoke("Hi")
    with pytest.raises(openai.BadRequestError):
        chat(url, responses=responses).invoke("Hi", temperature=9)
    begun = VOCABULARY.tokens("<|channel|>final<|message|>Os")
    stage.backend.script = Script(
        (begun,), finish=FinishReason.ERROR, error=EngineError("It broke.")
    )
    if not responses:  # its reader of responses takes an event that failed for an end
        with pytest.raises(openai.APIError, match="It broke"):
            list(chat(url, responses=responses).stream("Hi"))


async def test_cancelling_stops_the_generation(
    start_server: StartServer, *, responses: bool
) -> None:
    gate = Gate()
    begun = VOCABULARY.tokens("<|channel|>final<|message|>Os")
    url, stage = start_server(script=Script((begun, gate)))

    async def ask() -> AIMessage:
        return await chat(url, responses=responses).ainvoke("Hi")

    running = asyncio.create_task(ask())
    assert await asyncio.to_thread(gate.reached.wait, 10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await asyncio.to_thread(stage.backend.abandoned.wait, 10)
