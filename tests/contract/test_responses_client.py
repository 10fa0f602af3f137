"""The Responses API through the official client, over a scripted backend."""

from __future__ import annotations

import json
from collections.abc import Callable

import openai
import pytest
from pydantic import BaseModel

from tests.api.conftest import KEY
from tests.contract.conftest import StartServer
from tests.scripted import ByteVocabulary, Gate, Script

Client = Callable[[str], openai.OpenAI]
TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
CALL = (
    "<|channel|>analysis<|message|>I need it.<|end|><|start|>assistant<|channel|>commentary "
    'to=functions.get_weather <|constrain|>json<|message|>{"city":"Oslo"}<|call|>'
)


@pytest.fixture
def client(start_server: StartServer, openai_client: Client) -> openai.OpenAI:
    url, _ = start_server()
    return openai_client(url)


def test_a_whole_answer_with_reasoning(client: openai.OpenAI) -> None:
    reply = client.responses.create(
        model="gpt-oss-20b",
        input="What is the capital of Norway?",
        instructions="Answer briefly.",
        reasoning={"effort": "high"},
        metadata={"topic": "geography"},
    )
    assert reply.output_text == "Oslo."
    assert reply.status == "completed"
    assert [item.type for item in reply.output] == ["reasoning", "message"]
    assert reply.output[0].content[0].text == "Easy."  # type: ignore[union-attr,index]
    assert reply.usage is not None
    assert reply.usage.output_tokens_details.reasoning_tokens > 0
    assert reply.reasoning is not None
    assert (reply.reasoning.effort, reply.metadata) == ("high", {"topic": "geography"})


def test_a_stream_says_the_same_as_the_whole(client: openai.OpenAI) -> None:
    with client.responses.stream(model="gpt-oss-20b", input="Capital of Norway?") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == final.output_text == "Oslo."


def test_what_is_kept_is_gone_on_from_and_deleted(client: openai.OpenAI) -> None:
    first = client.responses.create(model="gpt-oss-20b", input="My name is Ada.")
    again = client.responses.retrieve(first.id)
    assert again.output_text == first.output_text
    second = client.responses.create(
        model="gpt-oss-20b", input="What is my name?", previous_response_id=first.id
    )
    assert second.previous_response_id == first.id
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    inputs = client.responses.input_items.list(second.id)
    assert [item.content[0].text for item in inputs.data] == ["What is my name?"]  # type: ignore[union-attr,index]
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="gpt-oss-20b", input="?", previous_response_id=first.id)


def test_what_is_not_to_be_kept_is_not(client: openai.OpenAI) -> None:
    reply = client.responses.create(model="gpt-oss-20b", input="Hello", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(reply.id)


def test_a_tool_loop(start_server: StartServer, openai_client: Client) -> None:
    url, _ = start_server(CALL)
    client = openai_client(url)
    reply = client.responses.create(
        model="gpt-oss-20b",
        input="Weather in Oslo?",
        tools=[TOOL],  # type: ignore[list-item]  # a plain dict
        include=["reasoning.encrypted_content"],
        store=False,
    )
    thought, call = reply.output
    assert (thought.type, call.type) == ("reasoning", "function_call")
    assert thought.encrypted_content  # type: ignore[union-attr]
    assert json.loads(call.arguments) == {"city": "Oslo"}  # type: ignore[union-attr]
    answer = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}  # type: ignore[union-attr]
    handed_back = [item.model_dump(exclude_none=True) for item in reply.output]
    again = client.responses.create(
        model="gpt-oss-20b",
        input=[{"role": "user", "content": "Weather in Oslo?"}, *handed_back, answer],  # type: ignore[list-item]
        tools=[TOOL],  # type: ignore[list-item]
    )
    assert again.status == "completed"


def test_a_background_response_is_polled(client: openai.OpenAI) -> None:
    begun = client.responses.create(model="gpt-oss-20b", input="Capital?", background=True)
    assert begun.background
    for _ in client.responses.retrieve(begun.id, stream=True):
        pass  # the server ends the stream when the response has ended
    ended = client.responses.retrieve(begun.id)
    assert (ended.status, ended.output_text) == ("completed", "Oslo.")
    with pytest.raises(openai.NotFoundError):
        client.responses.cancel("resp_none")


