"""Random schedules: whatever is shared, preempted, aborted or failing, answers do not change.

`Driver` checks page conservation after every step, and `FakeModel` fails on any page that is
missing, stale or written by two.
"""

from __future__ import annotations

import random
from functools import cache

import pytest

from osslo.model.forward import PageKind
from osslo.types import FinishReason, GenerationRequest
from tests.engine.fakes import FakeModel
from tests.engine.helpers import Driver, expected_tokens, make_limits, make_request

EOS = (3, 4)
SEEDS = range(16)


def random_texts(rng: random.Random) -> list[list[int]]:
    longest = rng.choice([30, 190])
    return [[rng.randrange(50) for _ in range(rng.choice([20, longest]))] for _ in range(3)]


def random_request(rng: random.Random, name: str, texts: list[list[int]]) -> GenerationRequest:
    """A prompt that often begins like another one, cut anywhere."""
    base = rng.choice(texts)
    prompt = base[: rng.randrange(1, len(base) + 1)]
    prompt += [rng.randrange(50) for _ in range(rng.choice([0, 1, 5, 40]))]
    sampling: dict[str, object] = {"ignore_eos": rng.random() < 0.9}
    if rng.random() < 0.5:
        sampling.update(temperature=rng.choice([0.5, 1.0, 2.0]), seed=rng.randrange(100))
    if rng.random() < 0.3:
        sampling.update(frequency_penalty=0.5, repetition_penalty=1.1)
    if rng.random() < 0.1:
        sampling.update(stop_token_ids=(rng.randrange(50),))
    tenant = rng.choice(["", "", "red"])
    return make_request(
        name, prompt[:200], rng.choice([1, 20, 120, 160]), tenant=tenant, **sampling
    )


def random_driver(rng: random.Random) -> Driver:
    window = rng.choice([0, 1, 33, 40, 64, 600])
    model = FakeModel(sliding_window=window)
    pages = rng.choice([8, 9, 11, 14, 40])
    limits = make_limits(
        full_pages=pages,
        window_pages=pages if window == 600 else rng.choice([4, 8, 24, 40]),
        max_running=rng.choice([1, 4, 6, 8]),
        step_tokens=rng.choice([8, 33, 64, 256]),
        mixed_prefill_tokens=rng.choice([1, 7, 32]),
        prefill_turn_tokens=rng.choice([16, 100]),
        prefix_cache=rng.random() < 0.8,
        eos_token_ids=EOS,
    )
    return Driver(model, limits)


def random_event(rng: random.Random, driver: Driver, requests: list[GenerationRequest]) -> None:
    roll = rng.random()
    if roll < 0.5:
        request = requests[len(driver.heard)] if len(driver.heard) < len(requests) else None
        if request is not None:
            driver.add(request)
    elif roll < 0.51 and driver.living:
        driver.abort(rng.choice(sorted(driver.living)))
    else:
        driver.step()


Outcome = tuple[Driver, list[GenerationRequest]]


def run_schedule(seed: int, *, fail_share: float = 0.0) -> Outcome:
    """Twenty requests that arrive, run, are aborted and (now and then) fail at random."""
    rng = random.Random(seed)
    driver = random_driver(rng)
    texts = random_texts(rng)
    requests = [random_request(rng, f"r{i}", texts) for i in range(20)]
    requests = [request for request in requests if len(request.prompt) < driver.context]
    while len(driver.heard) < len(requests):
        driver.model.fail_next = int(rng.random() < fail_share)
        random_event(rng, driver, requests)
    driver.model.fail_next = 0
    driver.finish()
    return driver, requests


@cache
def sound_schedule(seed: int) -> Outcome:
    return run_schedule(seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_answers_equal_the_sequential_run(seed: int) -> None:
    driver, requests = sound_schedule(seed)
    for request in requests:
        heard = driver.heard[request.request_id]
        wanted = expected_tokens(driver.model, request, eos=EOS, context=driver.context)
        if heard.reason is FinishReason.ABORT:
            assert heard.tokens == wanted[: len(heard.tokens)]
            continue
        stops = set(request.sampling.stop_token_ids)
        stops |= set() if request.sampling.ignore_eos else set(EOS)
        assert heard.tokens == wanted
        assert heard.reason is (FinishReason.STOP if wanted[-1] in stops else FinishReason.LENGTH)


def test_these_schedules_reach_preemption_hits_and_copies() -> None:
    """The random test is worth what it reaches."""
    drivers = [sound_schedule(seed)[0] for seed in SEEDS]
    assert sum(driver.runner.scheduler.preemptions for driver in drivers) > 10
    assert sum(driver.runner.counters.cached_tokens for driver in drivers) > 1000
    assert sum(driver.model.kv.copies for driver in drivers) > 50


@pytest.mark.parametrize("seed", range(5))
def test_failing_steps_end_what_ran_and_spare_what_waits(seed: int) -> None:
    driver, requests = run_schedule(seed, fail_share=0.05)
    reasons = set()
    for request in requests:
        heard = driver.heard[request.request_id]
        wanted = expected_tokens(driver.model, request, eos=EOS, context=driver.context)
        assert heard.tokens == wanted[: len(heard.tokens)]
        reasons.add(heard.reason)
    assert None not in reasons
    assert reasons - {FinishReason.ERROR}


def test_dropping_a_page_too_early_would_be_seen() -> None:
    """The oracle can fail: a page taken from under a sequence changes or stops it."""
    driver = Driver(FakeModel(), make_limits())
    request = make_request("a", range(40), 30)
    seq = driver.add(request)
    driver.step()
    driver.model.kv.tokens[PageKind.FULL][seq.full_pages[0], 5] += 1
    driver.finish()
    assert driver.heard["a"].tokens != expected_tokens(driver.model, request)
