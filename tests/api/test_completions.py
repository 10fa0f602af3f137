"""The legacy completions adapter, over ASGI."""

from __future__ import annotations

import json
from typing import Any

import pytest

from osslo.api.completions.schema import Completion, CompletionChunk
from osslo.api.shapes import ErrorReply
from osslo.errors import EngineError, OverloadedError, RateLimitError
from osslo.settings import LimitSettings
from osslo.types import FinishReason, GenerationRequest
from tests.api.conftest import Stage, make_stage
from tests.metering import NotingMeter
from tests.scripted import ByteVocabulary, Prefill, Script

URL = "/v1/completions"
VOCABULARY = ByteVocabulary()


@pytest.fixture
def stage() -> Stage:
    return make_stage(" upon a time<|return|>")


async def post(stage: Stage, **fields: object) -> Any:
    body = {"model": "gpt-oss-20b", "prompt": "Once", "max_tokens": 100} | fields
    async with stage.client() as client:
        return await client.post(URL, json=body)


async def stream(stage: Stage, **fields: object) -> list[dict[str, Any]]:
    response = await post(stage, stream=True, **fields)
    assert response.status_code == 200, response.text
    lines = [line for line in response.text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


async def test_the_whole_answer_has_the_documented_shape(stage: Stage) -> None:
    response = await post(stage)
    reply = Completion.model_validate_json(response.text)
    assert reply.choices[0].text == " upon a time"
    assert reply.choices[0].finish_reason == "stop"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (4, 13)
    assert reply.model == response.headers["x-osslo-model"] == "scripted-model"
    assert response.headers["server-timing"].startswith("queued;dur=100.0, prefill;dur=")
    assert VOCABULARY.text(stage.backend.requests[0].prompt) == "Once"


async def test_the_stream_says_the_same(stage: Stage) -> None:
    chunks = await stream(stage, stream_options={"include_usage": True})
    parsed = [CompletionChunk.model_validate(chunk) for chunk in chunks]
    assert "".join(c.text for chunk in parsed for c in chunk.choices) == " upon a time"
    assert parsed[-2].choices[0].finish_reason == "stop"
    whole = Completion.model_validate_json((await post(stage)).text)
    assert parsed[-1].usage == whole.usage
    assert all("usage" not in chunk for chunk in await stream(stage))


async def test_sixteen_tokens_by_default_and_what_is_asked_for_otherwise(stage: Stage) -> None:
    await post(stage, max_tokens=None)
    assert stage.backend.requests[-1].sampling.max_tokens == 16
    reply = (await post(stage, max_tokens=3)).json()
    assert reply["choices"][0] == {
        "index": 0,
        "text": " up",
        "logprobs": None,
        "finish_reason": "length",
    }


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([97, 98], ["ab"]),
        ([[97], [98, 99]], ["a", "bc"]),
    ],
)
async def test_every_kind_of_prompt(stage: Stage, prompt: Any, texts: list[str]) -> None:
    reply = (await post(stage, prompt=prompt)).json()
    asked = sorted(VOCABULARY.text(request.prompt) for request in stage.backend.requests)
    assert asked == texts
    assert [choice["index"] for choice in reply["choices"]] == list(range(len(texts)))
    assert reply["usage"]["prompt_tokens"] == sum(len(text) for text in texts)


async def test_text_of_a_prompt_never_becomes_a_special_token(stage: Stage) -> None:
    await post(stage, prompt="<|start|>system")
    assert stage.backend.requests[0].prompt == tuple(b"<|start|>system")


async def test_choices_come_by_prompt_with_seeds_of_their_own(stage: Stage) -> None:
    reply = (await post(stage, prompt=["a", "b"], n=2, seed=7)).json()
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    seeds = sorted(
        (VOCABULARY.text(request.prompt), request.sampling.seed)
        for request in stage.backend.requests
    )
    assert seeds == [("a", 7), ("a", 8), ("b", 7), ("b", 8)]
    assert len({request.request_id for request in stage.backend.requests}) == 4
    assert reply["usage"]["prompt_tokens"] == 2
    assert reply["usage"]["completion_tokens"] == 4 * 13


async def test_best_of_gives_the_likeliest() -> None:
    stage = make_stage()

    def script(request: GenerationRequest) -> Script:
        text, logprob = {1: ("one", -0.7), 2: ("two", -0.9), 3: ("three", -0.2)}[
            request.sampling.seed or 0
        ]
        return Script((VOCABULARY.tokens(text),), logprob=logprob)

    stage.backend.script = script
    reply = (await post(stage, best_of=3, n=2, seed=1)).json()
    assert [choice["text"] for choice in reply["choices"]] == ["three", "one"]
    assert reply["choices"][0]["logprobs"] is None
    assert all(request.sampling.logprobs == 0 for request in stage.backend.requests)
    assert reply["usage"]["completion_tokens"] == len("onetwothree")


async def test_logprobs_are_parallel_lists(stage: Stage) -> None:
    logprobs = (await post(stage, logprobs=2, max_tokens=3)).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == [" ", "u", "p"]
    assert logprobs["token_logprobs"] == [-0.5, -0.5, -0.5]
    assert logprobs["text_offset"] == [0, 1, 2]
    assert logprobs["top_logprobs"][1] == {"u": -0.5}
    chunks = await stream(stage, logprobs=2, max_tokens=3)
    streamed = [
        token
        for chunk in chunks
        for token in (chunk["choices"][0]["logprobs"] or {"tokens": []})["tokens"]
    ]
    assert streamed == logprobs["tokens"]