def test_a_background_stream_goes_on_where_its_client_left(
    start_server: StartServer, openai_client: Client
) -> None:
    gate, vocabulary = Gate(), ByteVocabulary()
    script = Script(
        (
            vocabulary.tokens("<|channel|>final<|message|>Os"),
            gate,
            vocabulary.tokens("lo.<|return|>"),
        )
    )
    url, stage = start_server(script=script)
    client = openai_client(url)
    with client.responses.create(
        model="gpt-oss-20b", input="Capital?", background=True, stream=True
    ) as stream:
        seen = []
        for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta" and event.delta == "s":
                break
    first = seen[0]
    assert first.type == "response.created"
    gate.open()
    rest = list(
        client.responses.retrieve(
            first.response.id, stream=True, starting_after=seen[-1].sequence_number
        )
    )
    numbers = [event.sequence_number for event in (*seen, *rest)]
    assert numbers == list(range(len(numbers)))
    last = rest[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "Oslo."
    assert not stage.backend.abandoned.is_set()


def test_a_background_response_is_cancelled(
    start_server: StartServer, openai_client: Client
) -> None:
    gate = Gate()
    url, stage = start_server(script=Script((gate,)))
    client = openai_client(url)
    begun = client.responses.create(model="gpt-oss-20b", input="Capital?", background=True)
    assert gate.reached.wait(10)
    assert client.responses.cancel(begun.id).status == "cancelled"
    assert client.responses.retrieve(begun.id).status == "cancelled"
    assert stage.backend.abandoned.wait(10)


class Capital(BaseModel):
    name: str


def test_structured_output_is_parsed(start_server: StartServer, openai_client: Client) -> None:
    url, _ = start_server('<|channel|>final<|message|>{"name":"Oslo"}<|return|>')
    parsed = openai_client(url).responses.parse(
        model="gpt-oss-20b", input="Capital?", text_format=Capital
    )
    assert parsed.output_parsed == Capital(name="Oslo")


def test_tokens_are_counted(client: openai.OpenAI) -> None:
    reply = client.responses.create(model="gpt-oss-20b", input="Hello")
    counted = client.responses.input_tokens.count(model="gpt-oss-20b", input="Hello")
    assert reply.usage is not None
    assert counted.input_tokens == reply.usage.input_tokens


def test_a_cut_answer_is_incomplete(client: openai.OpenAI) -> None:
    reply = client.responses.create(model="gpt-oss-20b", input="Hi", max_output_tokens=30)
    assert reply.status == "incomplete"
    assert reply.incomplete_details is not None
    assert reply.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"input": [{"type": "item_reference", "id": "msg_x"}]}, "input[0].id"),
        ({"temperature": 3}, "temperature"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    client: openai.OpenAI, changes: dict[str, object], param: str
) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.responses.create(**({"model": "gpt-oss-20b", "input": "Hi"} | changes))  # type: ignore[call-overload]
    assert refused.value.status_code in (400, 404)
    assert refused.value.param == param


def test_nobody_reads_what_another_keeps(client: openai.OpenAI) -> None:
    reply = client.responses.create(model="gpt-oss-20b", input="Hi")
    stranger = client.with_options(api_key=KEY + "x")
    with pytest.raises(openai.AuthenticationError):
        stranger.responses.retrieve(reply.id)


def test_closing_a_stream_stops_the_generation(
    start_server: StartServer, openai_client: Client
) -> None:
    begun = ByteVocabulary().tokens("<|channel|>final<|message|>Os")
    url, stage = start_server(script=Script((begun, Gate())))
    stream = openai_client(url).responses.create(model="gpt-oss-20b", input="Hi", stream=True)
    assert any(event.type == "response.output_text.delta" for event in stream)
    stream.close()
    assert stage.backend.abandoned.wait(10)
