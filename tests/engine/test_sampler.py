"""The sampler against brute force: the whole distribution, sorted, edited and summed plainly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osslo.engine.sampler import (
    Sampler,
    Scratch,
    check_sampling,
    draw,
    logprob,
    nucleus,
    top_ids,
    uniform,
)
from osslo.errors import EngineError, RequestError
from osslo.types import SamplingParams


def params(**changes: object) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 1, **changes})


def noise(size: int, seed: int = 0, scale: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, size).astype(np.float32)


def brute_distribution(row: np.ndarray, wanted: SamplingParams) -> dict[int, float]:
    """Token -> probability by the definitions, over a fully sorted row."""
    weights = np.exp((row.astype(np.float64) - row.max()) / wanted.temperature)
    ranked = sorted(range(len(row)), key=lambda token: (-row[token], token))
    if wanted.top_k:
        ranked = ranked[: wanted.top_k]
    total = sum(weights[token] for token in ranked)
    kept, mass = [], 0.0
    for token in ranked:
        kept.append(token)
        mass += weights[token] / total
        if mass >= wanted.top_p:
            break
    kept = [token for token in kept if weights[token] >= wanted.min_p]
    total = sum(weights[token] for token in kept)
    return {token: weights[token] / total for token in kept}


def drawn_distribution(row: np.ndarray, wanted: SamplingParams, steps: int) -> dict[int, float]:
    """Token -> share of evenly spaced quantiles at which it is drawn."""
    tokens = [draw(row, wanted, (i + 0.5) / steps, Scratch()) for i in range(steps)]
    return {token: tokens.count(token) / steps for token in set(tokens)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.3},
        {"temperature": 2.5},
        {"top_k": 1},
        {"top_k": 7},
        {"top_p": 0.01},
        {"top_p": 0.8},
        {"top_p": 0.999},
        {"min_p": 0.2},
        {"min_p": 1.0},
        {"top_k": 20, "top_p": 0.7, "min_p": 0.05, "temperature": 1.3},
    ],
)
@pytest.mark.parametrize("size", [1, 5, 300, 900])
def test_draws_follow_the_distribution(changes: dict[str, float], size: int) -> None:
    row, wanted = noise(size, size), params(**changes)
    brute = brute_distribution(row, wanted)
    drawn = drawn_distribution(row, wanted, 2000)
    assert set(drawn) <= set(brute)
    for token, probability in brute.items():
        assert drawn.get(token, 0.0) == pytest.approx(probability, abs=2e-3)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.sampled_from([-3.0, 0.0, 1.0, 1.5, 4.0, -math.inf]), min_size=1, max_size=40
    ),
    count=st.integers(0, 50),
)
def test_top_ids_equals_a_stable_sort(values: list[float], count: int) -> None:
    row = np.array(values, dtype=np.float32)
    ranked = sorted(range(len(row)), key=lambda token: (-row[token], token))
    assert top_ids(row, count).tolist() == ranked[:count]


@pytest.mark.parametrize("spread", [0.0, 0.3, 2.0, 4.0])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.999, 1.0])
def test_the_nucleus_is_that_of_the_sorted_row(spread: float, share: float) -> None:
    row = np.random.default_rng(3).normal(0, spread, 20_000).astype(np.float32)
    weights = np.exp(row - row.max())
    ranked = np.argsort(-weights, kind="stable")
    reached = np.cumsum(weights[ranked], dtype=np.float64)
    mass = share * float(reached[-1])
    wanted = ranked[: int(np.searchsorted(reached, mass)) + 1]
    found = nucleus(weights, mass)
    assert sorted(found.tolist()) == sorted(wanted.tolist())


def test_top_p_over_a_flat_row_widens_its_search() -> None:
    row = np.zeros(5000, dtype=np.float32)
    drawn = {draw(row, params(top_p=0.5), (i + 0.5) / 5000, Scratch()) for i in range(0, 5000, 7)}
    assert max(drawn) == 2499
    assert len(drawn) == 715


def test_temperature_zero_is_argmax() -> None:
    row = noise(1000)
    assert Sampler(params(temperature=0.0), (1,), 0).choose(row, 5).token == int(row.argmax())


def test_tiny_temperatures_do_not_overflow() -> None:
    row = noise(1000)
    assert draw(row, params(temperature=1e-30), 0.999, Scratch()) == int(row.argmax())


def test_penalties_and_bias_edit_as_defined() -> None:
    row = np.array([2.0, -1.0, 3.0, 2.9, 0.5], dtype=np.float32)
    wanted = params(
        temperature=0.0,
        repetition_penalty=2.0,
        presence_penalty=0.25,
        frequency_penalty=0.5,
        logit_bias=((4, 1.0), (4, 0.5)),
    )
    sampler = Sampler(wanted, prompt=(2, 2, 1), seed=0)
    for token in (0, 3, 3):
        sampler.observe(token)
    edited = sampler._edit(row, None)
    assert edited.tolist() == pytest.approx(
        [2.0 / 2 - 0.75, -1.0 * 2, 3.0 / 2, 2.9 / 2 - 1.25, 0.5 + 1.5]
    )
    assert sampler.choose(row, 0).token == 4
    assert row[0] == 2.0


def test_a_bias_of_minus_infinity_forbids() -> None:
    row = noise(50)
    best = int(row.argmax())
    sampler = Sampler(params(logit_bias=((best, -math.inf),)), (1,), 0)
    assert all(sampler.choose(row, position).token != best for position in range(300))


def test_logprobs_are_those_of_the_raw_row() -> None:
    row = noise(500)
    exact = row.astype(np.float64) - math.log(np.exp(row.astype(np.float64)).sum())
    sampler = Sampler(params(temperature=0.0, logit_bias=((7, 100.0),), logprobs=5), (1,), 0)
    choice = sampler.choose(row, 3)
    assert choice.token == 7
    assert choice.logprob is not None
    assert choice.logprob.logprob == pytest.approx(exact[7], abs=1e-5)
    best = np.argsort(-exact)[:5]
    assert [token for token, _ in choice.logprob.top] == best.tolist()
    assert [value for _, value in choice.logprob.top] == pytest.approx(exact[best], abs=1e-5)


def test_no_alternatives_when_none_are_asked_for() -> None:
    assert logprob(noise(50), 3, 0, Scratch()).top == ()


def test_a_seed_fixes_each_position_and_nothing_else_does() -> None:
    row = noise(300)
    first, second = (Sampler(params(seed=7), (1,), 7) for _ in range(2))
    ahead = [first.choose(row, position).token for position in range(40)]
    backwards = [second.choose(row, position).token for position in reversed(range(40))]
    assert ahead == backwards[::-1]
    assert len(set(ahead)) > 5
    other = Sampler(params(seed=8), (1,), 8)
    assert [other.choose(row, position).token for position in range(40)] != ahead


@pytest.mark.parametrize("seed", [0, -1, 2**64 - 1, 2**200])
def test_any_integer_is_a_seed(seed: int) -> None:
    assert 0 <= Sampler(params(), (1,), seed).choose(noise(50), 0).token < 50


def test_uniform_numbers_are_uniform() -> None:
    numbers = np.array([uniform(5, position) for position in range(4000)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert np.histogram(numbers, 10, (0, 1))[0].min() > 330


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_broken_numbers_are_an_error(value: float, temperature: float) -> None:
    row = noise(100)
    row[50] = value
    with pytest.raises(EngineError, match="logit"):
        Sampler(params(temperature=temperature), (1,), 0).choose(row, 0)


def test_nothing_allowed_is_an_error() -> None:
    row = np.full(100, -np.inf, dtype=np.float32)
    with pytest.raises(EngineError, match="nothing may follow"):
        Sampler(params(), (1,), 0).choose(row, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", -1),
        ("prompt_logprobs", -1),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("min_p", 1.5),
        ("presence_penalty", math.inf),
        ("frequency_penalty", math.nan),
        ("repetition_penalty", 0.0),
        ("logprobs", -1),
        ("logit_bias", ((100, 1.0),)),
        ("logit_bias", ((1, math.inf),)),
    ],
)
def test_senseless_parameters_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(RequestError) as refused:
        check_sampling(params(**{name: value}), vocab_size=100)
    assert refused.value.param == name
    assert name in refused.value.message
