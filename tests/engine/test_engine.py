"""The engine with its thread: acceptance, streams, aborts, overload, drain, failure."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from tokenizers import Tokenizer

from osslo.engine.backend import Backend
from osslo.engine.constraint import ConstraintCompiler
from osslo.engine.engine import Engine
from osslo.errors import (
    ContextLengthError,
    EngineError,
    GrammarError,
    OverloadedError,
    RequestError,
    ShuttingDownError,
    UnsupportedError,
)
from osslo.model.tokenizer import Tokenizer as OssloTokenizer
from osslo.types import FinishReason, GenerationRequest, Grammar, SamplingParams, TokenDelta
from tests.engine.fakes import FakeModel
from tests.engine.helpers import Heard, expected_tokens, make_limits, make_request
from tests.engine.test_runner import prompt_of


class GatedModel(FakeModel):
    """Each step waits for a permit, so that a test decides how far the engine gets."""

    def __init__(self) -> None:
        super().__init__()
        self.permits = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)

    def forward(self, kv, step):
        self.entered.release()
        self.permits.acquire()
        return super().forward(kv, step)

    def allow(self, steps: int) -> None:
        self.permits.release(steps)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Let everything through, so that an engine can close."""
        self.permits.release(10**6)
        yield


@pytest.fixture
def gated() -> Iterator[tuple[GatedModel, Engine]]:
    model = GatedModel()
    engine = Engine(model, make_limits(max_running=2, max_waiting=2))
    yield model, engine
    with model.opened():
        engine.close_blocking()


async def collect(engine: Engine, request: GenerationRequest) -> Heard:
    heard = Heard()
    async for event in engine.generate(request):
        heard.hear(event)
    assert heard.end is not None
    return heard


def collect_blocking(engine: Engine, request: GenerationRequest) -> Heard:
    heard = Heard()
    for event in engine.generate_blocking(request):
        heard.hear(event)
    assert heard.end is not None
    return heard


def wait_idle(engine: Engine) -> None:
    with engine._changed:
        assert engine._changed.wait_for(lambda: not engine._jobs, timeout=10)


def wait_for_abort(engine: Engine) -> None:
    with engine._changed:
        assert engine._changed.wait_for(lambda: engine._to_abort, timeout=10)


async def test_many_streams_at_once_each_get_their_own_answer() -> None:
    model = FakeModel()
    with Engine(model, make_limits()) as engine:
        backend: Backend = engine
        assert backend.ready
        requests = [make_request(f"r{i}", prompt_of(5 + 20 * i, i), 30) for i in range(8)]
        everyone = await asyncio.gather(*(collect(engine, request) for request in requests))
        for request, heard in zip(requests, everyone, strict=True):
            assert heard.tokens == expected_tokens(model, request)
            assert heard.progress[-1].done_tokens == len(request.prompt)


def test_blocking_streams_give_the_same() -> None:
    model = FakeModel()
    with Engine(model, make_limits()) as engine:
        request = make_request("a", prompt_of(50), 20, temperature=1.0, seed=3)
        heard = collect_blocking(engine, request)
        assert heard.tokens == expected_tokens(model, request)
        assert heard.end is not None
        assert heard.end.timings is not None
        assert min(heard.end.timings.queued_s, heard.end.timings.decode_s) >= 0
        assert engine.stats().generated_tokens == 20


def test_without_a_seed_answers_differ() -> None:
    with Engine(FakeModel(), make_limits()) as engine:
        answers = {
            tuple(collect_blocking(engine, make_request(f"r{i}", [1], 20, temperature=2.0)).tokens)
            for i in range(4)
        }
    assert len(answers) == 4


@pytest.mark.parametrize(
    ("request_", "error", "word"),
    [
        (make_request("a", []), RequestError, "empty"),
        (make_request("a", [1] * 512), ContextLengthError, "512"),
        (make_request("a", [50]), RequestError, "49"),
        (make_request("a", [-1]), RequestError, "49"),
        (make_request("a", [1], top_p=0.0), RequestError, "top_p"),
        (
            GenerationRequest("a", (1,), SamplingParams(1), adapter="mine"),
            UnsupportedError,
            "mine",
        ),
        (
            GenerationRequest("a", (1,), SamplingParams(1), grammar=Grammar('start: "a"')),
            UnsupportedError,
            "grammar",
        ),
    ],
)
async def test_what_cannot_run_is_refused_before_the_first_event(
    request_: GenerationRequest, error: type[Exception], word: str
) -> None:
    with Engine(FakeModel(), make_limits()) as engine:
        with pytest.raises(error, match=word):
            await anext(engine.generate(request_))
        with pytest.raises(error, match=word):
            next(engine.generate_blocking(request_))
        assert engine.stats().running + engine.stats().waiting == 0


