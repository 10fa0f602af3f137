"""The official `openai` client against a real server."""

from __future__ import annotations

import json
from collections.abc import Callable

import openai
import pytest
from pydantic import BaseModel

from osslo.errors import EngineError, OverloadedError
from osslo.types import FinishReason
from tests.api.conftest import KEY, ask
from tests.api.test_chat_completions import CALL, TOOL
from tests.api.test_chat_tools import CUSTOM_CALL, SHELL
from tests.contract.conftest import StartServer
from tests.scripted import ByteVocabulary, Gate, Prefill, Script

Client = Callable[[str], openai.OpenAI]
VOCABULARY = ByteVocabulary()
MISSION = {
    "model": "gpt-oss-20b",
    "messages": [
        {"role": "system", "content": "Reasoning: high"},
        {"role": "user", "content": "What is the capital of Norway?"},
    ],
    "max_tokens": 2048,
    "temperature": 0.0,
}


def test_the_request_that_osslo_is_for(start_server: StartServer, openai_client: Client) -> None:
    url, stage = start_server()
    raw = openai_client(url).chat.completions.with_raw_response.create(**MISSION)
    completion = raw.parse()
    assert completion.choices[0].message.content == "Oslo."
    assert completion.choices[0].finish_reason == "stop"
    assert completion.model == raw.headers["x-osslo-model"] == "scripted-model"
    assert completion.usage is not None
    assert completion.usage.completion_tokens_details is not None
    assert completion.usage.completion_tokens_details.reasoning_tokens == 16
    prompt = VOCABULARY.text(stage.backend.requests[0].prompt)
    assert "Reasoning: high" in prompt
    assert stage.backend.requests[0].sampling.temperature == 0.0


def test_the_same_streamed(start_server: StartServer, openai_client: Client) -> None:
    url, _ = start_server()
    options = {"include_usage": True}
    chunks = list(
        openai_client(url).chat.completions.create(**MISSION, stream=True, stream_options=options)
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    thought = "".join(
        getattr(c.choices[0].delta, "reasoning_content", None) or "" for c in chunks if c.choices
    )
    assert (text, thought) == ("Oslo.", "Easy.")
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens > 0


async def test_the_async_client(start_server: StartServer) -> None:
    url, _ = start_server()
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0) as client:
        completion = await client.chat.completions.create(**MISSION)
        assert completion.choices[0].message.content == "Oslo."
        stream = await client.chat.completions.create(**MISSION, stream=True)
        pieces = [c.choices[0].delta.content or "" async for c in stream if c.choices]
        assert "".join(pieces) == "Oslo."


def test_the_streaming_helper_accumulates_tools(
    start_server: StartServer, openai_client: Client
) -> None:
    url, _ = start_server(CALL)
    with openai_client(url).chat.completions.stream(**ask(), tools=[TOOL]) as stream:
        completion = stream.get_final_completion()
    calls = completion.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.name == "get_weather"
    assert json.loads(calls[0].function.arguments) == {"city": "Oslo"}
    assert completion.choices[0].finish_reason == "tool_calls"


def test_a_tool_loop(start_server: StartServer, openai_client: Client) -> None:
    answers = iter([CALL, "<|channel|>final<|message|>12 degrees.<|return|>"])
    url, stage = start_server()
    stage.backend.script = lambda _: Script((VOCABULARY.tokens(next(answers)),))
    client = openai_client(url)
    messages: list[object] = [{"role": "user", "content": "Weather in Oslo?"}]
    first = client.chat.completions.create(model="gpt-oss-20b", messages=messages, tools=[TOOL])
    message = first.choices[0].message
    assert message.tool_calls is not None
    messages += [
        message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "12"},
    ]
    second = client.chat.completions.create(model="gpt-oss-20b", messages=messages, tools=[TOOL])
    assert second.choices[0].message.content == "12 degrees."
    prompt = VOCABULARY.text(stage.backend.requests[1].prompt)
    assert "<|channel|>analysis<|message|>Look.<|end|>" in prompt


class City(BaseModel):
    name: str
    country: str


def test_structured_output(start_server: StartServer, openai_client: Client) -> None:
    answer = '{"name":"Oslo","country":"Norway"}'
    url, stage = start_server(f"<|channel|>final<|message|>{answer}<|return|>")
    completion = openai_client(url).chat.completions.parse(**ask(), response_format=City)
    assert completion.choices[0].message.parsed == City(name="Oslo", country="Norway")
    prompt = VOCABULARY.text(stage.backend.requests[0].prompt)
    assert "# Response Formats" in prompt
    assert stage.backend.requests[0].grammar is not None


