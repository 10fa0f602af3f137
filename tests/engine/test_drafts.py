"""Guessed tokens change nothing but the number of steps, and only while they pay."""

from __future__ import annotations

import random
from itertools import count

import numpy as np
import pytest

from osslo.engine.constraint import ConstraintCompiler
from osslo.engine.drafts import Pace, look_up
from osslo.engine.engine import Engine
from osslo.model.model import Model
from osslo.types import Grammar
from tests.engine.fakes import FakeModel
from tests.engine.helpers import Driver, expected_tokens, make_limits, make_request
from tests.engine.test_constraint import VOCAB, compiler
from tests.engine.test_same_bits import limits_of, model, packed, prompt_of, request_of, run

__all__ = ["compiler", "model", "packed"]  # fixtures


def looked_up(text: list[int], most: int = 4) -> list[int]:
    return look_up(np.array(text, dtype=np.int32), most).tolist()


def test_what_followed_the_last_time_is_guessed() -> None:
    assert looked_up([1, 2, 3, 4, 5, 6, 7, 1, 2, 3]) == [4, 5, 6, 7]
    assert looked_up([1, 2, 3, 9, 1, 2, 3, 8, 0, 1, 2, 3]) == [8, 0, 1, 2]  # the newest
    assert looked_up([1, 2, 3, 4, 1, 2, 3], 2) == [4, 1]
    assert looked_up([5, 5, 5, 5]) == [5, 5, 5, 5]
    assert looked_up([1, 2, 3, 1, 2, 3, 1], 7) == [2, 3, 1, 2, 3, 1, 2]
    assert looked_up([1, 2, 3, 4, 2, 3]) == []
    assert looked_up([1, 2, 3, 1, 2, 3], 0) == []
    for size in range(4):
        assert looked_up([7] * size) == []


def test_guesses_agree_with_a_search_by_hand() -> None:
    rng = random.Random(2)
    for _ in range(300):
        text = rng.choices([0, 1], k=rng.randrange(3, 20))
        found = [i for i in range(len(text) - 3) if text[i : i + 3] == text[-3:]]
        after = text[found[-1] + 3 :] * 4 if found else []
        assert looked_up(text) == after[:4]


def drafting_driver(model: FakeModel, **limits: object) -> Driver:
    ticks = count()
    return Driver(model, make_limits(draft_tokens=8, **limits), clock=lambda: float(next(ticks)))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("window", [0, 33, 40])
def test_answers_are_the_same_in_any_company(seed: int, window: int) -> None:
    """Two tokens: half of the guesses are right."""
    rng = random.Random(seed)
    fake = FakeModel(vocab_size=rng.choice([2, 3]), sliding_window=window)
    driver = drafting_driver(fake, full_pages=rng.choice([17, 30, 64]), window_pages=30)
    requests = [
        make_request(
            f"r{i}",
            [rng.randrange(2) for _ in range(rng.randrange(1, 100))],
            rng.randrange(1, 250),
            temperature=rng.choice([0.0, 1.0]),
            seed=i,
            frequency_penalty=rng.choice([0.0, 0.1]),
            stop_token_ids=rng.choice([(), (2,)]) if fake.vocab_size == 3 else (),
            logprobs=rng.choice([None, 1]),
        )
        for i in range(6)
    ]
    for request in requests:
        driver.add(request)
        for _ in range(rng.randrange(20)):
            driver.step()
    driver.finish()
    for request in requests:
        heard = driver.heard[request.request_id]
        assert heard.tokens == expected_tokens(fake, request)
        if request.sampling.logprobs is not None:
            assert [entry.token for entry in heard.logprobs] == heard.tokens
    counters = driver.runner.counters
    assert 0 < counters.accepted_tokens < counters.draft_tokens


def test_right_guesses_save_steps() -> None:
    fake = FakeModel(vocab_size=1)  # always right
    driver = drafting_driver(fake)
    driver.run(make_request("a", [0] * 10, 400))
    assert driver.runner.counters.generated_tokens == 400
    assert driver.runner.counters.steps < 120


