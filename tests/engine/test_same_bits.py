"""The promise of equal bits, through the serving path, on the native model.

Random weights with windows, top-k routing and YaRN. A request is compared by its tokens and by the
exact floats of its log-probabilities: alone, beside others, chunked otherwise, on one thread or
two, after prefix hits in the middle of a page, and after preemptions.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from osslo.engine.engine import Engine
from osslo.engine.limits import EngineLimits
from osslo.model.checkpoints import open_checkpoint
from osslo.model.model import Model
from osslo.model.pack import pack
from osslo.model.presets import PRESETS
from osslo.model.synth import random_checkpoint
from osslo.types import GenerationRequest, SamplingParams, TokenDelta, TokenLogprob

Outcome = tuple[list[int], list[TokenLogprob], int]


@pytest.fixture(scope="module", params=["tiny-odd", "tiny-128-experts"])
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    source = folder / "model"
    random_checkpoint(source, PRESETS[request.param], 3, experts="mxfp4")
    return pack(open_checkpoint(source), folder / "model.osslo", precision="default")


@pytest.fixture(scope="module")
def model(packed: Path) -> Model:
    return Model.load(packed, threads=1)


def prompt_of(model: Model, length: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(0, model.vocab_size, length).tolist())


def request_of(name: str, prompt: tuple[int, ...], count: int = 24) -> GenerationRequest:
    params = SamplingParams(max_tokens=count, temperature=1.0, top_p=0.95, seed=11, logprobs=3)
    return GenerationRequest(name, prompt, params)


def limits_of(model: Model, **changes: object) -> EngineLimits:
    limits = EngineLimits.for_model(model, context_tokens=512, kv_tokens=2048, step_tokens=96)
    return replace(limits, **changes)


def run(engine: Engine, *requests: GenerationRequest) -> dict[str, Outcome]:
    """Submit all, one after the other without a pause, and read them to their ends."""

    async def read(request: GenerationRequest) -> list[TokenDelta]:
        return [event async for event in engine.generate(request) if isinstance(event, TokenDelta)]

    async def read_all() -> list[list[TokenDelta]]:
        return await asyncio.gather(*map(read, requests))

    outcomes = {}
    for request, deltas in zip(requests, asyncio.run(read_all()), strict=True):
        tokens = [token for delta in deltas for token in delta.tokens]
        logprobs = [entry for delta in deltas for entry in delta.logprobs]
        assert deltas[-1].error is None
        assert deltas[-1].usage is not None
        outcomes[request.request_id] = tokens, logprobs, deltas[-1].usage.cached_tokens
    return outcomes


@pytest.fixture(scope="module")
def alone(model: Model) -> Outcome:
    """150 tokens of prompt: beyond the window, not aligned to a page."""
    with Engine(model, limits_of(model, prefix_cache=False)) as engine:
        return run(engine, request_of("a", prompt_of(model, 150)))["a"]


def test_beside_others(model: Model, alone: Outcome) -> None:
    with Engine(model, limits_of(model)) as engine:
        others = [request_of(f"o{i}", prompt_of(model, 20 + 45 * i, i + 1), 40) for i in range(4)]
        together = run(engine, *others[:2], request_of("a", prompt_of(model, 150)), *others[2:])
    assert together["a"][:2] == alone[:2]


@pytest.mark.parametrize("step_tokens", [8, 37, 512])
def test_chunked_otherwise(model: Model, alone: Outcome, step_tokens: int) -> None:
    with Engine(model, limits_of(model, step_tokens=step_tokens)) as engine:
        outcome = run(engine, request_of("a", prompt_of(model, 150)))["a"]
    assert outcome[:2] == alone[:2]


def test_on_two_threads(packed: Path, alone: Outcome) -> None:
    model = Model.load(packed, threads=2)
    with Engine(model, limits_of(model)) as engine:
        assert run(engine, request_of("a", prompt_of(model, 150)))["a"][:2] == alone[:2]


@pytest.mark.parametrize("shared", [33, 77, 149])
def test_after_a_prefix_hit_inside_a_page(model: Model, alone: Outcome, shared: int) -> None:
    prompt = prompt_of(model, 150)
    with Engine(model, limits_of(model)) as engine:
        other = prompt[:shared] + prompt_of(model, 60, 9)
        run(engine, request_of("other", other))
        outcome = run(engine, request_of("a", prompt))["a"]
    assert outcome[2] >= shared
    assert outcome[:2] == alone[:2]


def test_after_a_hit_on_its_own_answer(model: Model, alone: Outcome) -> None:
    prompt = prompt_of(model, 150)
    with Engine(model, limits_of(model)) as engine:
        for _ in range(2):
            outcome = run(engine, request_of("a", prompt))["a"]
    assert outcome[2] == 149
    assert outcome[:2] == alone[:2]


def test_after_preemptions(model: Model) -> None:
    requests = [request_of(f"r{i}", prompt_of(model, 40, i), 240) for i in range(4)]
    with Engine(model, limits_of(model, prefix_cache=False)) as engine:
        calm = {r.request_id: run(engine, r)[r.request_id] for r in requests}
    with Engine(model, limits_of(model, full_pages=9, prefix_cache=False)) as engine:
        crowded = run(engine, *requests)
        assert engine.stats().extra["preemptions"] > 0
    assert crowded == calm


def test_scores_are_the_logits_that_sampling_sees(model: Model, alone: Outcome) -> None:
    tokens, logprobs, _ = alone
    prompt = prompt_of(model, 150)
    with Engine(model, limits_of(model)) as engine:
        logits = engine.score([*prompt, *tokens])
    for index, entry in enumerate(logprobs):
        row = logits[149 + index].astype(np.float64)
        exact = row - row.max() - np.log(np.exp(row - row.max()).sum())
        assert entry.logprob == pytest.approx(exact[entry.token], abs=1e-5)
        for token, value in entry.top:
            assert value == pytest.approx(exact[token], abs=1e-5)