def test_logprobs(start_server: StartServer, openai_client: Client) -> None:
    url, _ = start_server()
    completion = openai_client(url).chat.completions.create(**ask(), logprobs=True, top_logprobs=3)
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [record.token for record in logprobs.content] == list("Oslo.")
    assert len(logprobs.content[0].top_logprobs) == 3


def test_models(start_server: StartServer, openai_client: Client) -> None:
    url, _ = start_server()
    client = openai_client(url)
    assert "gpt-oss-20b" in [model.id for model in client.models.list()]
    model = client.models.retrieve("gpt-oss-20b")
    assert model.model_extra is not None
    assert model.model_extra["osslo"]["served"] == "scripted-model"


def test_errors_become_the_clients_own_exceptions(
    start_server: StartServer, openai_client: Client
) -> None:
    url, stage = start_server(context=8192)
    client = openai_client(url)
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(**ask(model="nonesuch"))
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(**ask(max_tokens=8192))
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="sk-wrong").chat.completions.create(**ask())
    stage.backend.script = Script(refusal=OverloadedError("full", retry_after_s=1))
    with pytest.raises(openai.InternalServerError) as full:
        client.chat.completions.create(**ask(), stream=True)
    assert full.value.status_code == 503


def test_a_failure_within_a_stream_is_raised(
    start_server: StartServer, openai_client: Client
) -> None:
    script = Script(
        (VOCABULARY.tokens("<|channel|>final<|message|>Os"),),
        finish=FinishReason.ERROR,
        error=EngineError("The engine broke."),
    )
    url, _ = start_server(script=script)
    stream = openai_client(url).chat.completions.create(**ask(), stream=True)
    with pytest.raises(openai.APIError, match="The engine broke"):
        list(stream)


def test_closing_a_stream_stops_the_generation(
    start_server: StartServer, openai_client: Client
) -> None:
    gate = Gate()
    script = Script((VOCABULARY.tokens("<|channel|>final<|message|>Os"), gate))
    url, stage = start_server(script=script)
    stream = openai_client(url).chat.completions.create(**ask(), stream=True)
    assert next(iter(stream)).choices[0].delta.role == "assistant"
    assert gate.reached.wait(10)
    stream.close()
    assert stage.backend.abandoned.wait(10)


def test_closing_a_legacy_stream_stops_the_generation(
    start_server: StartServer, openai_client: Client
) -> None:
    url, stage = start_server(script=Script((VOCABULARY.tokens(" upon"), Gate())))
    stream = openai_client(url).completions.create(model="gpt-oss-20b", prompt="Once", stream=True)
    assert next(iter(stream)).choices[0].text
    stream.close()
    assert stage.backend.abandoned.wait(10)


def test_a_client_that_gives_up_on_a_whole_answer_stops_the_generation(
    start_server: StartServer, openai_client: Client
) -> None:
    gate = Gate()
    url, stage = start_server(script=Script((Prefill(1, 2), gate)))
    with pytest.raises(openai.APITimeoutError):
        openai_client(url).with_options(timeout=0.5).chat.completions.create(**ask())
    assert stage.backend.abandoned.wait(10)


def test_heartbeats_and_progress_during_a_long_prefill(
    start_server: StartServer, openai_client: Client
) -> None:
    gate = Gate()
    rest = VOCABULARY.tokens("<|channel|>final<|message|>Oslo.<|return|>")
    url, _ = start_server(
        script=Script((gate, Prefill(7, 9), rest)), heartbeat_s=0.05, start_grace_s=0.05
    )
    lines: list[str] = []
    with openai_client(url).chat.completions.with_streaming_response.create(
        **ask(), stream=True
    ) as response:
        for line in response.iter_lines():
            lines.append(line)
            if lines.count(": heartbeat") == 2:
                gate.open()
    assert lines.count(": heartbeat") >= 2
    assert ": prefill 7/9" in lines
    assert lines[-2:] == ["data: [DONE]", ""] or "data: [DONE]" in lines