def test_tenants_pay_for_what_was_guessed() -> None:
    served = []
    for drafts in (0, 8):
        fake = FakeModel(vocab_size=1)
        ticks = count()
        limits = make_limits(draft_tokens=drafts)
        driver = Driver(fake, limits, clock=lambda ticks=ticks: float(next(ticks)))
        seq = driver.add(make_request("a", [0] * 10, 300))
        while seq.length < 250:
            driver.step()
        clock = driver.runner.scheduler._clock
        served.append(clock.served("") - 4 * seq.length)
    assert abs(served[1] - served[0]) <= 4


def test_off_it_guesses_nothing() -> None:
    driver = Driver(FakeModel(vocab_size=1), make_limits())
    driver.run(make_request("a", [0] * 10, 100))
    assert driver.runner.counters.draft_tokens == 0


def steps_with_drafts(pace: Pace, steps: int, *, cost: float, gain: int, company: int = 1) -> int:
    """Run so many steps in which drafts cost `cost` times a step and bring `gain` tokens."""
    drafted = 0
    for _ in range(steps):
        wanted = pace.wants_drafts(company)
        drafted += wanted
        seconds = cost if wanted else 1.0
        pace.note(company, drafted=wanted, tokens=gain if wanted else 1, seconds=seconds)
    return drafted


def test_drafts_go_on_while_they_pay_and_rest_while_they_do_not() -> None:
    pace = Pace()
    assert steps_with_drafts(pace, 1000, cost=2.0, gain=3) > 950
    assert steps_with_drafts(pace, 1000, cost=2.0, gain=1) < 30
    assert steps_with_drafts(pace, 2000, cost=2.0, gain=1) < 8
    assert steps_with_drafts(pace, 8000, cost=1.2, gain=5) > 5000
    assert steps_with_drafts(pace, 1000, cost=2.0, gain=1, company=2) < 30  # by itself


def test_one_long_step_changes_nothing() -> None:
    pace = Pace()
    steps_with_drafts(pace, 100, cost=1.0, gain=2)
    pace.note(1, drafted=True, tokens=2, seconds=1000.0)
    assert steps_with_drafts(pace, 100, cost=1.0, gain=2) > 90


def test_steps_without_a_guess_do_not_use_up_a_trial() -> None:
    pace = Pace()
    steps_with_drafts(pace, 200, cost=2.0, gain=1)
    while not pace.wants_drafts(1):
        pace.note(1, drafted=False, tokens=1, seconds=1.0)
    for _ in range(50):
        pace.note(1, drafted=False, tokens=1, seconds=1.0)
        assert pace.wants_drafts(1)


def test_the_same_bits_on_the_native_model(model: Model) -> None:
    """Text that repeats itself, several at once, with log-probabilities to the last bit."""
    requests = [request_of(f"r{i}", prompt_of(model, 12 + i, i) * 6, 60) for i in range(3)]
    with Engine(model, limits_of(model)) as engine:
        plain = {r.request_id: run(engine, r)[r.request_id] for r in requests}
    greedy = make_request("g", prompt_of(model, 10) * 8, 80)
    with Engine(model, limits_of(model)) as engine:
        wanted = run(engine, greedy)["g"][0]
    with Engine(model, limits_of(model, draft_tokens=8)) as engine:
        assert run(engine, greedy)["g"][0] == wanted
        for request in requests:
            assert run(engine, request)[request.request_id][:2] == plain[request.request_id][:2]
        together = run(engine, *requests)
        assert engine.stats().extra["draft_tokens"] > 0
    assert {name: outcome[:2] for name, outcome in together.items()} == {
        name: outcome[:2] for name, outcome in plain.items()
    }


@pytest.mark.parametrize("pattern", ["[ab]{180}", "([ab]xyz){40}"])
def test_a_grammar_decides_as_without_drafts(compiler: ConstraintCompiler, pattern: str) -> None:
    """In the second one, most tokens are forced."""
    grammar = Grammar(f"start: /{pattern}/")
    answers = []
    for drafts in (0, 8):
        ticks = count()
        driver = Driver(
            FakeModel(vocab_size=VOCAB),
            make_limits(draft_tokens=drafts),
            clock=lambda ticks=ticks: float(next(ticks)),
        )
        for i in range(6):
            request = make_request(f"r{i}", [1, 2, 3], 200, temperature=1.0, seed=i)
            driver.run(request, compiler.compile(grammar))
        answers.append([heard.tokens for heard in driver.heard.values()])
    assert answers[0] == answers[1]
    assert driver.runner.counters.draft_tokens > 0