async def test_a_prompt_beyond_the_pools_is_refused_up_front() -> None:
    with Engine(FakeModel(), make_limits(full_pages=3)) as engine:
        assert engine.max_context_tokens == 96
        with pytest.raises(ContextLengthError, match="96"):
            await anext(engine.generate(make_request("a", [1] * 96)))


async def test_grammars_are_compiled_before_acceptance(
    byte_tokenizer: Tokenizer, ends: tuple[int, int]
) -> None:
    compiler = ConstraintCompiler(OssloTokenizer.from_json(byte_tokenizer.to_str()), ends)
    limits = make_limits(eos_token_ids=ends)
    with Engine(FakeModel(vocab_size=300), limits, constraints=compiler) as engine:
        wrong = GenerationRequest("a", (1,), SamplingParams(5), grammar=Grammar("start: ("))
        with pytest.raises(GrammarError):
            await anext(engine.generate(wrong))
        right = GenerationRequest("b", (1,), SamplingParams(50), grammar=Grammar('start: "hello"'))
        heard = await collect(engine, right)
        assert byte_tokenizer.decode(heard.tokens) == "hello"


async def test_closing_a_stream_stops_it_within_a_step(gated: tuple[GatedModel, Engine]) -> None:
    model, engine = gated
    stream = engine.generate(make_request("a", [1, 2], 400))
    model.allow(3)
    seen = 0
    while seen < 3:
        event = await anext(stream)
        seen += isinstance(event, TokenDelta)
    await asyncio.to_thread(model.entered.acquire)
    steps = len(model.steps)
    await stream.aclose()
    model.allow(1)  # the step that was under way
    await asyncio.to_thread(wait_idle, engine)
    assert len(model.steps) <= steps + 1
    assert engine.stats().pages_used == 0
    engine._runner.check_integrity()


async def test_cancelling_the_reader_aborts(gated: tuple[GatedModel, Engine]) -> None:
    model, engine = gated
    task = asyncio.create_task(collect(engine, make_request("a", [1, 2], 400)))
    await asyncio.to_thread(model.entered.acquire)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    model.allow(1)
    await asyncio.to_thread(wait_idle, engine)
    assert engine.stats().pages_used == 0


async def test_abort_by_id_ends_the_stream_with_abort(gated: tuple[GatedModel, Engine]) -> None:
    model, engine = gated
    task = asyncio.create_task(collect(engine, make_request("a", [1, 2], 400)))
    await asyncio.to_thread(model.entered.acquire)
    engine.abort("unknown")
    engine.abort("a")
    model.allow(1)
    assert (await task).reason is FinishReason.ABORT


async def test_an_old_iterator_does_not_abort_a_new_request_of_the_same_id(
    gated: tuple[GatedModel, Engine],
) -> None:
    model, engine = gated
    old = engine.generate(make_request("a", [1, 2], 1))
    model.allow(1)
    await anext(old)
    await asyncio.to_thread(wait_idle, engine)
    task = asyncio.create_task(collect(engine, make_request("a", [1, 2], 3)))
    model.allow(1)
    await asyncio.to_thread(model.entered.acquire)
    await old.aclose()
    model.allow(5)
    assert (await task).reason is FinishReason.LENGTH


async def test_overload_is_refused_with_a_time_to_come_back(
    gated: tuple[GatedModel, Engine],
) -> None:
    model, engine = gated
    tasks = [
        asyncio.create_task(collect(engine, make_request(f"r{i}", [1, i], 5))) for i in range(4)
    ]
    await asyncio.to_thread(model.entered.acquire)
    assert engine.stats().running + engine.stats().waiting == 4
    with pytest.raises(OverloadedError) as refused:
        await anext(engine.generate(make_request("more", [1])))
    assert refused.value.retry_after_s is not None
    assert refused.value.retry_after_s >= 1
    model.allow(1000)
    assert [heard.reason for heard in await asyncio.gather(*tasks)] == [FinishReason.LENGTH] * 4
    assert (await collect(engine, make_request("more", [1]))).reason is FinishReason.LENGTH


async def test_one_tenant_can_be_kept_from_filling_the_queue() -> None:
    model = GatedModel()
    engine = Engine(model, make_limits(max_per_tenant=1))
    task = asyncio.create_task(collect(engine, make_request("a", [1], tenant="x")))
    await asyncio.to_thread(model.entered.acquire)
    with pytest.raises(OverloadedError, match="yours"):
        await anext(engine.generate(make_request("b", [1], tenant="x")))
    other = asyncio.create_task(collect(engine, make_request("c", [1], tenant="y")))
    with model.opened():
        await task
        await other
        await engine.close()