async def test_a_token_that_is_no_character_is_named_by_its_bytes() -> None:
    stage = make_stage(script=Script(((0xC3, 0xA6),)))
    choice = (await post(stage, logprobs=0)).json()["choices"][0]
    assert choice["text"] == "æ"
    assert choice["logprobs"]["tokens"] == ["bytes:\\xc3", "bytes:\\xa6"]
    assert choice["logprobs"]["top_logprobs"] is None


async def test_echo_gives_the_prompt_first(stage: Stage) -> None:
    assert (await post(stage, echo=True)).json()["choices"][0]["text"] == "Once upon a time"
    chunks = await stream(stage, echo=True)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Once upon a time"


async def test_stop_strings_end_the_text(stage: Stage) -> None:
    for stop in (" a", [" a", "x"]):
        choice = (await post(stage, stop=stop)).json()["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == (" upon", "stop")


async def test_guided_formats_bind_the_text(stage: Stage) -> None:
    await post(stage, guided_regex="a+")
    grammar = stage.backend.requests[-1].grammar
    assert grammar is not None
    assert grammar.lark.startswith("start: /")
    reply = (await post(stage, guided_json={"type": "array", "uniqueItems": True})).json()
    assert "uniqueItems" in reply["osslo"]["warnings"][0]
    await post(stage)
    assert stage.backend.requests[-1].grammar is None


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": None}, "prompt", "missing_required_parameter"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": [[]]}, "prompt", "invalid_value"),
        ({"prompt": [10**6]}, "prompt", "invalid_value"),
        ({"prompt": [-1]}, "prompt", "invalid_value"),
        ({"prompt": [1.5]}, "prompt[0]", "invalid_type"),
        ({"prompt": ["a", 1]}, "prompt[1]", "invalid_type"),
        ({"prompt": ["a"] * 129}, "prompt", "invalid_value"),
        ({"suffix": "x"}, "suffix", "unsupported_parameter"),
        ({"n": 9}, "n", "invalid_value"),
        ({"best_of": 9}, "best_of", "invalid_value"),
        ({"best_of": 1, "n": 2}, "best_of", "invalid_value"),
        ({"best_of": 2, "stream": True}, "best_of", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 10**6}, "max_tokens", "integer_above_max_value"),
        ({"max_tokens": 8190}, "prompt", "context_length_exceeded"),
        ({"logprobs": 21}, "logprobs", "invalid_type"),
        ({"stream_options": {}}, "stream_options", "invalid_value"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice", "invalid_value"),
        ({"guided_json": "{"}, "guided_json", "invalid_value"),
        ({"guided_regex": "("}, "guided_regex", "invalid_schema"),
        ({"guided_decoding_backend": "x"}, "guided_decoding_backend", "unsupported_parameter"),
        ({"messages": []}, "messages", "unknown_parameter"),
    ],
)
async def test_each_wrong_parameter_is_refused_by_name(
    stage: Stage, fields: dict[str, Any], param: str, code: str
) -> None:
    response = await post(stage, **fields)
    error = ErrorReply.model_validate_json(response.text).error
    assert (response.status_code, error.param, error.code) == (400, param, code)
    assert stage.backend.requests == []


async def test_failures_before_and_within_a_stream() -> None:
    full = make_stage(script=Script(refusal=OverloadedError("full", retry_after_s=2.5)))
    for streamed in (False, True):
        response = await post(full, stream=streamed)
        assert (response.status_code, response.headers["retry-after"]) == (503, "3")
    broken = make_stage(
        script=Script(
            (Prefill(1, 2), VOCABULARY.tokens("Os")),
            finish=FinishReason.ERROR,
            error=EngineError("The engine broke."),
        )
    )
    assert (await post(broken)).status_code == 500
    text = (await post(broken, stream=True)).text
    assert ": prefill 1/2\n\n" in text
    last = json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["message"] == "The engine broke."


async def test_usage_is_listed_under_the_protocol(stage: Stage) -> None:
    meter = NotingMeter()
    object.__setattr__(stage.services, "meter", meter)
    await post(stage)
    (charge,) = meter.charges
    assert (charge.bill.protocol, charge.max_tokens) == ("completions", 100)
    assert charge.settled[0].usage.completion_tokens == 13
    assert charge.counted[-1].completion_tokens == 13


async def test_a_charge_is_released_if_the_backend_refuses(stage: Stage) -> None:
    full = make_stage(script=Script(refusal=OverloadedError("full")))
    meter = NotingMeter()
    object.__setattr__(full.services, "meter", meter)
    assert (await post(full)).status_code == 503
    (charge,) = meter.charges
    assert (len(charge.released), charge.settled) == (1, [])
    broke = NotingMeter(RateLimitError("no money", code="insufficient_quota"))
    object.__setattr__(stage.services, "meter", broke)
    for streamed in (False, True):
        assert (await post(stage, stream=streamed)).status_code == 429
    assert stage.backend.requests == []


async def test_limits_count_candidates() -> None:
    stage = make_stage(limits=LimitSettings(max_choices=2))
    assert (await post(stage, n=3)).json()["error"]["param"] == "n"
