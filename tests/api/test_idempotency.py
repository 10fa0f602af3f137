"""`Idempotency-Key`: the same answer for the same request, and nothing kept that should not be."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from osslo.api.replays import Entry, Recording, Replays
from osslo.errors import EngineError, OverloadedError
from osslo.types import FinishReason
from tests.api.conftest import ANSWER, Stage, ask, make_stage
from tests.scripted import ByteVocabulary, Gate, Script

URL = "/v1/chat/completions"
VOCABULARY = ByteVocabulary()
KEY = {"Idempotency-Key": "my-key-1"}


async def post(client: Any, headers: dict[str, str] | None = None, **fields: object) -> Any:
    return await client.post(URL, json=ask(**fields), headers=KEY if headers is None else headers)


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_same_request_gets_the_same_bytes(stage: Stage, streamed: bool) -> None:
    async with stage.client() as client:
        first = await post(client, stream=streamed)
        second = await post(client, stream=streamed)
    assert second.content == first.content
    assert second.headers["content-type"] == first.headers["content-type"]
    assert second.headers["x-osslo-model"] == "scripted-model"
    assert second.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    assert len(stage.backend.requests) == 1


async def test_without_a_key_or_with_another_every_request_runs(stage: Stage) -> None:
    async with stage.client() as client:
        await post(client, {})
        await post(client, {})
        await post(client, {"Idempotency-Key": "a"})
        await post(client, {"Idempotency-Key": "b"})
    assert len(stage.backend.requests) == 4


async def test_the_key_with_another_request_is_a_422(stage: Stage) -> None:
    async with stage.client() as client:
        await post(client)
        other = await post(client, temperature=0.5)
        elsewhere = await client.post(
            "/v1/completions", json={"model": "gpt-oss-20b", "prompt": "x"}, headers=KEY
        )
        again = await post(client)
    for response in (other, elsewhere):
        assert response.status_code == 422
        assert response.json()["error"]["code"] == "idempotency_key_reused"
        assert response.json()["error"]["param"] == "Idempotency-Key"
    assert again.status_code == 200


async def test_a_key_must_be_plain(stage: Stage) -> None:
    async with stage.client() as client:
        for key in ("", "a b", "x" * 256, "ø".encode()):
            response = await client.post(URL, json=ask(), headers={"Idempotency-Key": key})
            assert response.status_code == 400
            assert response.json()["error"]["code"] == "invalid_idempotency_key"


async def test_a_wrong_api_key_never_gets_a_kept_answer(stage: Stage) -> None:
    async with stage.client() as client:
        await post(client)
        refused = await post(client, KEY | {"authorization": "Bearer sk-wrong"})
    assert refused.status_code == 401


async def test_a_second_request_waits_for_the_first() -> None:
    gate = Gate()
    stage = make_stage(script=Script((gate, VOCABULARY.tokens(ANSWER))))
    async with stage.client() as client:
        first = asyncio.create_task(post(client))
        await asyncio.to_thread(gate.reached.wait, 10)
        others = [asyncio.create_task(post(client)) for _ in range(3)]
        conflicting = await post(client, temperature=0.5)
        gate.open()
        answers = [await task for task in (first, *others)]
    assert conflicting.status_code == 422
    assert len({answer.content for answer in answers}) == 1
    assert len(stage.backend.requests) == 1


async def test_whoever_waits_runs_itself_if_the_first_one_fails() -> None:
    gate = Gate()
    failing = Script((gate,), finish=FinishReason.ERROR, error=EngineError("broke"))
    scripts = [failing, Script((VOCABULARY.tokens(ANSWER),))]
    stage = make_stage()
    stage.backend.script = lambda _: scripts.pop(0)
    async with stage.client() as client:
        first = asyncio.create_task(post(client))
        await asyncio.to_thread(gate.reached.wait, 10)
        second = asyncio.create_task(post(client))
        gate.open()
        assert (await first).status_code == 500
        assert (await second).status_code == 200


async def test_failures_are_not_kept_also_within_a_stream() -> None:
    broken = Script(
        (VOCABULARY.tokens("<|channel|>final<|message|>Os"),),
        finish=FinishReason.ERROR,
        error=EngineError("broke"),
    )
    good = Script((VOCABULARY.tokens(ANSWER),))
    for streamed in (False, True):
        scripts = [broken, Script(refusal=OverloadedError("full")), good]
        stage = make_stage()
        stage.backend.script = partial(_next, scripts)
        async with stage.client() as client:
            await post(client, stream=streamed)
            assert (await post(client, stream=streamed)).status_code == 503
            assert (await post(client, stream=streamed)).status_code == 200
        assert scripts == []


async def test_a_refused_request_can_be_mended_under_the_same_key(stage: Stage) -> None:
    async with stage.client() as client:
        assert (await post(client, temperature=9)).status_code == 400
        assert (await post(client)).status_code == 200


def _next(scripts: list[Script], _: object) -> Script:
    return scripts.pop(0)


def _recording(size: int, *, status: int = 200) -> Recording:
    recording = Recording()
    recording.note({"type": "http.response.start", "status": status, "headers": []})
    recording.note({"type": "http.response.body", "body": b"x" * size})
    return recording


def _kept(replays: Replays, name: bytes, recording: Recording) -> Entry:
    entry = replays.claim(name, b"")
    replays.settle(entry, recording)
    return entry


def test_answers_are_kept_for_a_time() -> None:
    now = [0.0]
    replays = Replays(ttl_s=10, max_bytes=10**6, clock=lambda: now[0])
    _kept(replays, b"a", _recording(10))
    now[0] = 5
    _kept(replays, b"b", _recording(10))
    now[0] = 11
    assert replays.find(b"a") is None
    assert replays.find(b"b") is not None
    now[0] = 16
    assert replays.find(b"b") is None
    assert replays.size_bytes == 0


def test_answers_are_kept_up_to_so_many_bytes() -> None:
    replays = Replays(ttl_s=10, max_bytes=40_000)
    for index in range(100):
        _kept(replays, b"%d" % index, _recording(4000))
        assert replays.size_bytes <= 40_000
    assert replays.find(b"0") is None
    assert replays.find(b"99") is not None
    _kept(replays, b"large", _recording(20_000))
    assert replays.find(b"large") is None
    assert replays.find(b"99") is not None


def test_with_no_memory_nothing_is_kept() -> None:
    replays = Replays(ttl_s=10, max_bytes=0)
    entry = _kept(replays, b"a", _recording(1))
    assert replays.find(b"a") is None
    assert entry.done.is_set()


def test_what_runs_is_never_forgotten() -> None:
    now = [0.0]
    replays = Replays(ttl_s=1, max_bytes=10**6, clock=lambda: now[0])
    running = replays.claim(b"a", b"")
    now[0] = 100
    assert replays.find(b"a") is running