async def test_an_id_that_is_running_is_refused(gated: tuple[GatedModel, Engine]) -> None:
    model, engine = gated
    task = asyncio.create_task(collect(engine, make_request("a", [1], 2)))
    await asyncio.to_thread(model.entered.acquire)
    with pytest.raises(RequestError, match="already running"):
        await anext(engine.generate(make_request("a", [1])))
    model.allow(10)
    await task


async def test_drain_lets_requests_finish_and_takes_no_more() -> None:
    with Engine(FakeModel(), make_limits()) as engine:
        tasks = [
            asyncio.create_task(collect(engine, make_request(f"r{i}", [1, i], 40)))
            for i in range(12)
        ]
        await asyncio.sleep(0)
        await engine.drain(30)
        assert not engine.ready
        assert {heard.reason for heard in await asyncio.gather(*tasks)} == {FinishReason.LENGTH}
        with pytest.raises(ShuttingDownError):
            await anext(engine.generate(make_request("late", [1])))


async def test_drain_aborts_what_is_left_after_its_time(gated: tuple[GatedModel, Engine]) -> None:
    model, engine = gated
    task = asyncio.create_task(collect(engine, make_request("a", [1], 400)))
    await asyncio.to_thread(model.entered.acquire)
    draining = asyncio.create_task(engine.drain(0.0))
    await asyncio.to_thread(wait_for_abort, engine)
    model.allow(1)
    await draining
    assert (await task).reason is FinishReason.ABORT


async def test_closing_ends_everything_and_can_be_repeated() -> None:
    engine = Engine(FakeModel(), make_limits())
    task = asyncio.create_task(collect(engine, make_request("a", [1], 500)))
    await asyncio.sleep(0)
    await engine.close()
    await engine.close()
    assert (await task).reason in {FinishReason.ABORT, FinishReason.LENGTH}
    assert not engine._thread.is_alive()


async def test_a_failed_step_is_an_error_and_the_engine_goes_on() -> None:
    model = FakeModel()
    with Engine(model, make_limits()) as engine:
        model.fail_next = 1
        heard = await collect(engine, make_request("a", [1, 2], 5))
        assert heard.reason is FinishReason.ERROR
        assert engine.ready
        request = make_request("b", [1, 2], 5)
        assert (await collect(engine, request)).tokens == expected_tokens(model, request)


async def test_an_engine_that_cannot_go_on_says_so() -> None:
    model = FakeModel()
    with Engine(model, make_limits(max_running=1)) as engine:
        model.fail_next = 100
        tasks = [collect(engine, make_request(f"r{i}", [1, 2], 5)) for i in range(6)]
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Heard):
                assert outcome.reason is FinishReason.ERROR
            else:
                assert isinstance(outcome, EngineError)
        assert not engine.ready
        with pytest.raises(EngineError, match="stopped"):
            await anext(engine.generate(make_request("late", [1])))


async def test_a_bug_outside_the_model_still_ends_every_stream() -> None:
    with Engine(FakeModel(), make_limits()) as engine:
        engine._runner.scheduler.schedule = None  # type: ignore[assignment,method-assign]
        heard = await collect(engine, make_request("a", [1, 2], 5))
        assert heard.reason is FinishReason.ERROR
        assert not engine.ready


def test_a_closed_event_loop_does_not_stop_the_engine() -> None:
    model = GatedModel()
    engine = Engine(model, make_limits())

    async def leave() -> None:
        stream = engine.generate(make_request("a", [1], 5))
        task = asyncio.ensure_future(anext(stream))
        await asyncio.to_thread(model.entered.acquire)
        task.cancel()

    asyncio.run(leave())
    with model.opened():
        request = make_request("b", [1, 2], 5)
        assert collect_blocking(engine, request).tokens == expected_tokens(model, request)
        engine.close_blocking()


def test_score_gives_the_logits_of_every_position_beside_other_work() -> None:
    model = FakeModel()
    text = prompt_of(200)
    wanted = np.array([model.logits_after(text[: i + 1]) for i in range(200)])
    with Engine(model, make_limits()) as engine:
        other = engine.generate_blocking(make_request("other", [1], 300))
        next(other)
        assert np.array_equal(engine.score(text), wanted)
        assert np.array_equal(engine.score(text), wanted)
        other.close()
        assert engine.stats().pages_total == 128


def test_score_takes_a_full_context_and_refuses_more() -> None:
    with Engine(FakeModel(max_context_tokens=64), make_limits()) as engine:
        assert engine.score([1] * 64).shape == (64, 50)
        with pytest.raises(ContextLengthError):
            engine.score([1] * 65)
        with pytest.raises(RequestError):
            engine.score([])


def test_a_failed_score_raises() -> None:
    model = FakeModel()
    with Engine(model, make_limits()) as engine:
        model.fail_next = 1
        with pytest.raises(EngineError, match="told to fail"):
            engine.score([1, 2, 3])