def test_a_refusal_after_the_grace_is_an_event(
    start_server: StartServer, openai_client: Client
) -> None:
    """A backend that takes long to refuse: the stream has begun, so the error comes inside it."""
    gate = Gate()
    late = Script((gate, Prefill(0, 1)), finish=FinishReason.ERROR, error=OverloadedError("late"))
    url, _ = start_server(script=late, start_grace_s=0.05)
    stream = openai_client(url).chat.completions.create(**ask(), stream=True)
    gate.open()
    with pytest.raises(openai.APIError, match="late"):
        list(stream)


def test_custom_tools(start_server: StartServer, openai_client: Client) -> None:
    url, stage = start_server(CUSTOM_CALL)
    client = openai_client(url)
    completion = client.chat.completions.create(**ask(), tools=[SHELL])
    message = completion.choices[0].message
    assert message.tool_calls is not None
    call = message.tool_calls[0]
    assert call.type == "custom"
    assert (call.custom.name, call.custom.input) == ("shell", "ls -l | wc\n")
    messages = [
        {"role": "user", "content": "How many?"},
        message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "12"},
    ]
    client.chat.completions.create(model="gpt-oss-20b", messages=messages, tools=[SHELL])
    assert "ls -l | wc" in VOCABULARY.text(stage.backend.requests[1].prompt)


def test_kept_completions(start_server: StartServer, openai_client: Client) -> None:
    url, _ = start_server()
    completions = openai_client(url).chat.completions
    kept = [
        completions.create(**ask(), store=True, metadata={"n": str(number)}) for number in range(3)
    ]
    again = completions.retrieve(kept[0].id)
    assert again.choices[0].message.content == "Oslo."
    assert again.metadata == {"n": "0"}
    listed = list(completions.list(limit=1))
    assert sorted(one.id for one in listed) == sorted(one.id for one in kept)
    found = completions.list(metadata={"n": "1"})
    assert [one.id for one in found] == [kept[1].id]
    messages = list(completions.messages.list(kept[0].id))
    assert [message.content for message in messages] == ["What is the capital of Norway?"]
    assert completions.update(kept[0].id, metadata={"n": "9"}).metadata == {"n": "9"}
    assert completions.delete(kept[0].id).deleted
    with pytest.raises(openai.NotFoundError):
        completions.retrieve(kept[0].id)


def test_legacy_completions(start_server: StartServer, openai_client: Client) -> None:
    url, _ = start_server(" upon a time<|return|>")
    completions = openai_client(url).completions
    whole = completions.create(
        model="gpt-oss-20b", prompt=["Once", "Twice"], max_tokens=64, logprobs=1, echo=False
    )
    assert [choice.text for choice in whole.choices] == [" upon a time"] * 2
    assert whole.choices[0].logprobs is not None
    assert whole.choices[0].logprobs.tokens == list(" upon a time")
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == len("OnceTwice")
    chunks = list(
        completions.create(
            model="gpt-oss-20b",
            prompt="Once",
            max_tokens=64,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text == " upon a time"
    assert chunks[-1].usage is not None


def test_a_request_that_is_sent_again_is_answered_once(
    start_server: StartServer, openai_client: Client
) -> None:
    url, stage = start_server()
    headers = {"Idempotency-Key": "7f3c"}
    client = openai_client(url).with_options(default_headers=headers)
    first = client.chat.completions.create(**ask())
    second = client.chat.completions.create(**ask())
    assert first == second
    streams = client.with_options(default_headers={"Idempotency-Key": "7f3d"})
    texts = [
        [chunk.model_dump() for chunk in streams.chat.completions.create(**ask(), stream=True)]
        for _ in range(2)
    ]
    assert texts[0] == texts[1]
    assert len(stage.backend.requests) == 2
    with pytest.raises(openai.UnprocessableEntityError) as reused:
        client.chat.completions.create(**ask(temperature=0.1))
    assert reused.value.code == "idempotency_key_reused"


def test_the_clients_own_retry_after_a_full_queue_uses_the_same_key(
    start_server: StartServer, openai_client: Client
) -> None:
    url, stage = start_server()
    scripts = iter([Script(refusal=OverloadedError("full", retry_after_s=0.1))])
    good = stage.backend.script
    stage.backend.script = lambda _: next(scripts, good)  # type: ignore[return-value,arg-type]  # a Script
    client = openai_client(url).with_options(
        max_retries=2, default_headers={"Idempotency-Key": "again"}
    )
    assert client.chat.completions.create(**ask()).choices[0].message.content == "Oslo."
    assert len(stage.backend.requests) == 2
