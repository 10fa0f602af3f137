"""The official `anthropic` client against a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import anthropic
import httpx
import pytest
from pydantic import BaseModel

from osslo.errors import EngineError, OverloadedError
from osslo.types import FinishReason
from tests.api.conftest import KEY
from tests.api.test_messages import CALL, TOOL, events_of, message, rebuilt
from tests.contract.conftest import StartServer
from tests.scripted import ByteVocabulary, Gate, Prefill, Script

Client = Callable[[str], anthropic.Anthropic]
VOCABULARY = ByteVocabulary()
FINAL = "<|channel|>final<|message|>12 degrees.<|return|>"
THINK = {"type": "enabled", "budget_tokens": 1024}


@pytest.fixture
def anthropic_client() -> Iterator[Client]:
    """The official client for a base URL; it never retries."""
    with ExitStack() as stack:
        yield lambda url: stack.enter_context(
            anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0, timeout=20)
        )


def ask(**fields: object) -> dict[str, Any]:
    return message(**fields)


def test_a_message(start_server: StartServer, anthropic_client: Client) -> None:
    url, stage = start_server()
    raw = anthropic_client(url).messages.with_raw_response.create(**ask(system="Be brief."))
    answer = raw.parse()
    assert [(block.type, getattr(block, "text", None)) for block in answer.content] == [
        ("text", "Oslo.")
    ]
    assert (answer.role, answer.stop_reason, answer.stop_sequence) == (
        "assistant",
        "end_turn",
        None,
    )
    assert answer.model == "scripted-model"
    assert answer.usage.input_tokens == len(stage.backend.requests[0].prompt)
    assert answer.usage.output_tokens_details is not None
    assert answer.usage.output_tokens_details.thinking_tokens == 16
    assert answer._request_id == raw.headers["request-id"]


def test_the_same_streamed(start_server: StartServer, anthropic_client: Client) -> None:
    url, _ = start_server()
    client = anthropic_client(url)
    whole = client.messages.create(**ask(thinking=THINK))
    with client.messages.stream(**ask(thinking=THINK)) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert stream.get_final_text() == "Oslo."
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.usage == whole.usage
    assert final.stop_reason == whole.stop_reason
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert {"thinking", "signature", "text"} <= set(kinds)


async def test_the_async_client(start_server: StartServer) -> None:
    url, _ = start_server()
    async with anthropic.AsyncAnthropic(base_url=url, auth_token=KEY, max_retries=0) as client:
        answer = await client.messages.create(**ask())
        assert answer.content[0].type == "text"
        async with client.messages.stream(**ask()) as stream:
            assert "".join([text async for text in stream.text_stream]) == "Oslo."


@pytest.mark.parametrize("display", ["summarized", "omitted"])
def test_a_tool_loop_keeps_the_reasoning(
    start_server: StartServer, anthropic_client: Client, display: str
) -> None:
    answers = iter([CALL, FINAL])
    url, stage = start_server()
    stage.backend.script = lambda _: Script((VOCABULARY.tokens(next(answers)),))
    client = anthropic_client(url)
    thinking = {"type": "adaptive", "display": display}
    messages: list[Any] = [{"role": "user", "content": "Weather in Oslo?"}]
    fields = {"tools": [TOOL], "thinking": thinking}
    with client.messages.stream(**ask(messages=messages, **fields)) as stream:
        first = stream.get_final_message()
    (use,) = (block for block in first.content if block.type == "tool_use")
    assert (use.name, use.input, first.stop_reason) == (
        "get_weather",
        {"city": "Oslo"},
        "tool_use",
    )
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "12"}
    messages += [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    second = client.messages.create(**ask(messages=messages, **fields))
    assert [getattr(block, "text", None) for block in second.content] == ["12 degrees."]
    prompt = VOCABULARY.text(stage.backend.requests[1].prompt)
    assert "<|channel|>analysis<|message|>Look.<|end|>" in prompt
    assert "functions.get_weather to=assistant" in prompt


class City(BaseModel):
    name: str
    country: str


def test_structured_output(start_server: StartServer, anthropic_client: Client) -> None:
    answer = '{"name":"Oslo","country":"Norway"}'
    url, stage = start_server(f"<|channel|>final<|message|>{answer}<|return|>")
    parsed = anthropic_client(url).messages.parse(**ask(), output_format=City)
    assert parsed.parsed_output == City(name="Oslo", country="Norway")
    assert stage.backend.requests[0].grammar is not None
    assert "# Response Formats" in VOCABULARY.text(stage.backend.requests[0].prompt)


def test_the_beta_client(start_server: StartServer, anthropic_client: Client) -> None:
    url, _ = start_server()
    answer = anthropic_client(url).beta.messages.create(
        **ask(thinking=THINK),
        betas=["interleaved-thinking-2025-05-14", "context-management-2025-06-27"],
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    )
    assert [block.type for block in answer.content] == ["thinking", "text"]


def test_a_stop_sequence(start_server: StartServer, anthropic_client: Client) -> None:
    url, _ = start_server()
    answer = anthropic_client(url).messages.create(**ask(stop_sequences=["lo"]))
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "lo")


def test_prefill(start_server: StartServer, anthropic_client: Client) -> None:
    url, _ = start_server("slo.<|return|>")
    messages = [{"role": "user", "content": "Capital?"}, {"role": "assistant", "content": "O"}]
    answer = anthropic_client(url).messages.create(**ask(messages=messages))
    assert [getattr(block, "text", None) for block in answer.content] == ["slo."]


def test_counting(start_server: StartServer, anthropic_client: Client) -> None:
    url, _ = start_server()
    client = anthropic_client(url)
    answer = client.messages.create(**ask(tools=[TOOL], system="Be brief."))
    fields = ask(tools=[TOOL], system="Be brief.")
    del fields["max_tokens"]
    assert client.messages.count_tokens(**fields).input_tokens == answer.usage.input_tokens


def test_models(start_server: StartServer, anthropic_client: Client) -> None:
    url, _ = start_server()
    client = anthropic_client(url)
    assert [model.id for model in client.models.list(limit=1)] == ["scripted-model", "gpt-oss-20b"]
    one = client.models.retrieve("gpt-oss-20b")
    assert (one.max_input_tokens, one.created_at.year) == (8192, 2023)
    assert one.capabilities is not None
    assert one.capabilities.thinking.types.enabled.supported
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("nonesuch")


@pytest.mark.parametrize(
    ("fields", "error", "kind"),
    [
        ({"max_tokens": 0}, anthropic.BadRequestError, "invalid_request_error"),
        ({"model": "nonesuch"}, anthropic.NotFoundError, "not_found_error"),
    ],
)
def test_errors(
    start_server: StartServer,
    anthropic_client: Client,
    fields: dict[str, object],
    error: type[anthropic.APIStatusError],
    kind: str,
) -> None:
    url, _ = start_server()
    with pytest.raises(error) as caught:
        anthropic_client(url).messages.create(**ask(**fields))
    assert caught.value.type == kind
    assert caught.value.request_id
    assert caught.value.error_code in ("invalid_type", "model_not_found")


def test_a_wrong_key(start_server: StartServer) -> None:
    url, _ = start_server()
    with (
        anthropic.Anthropic(base_url=url, api_key="sk-wrong", max_retries=0) as client,
        pytest.raises(anthropic.AuthenticationError),
    ):
        client.messages.create(**ask())


def test_a_full_server(start_server: StartServer, anthropic_client: Client) -> None:
    url, _ = start_server(script=Script(refusal=OverloadedError("Full.", retry_after_s=3)))
    for streamed in (False, True):
        with pytest.raises(anthropic.OverloadedError) as caught:
            anthropic_client(url).messages.create(**ask(stream=streamed))
        assert caught.value.response.headers["retry-after"] == "3"


def test_the_client_tries_again(start_server: StartServer) -> None:
    refusals = iter([Script(refusal=OverloadedError("Full.", retry_after_s=0.01))])
    url, stage = start_server()
    final = Script((VOCABULARY.tokens(FINAL),))
    stage.backend.script = lambda _: next(refusals, final)
    with anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=2, timeout=20) as client:
        answer = client.messages.create(**ask())
    assert answer.stop_reason == "end_turn"
    assert len(stage.backend.requests) == 2


def test_an_error_within_a_stream_is_raised(
    start_server: StartServer, anthropic_client: Client
) -> None:
    begun = VOCABULARY.tokens("<|channel|>final<|message|>Os")
    script = Script((begun,), finish=FinishReason.ERROR, error=EngineError("It broke."))
    url, _ = start_server(script=script)
    with (
        anthropic_client(url).messages.stream(**ask()) as stream,
        pytest.raises(anthropic.APIStatusError, match="It broke") as caught,
    ):
        stream.until_done()
    assert caught.value.type == "api_error"


def test_closing_a_stream_stops_the_generation(
    start_server: StartServer, anthropic_client: Client
) -> None:
    begun = VOCABULARY.tokens("<|channel|>final<|message|>Os")
    url, stage = start_server(script=Script((begun, Gate())))
    with anthropic_client(url).messages.stream(**ask()) as stream:
        assert next(iter(stream.text_stream)) == "O"
    assert stage.backend.abandoned.wait(10)


def test_closing_an_old_completions_stream_stops_the_generation(start_server: StartServer) -> None:
    begun = VOCABULARY.tokens("<|channel|>final<|message|>Os")
    url, stage = start_server(script=Script((begun, Gate())))
    prompt = "\n\nHuman: Hi\n\nAssistant:"
    body = {"model": "gpt-oss-20b", "prompt": prompt, "max_tokens_to_sample": 9, "stream": True}
    headers = {"x-api-key": KEY}
    with httpx.stream("POST", url + "/v1/complete", json=body, headers=headers) as reply:
        assert any('"completion":"O"' in line for line in reply.iter_lines())
    assert stage.backend.abandoned.wait(10)


def test_silence_is_a_ping(start_server: StartServer) -> None:
    gate = Gate()
    steps = (Prefill(1, 2), gate, VOCABULARY.tokens(FINAL))
    url, _ = start_server(script=Script(steps), heartbeat_s=0.05)
    headers = {"x-api-key": KEY}
    with httpx.stream("POST", url + "/v1/messages", json=ask(stream=True), headers=headers) as got:
        text = ""
        for part in got.iter_text():
            text += part
            if "event: ping" in text:
                gate.open()
    assert rebuilt(events_of(text))["content"] == [{"type": "text", "text": "12 degrees."}]


def test_the_client_skips_pings(start_server: StartServer, anthropic_client: Client) -> None:
    gate = Gate()
    url, _ = start_server(
        script=Script((Prefill(1, 2), gate, VOCABULARY.tokens(FINAL))), heartbeat_s=0.05
    )
    with anthropic_client(url).messages.stream(**ask()) as stream:
        assert next(iter(stream)).type == "message_start"
        gate.open()
        assert stream.get_final_text() == "12 degrees."


def test_old_completions(start_server: StartServer, anthropic_client: Client) -> None:
    """The client no longer has them; what it had is what a raw request through it gives."""
    url, _ = start_server()
    body = {
        "model": "gpt-oss-20b",
        "prompt": "\n\nHuman: What is the capital of Norway?\n\nAssistant:",
        "max_tokens_to_sample": 256,
    }
    reply = anthropic_client(url).post("/v1/complete", body=body, cast_to=object)
    assert reply["completion"] == "Oslo."
