"""`/v1/complete`: prompts with turns, replies, streams and errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from osslo.api.complete.prompt import read_prompt
from osslo.api.complete.schema import CompletionReply, CompletionStreamEvent
from osslo.api.messages.errors import MessagesErrorReply
from osslo.chat.request import AssistantTurn, SystemText, UserText
from osslo.errors import EngineError, OverloadedError
from osslo.types import FinishReason
from tests.api.conftest import Stage, make_stage
from tests.scripted import ByteVocabulary, Prefill, Script

URL = "/v1/complete"
VOCABULARY = ByteVocabulary()
PROMPT = "\n\nHuman: What is the capital of Norway?\n\nAssistant:"


async def post(stage: Stage, **fields: object) -> Any:
    body = {"model": "gpt-oss-20b", "prompt": PROMPT, "max_tokens_to_sample": 256} | fields
    async with stage.client() as client:
        return await client.post(URL, json=body)


async def complete(stage: Stage, **fields: object) -> CompletionReply:
    response = await post(stage, **fields)
    assert response.status_code == 200, response.text
    return CompletionReply.model_validate_json(response.text)


async def stream(stage: Stage, **fields: object) -> list[dict[str, Any]]:
    response = await post(stage, stream=True, **fields)
    assert response.status_code == 200, response.text
    events = []
    for part in (part for part in response.text.split("\n\n") if part and part[0] != ":"):
        name, data = part.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
        CompletionStreamEvent.model_validate(events[-1])
    return events


@pytest.mark.parametrize(
    ("prompt", "messages", "prefill"),
    [
        ("\n\nHuman: Hi\n\nAssistant:", (UserText("Hi"),), ""),
        ("Human: Hi\n\nAssistant:", (UserText("Hi"),), ""),
        ("\n\nHuman: Hi\n\nAssistant: ", (UserText("Hi"),), ""),
        ("\n\nHuman: Hi\n\nAssistant: Hello, I", (UserText("Hi"),), "Hello, I"),
        ("\n\nHuman: Hi", (UserText("Hi"),), ""),
        (
            "Be brief.\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nd\n\nAssistant:",
            (SystemText("Be brief."), UserText("a"), AssistantTurn("b"), UserText("c\n\nd")),
            "",
        ),
        ("What is the capital?", (UserText("What is the capital?"),), ""),
        ("Human: rights matter", (UserText("Human: rights matter"),), ""),
        ("Say Human: or\n\nAssistant: x", (UserText("Say Human: or\n\nAssistant: x"),), ""),
        ("A Human: b", (UserText("A Human: b"),), ""),
    ],
)
def test_prompts(prompt: str, messages: tuple[object, ...], prefill: str) -> None:
    read = read_prompt(prompt)
    assert (read.messages, read.prefill) == (messages, prefill)


async def test_the_completion_has_the_documented_shape(stage: Stage) -> None:
    response = await post(stage)
    reply = CompletionReply.model_validate_json(response.text)
    assert (reply.completion, reply.stop_reason, reply.stop) == ("Oslo.", "stop_sequence", None)
    assert reply.model == response.headers["x-osslo-model"] == "scripted-model"
    assert reply.id.startswith("compl_")
    assert reply.log_id == response.headers["request-id"]


@pytest.mark.parametrize("fields", [{}, {"stop_sequences": ["lo"]}, {"max_tokens_to_sample": 37}])
async def test_the_stream_adds_up_to_the_whole(stage: Stage, fields: dict[str, object]) -> None:
    whole = await complete(stage, **fields)
    events = await stream(stage, **fields)
    assert "".join(event["completion"] for event in events) == whole.completion
    assert {event["stop_reason"] for event in events[:-1]} <= {None}
    last = events[-1]
    assert (last["stop_reason"], last["stop"]) == (whole.stop_reason, whole.stop)


async def test_why_it_stopped(stage: Stage) -> None:
    stopped = await complete(stage, stop_sequences=["lo"])
    assert (stopped.completion, stopped.stop_reason, stopped.stop) == ("Os", "stop_sequence", "lo")
    assert (await complete(stage, max_tokens_to_sample=3)).stop_reason == "max_tokens"


async def test_a_model_that_writes_the_next_turn_is_stopped() -> None:
    stage = make_stage("<|channel|>final<|message|>Oslo.\n\nHuman: And Sweden?<|return|>")
    reply = await complete(stage)
    assert (reply.completion, reply.stop) == ("Oslo.", "\n\nHuman:")
    plain = await complete(stage, prompt="What is the capital of Norway?")
    assert "Sweden" in plain.completion


async def test_the_answer_goes_on_behind_its_beginning() -> None:
    stage = make_stage("slo.<|return|>")
    assert (await complete(stage, prompt=PROMPT + " O")).completion == "slo."
    prompt = VOCABULARY.text(stage.backend.requests[0].prompt)
    assert prompt.endswith("<|channel|>final<|message|>O")


async def test_parameters_reach_the_engine(stage: Stage) -> None:
    await complete(stage, temperature=0.2, top_p=0.9, top_k=5, metadata={"user_id": "u"})
    sampling = stage.backend.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.2, 0.9, 5)
    assert sampling.max_tokens == 256
    await complete(stage, top_k=-1, reasoning_effort="high")
    assert stage.backend.requests[1].sampling.top_k == 0
    assert "Reasoning: high" in VOCABULARY.text(stage.backend.requests[1].prompt)


async def test_without_reasoning_the_answer_comes_at_once(stage: Stage) -> None:
    await complete(stage, reasoning_effort="none")
    assert stage.backend.requests[0].grammar is not None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens_to_sample": None}, "max_tokens_to_sample"),
        ({"max_tokens_to_sample": 40_000}, "max_tokens_to_sample"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a"]}, "prompt"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"stop_sequences": ["x" * 2000]}, "stop_sequences"),
    ],
)
async def test_what_is_wrong_is_named(stage: Stage, fields: dict[str, object], param: str) -> None:
    response = await post(stage, **fields)
    assert response.status_code == 400
    error = MessagesErrorReply.model_validate_json(response.text).error
    assert error.details is not None
    assert error.details.param == param


async def test_a_refusal_is_an_overload() -> None:
    response = await post(make_stage(script=Script(refusal=OverloadedError("Full."))), stream=True)
    assert response.status_code == 529
    assert MessagesErrorReply.model_validate_json(response.text).error.type == "overloaded_error"


async def test_an_error_within_a_stream_is_its_last_event() -> None:
    script = Script(
        (Prefill(1, 2), VOCABULARY.tokens("<|channel|>final<|message|>Os")),
        finish=FinishReason.ERROR,
        error=EngineError("It broke."),
    )
    events = await stream(make_stage(script=script))
    assert [event["type"] for event in events] == ["completion", "completion", "error"]
    assert (await post(make_stage(script=script))).status_code == 500
