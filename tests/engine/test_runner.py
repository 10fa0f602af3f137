"""Single sequences through the step: paging, windows, prefix hits, ends."""

from __future__ import annotations

import numpy as np
import pytest

from osslo.types import FinishReason
from tests.engine.fakes import FakeModel
from tests.engine.helpers import Driver, expected_tokens, make_limits, make_request


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 50, length).tolist()


@pytest.mark.parametrize("window", [0, 1, 2, 31, 32, 33, 40, 64, 65, 512])
@pytest.mark.parametrize("length", [1, 31, 32, 33, 150])
def test_any_window_and_prompt_length_gives_the_sequential_answer(window: int, length: int) -> None:
    driver = Driver(FakeModel(sliding_window=window), make_limits())
    request = make_request("a", prompt_of(length), 70)
    assert driver.run(request).tokens == expected_tokens(driver.model, request)


@pytest.mark.parametrize("step_tokens", [4, 7, 32, 200])
def test_chunks_do_not_change_the_answer(step_tokens: int) -> None:
    driver = Driver(FakeModel(), make_limits(step_tokens=step_tokens, max_running=4))
    request = make_request("a", prompt_of(150), 20)
    assert driver.run(request).tokens == expected_tokens(driver.model, request)
    assert max(len(step.token_ids) for step in driver.model.steps) <= step_tokens


def test_max_tokens_ends_with_length() -> None:
    heard = Driver(FakeModel(), make_limits()).run(make_request("a", [1, 2], 5))
    assert heard.reason is FinishReason.LENGTH
    assert len(heard.tokens) == 5


def test_the_context_ends_with_length() -> None:
    driver = Driver(FakeModel(max_context_tokens=64), make_limits())
    heard = driver.run(make_request("a", prompt_of(60), 1000))
    assert heard.reason is FinishReason.LENGTH
    assert len(heard.tokens) == 4


def test_pools_bound_the_context() -> None:
    driver = Driver(FakeModel(), make_limits(full_pages=3))
    assert driver.context == 96
    assert len(driver.run(make_request("a", prompt_of(10), 1000)).tokens) == 86


def test_a_stop_token_ends_with_stop_and_is_among_the_tokens() -> None:
    model = FakeModel()
    tokens = expected_tokens(model, make_request("a", [1, 2], 10))
    stop = next(t for i, t in enumerate(tokens) if i >= 2)
    heard = Driver(model, make_limits()).run(make_request("a", [1, 2], 10, stop_token_ids=(stop,)))
    assert heard.reason is FinishReason.STOP
    assert heard.tokens == tokens[: tokens.index(stop) + 1]


def test_ignore_eos_goes_on_past_eos_but_not_past_stop_ids() -> None:
    model = FakeModel()
    tokens = expected_tokens(model, make_request("a", [1, 2], 30))
    limits = make_limits(eos_token_ids=(tokens[3],))
    stopped = Driver(model, limits).run(make_request("a", [1, 2], 30))
    ignoring = Driver(model, limits).run(make_request("a", [1, 2], 30, ignore_eos=True))
    assert stopped.reason is FinishReason.STOP
    assert ignoring.tokens == tokens
    assert ignoring.reason is FinishReason.LENGTH


def test_logprobs_come_with_their_tokens() -> None:
    request = make_request("a", prompt_of(40), 6, logprobs=3)
    driver = Driver(FakeModel(), make_limits())
    heard = driver.run(request)
    assert [entry.token for entry in heard.logprobs] == heard.tokens
    row = driver.model.logits_after(request.prompt)
    exact = row - np.log(np.exp(row.astype(np.float64)).sum())
    assert heard.logprobs[0].logprob == pytest.approx(exact[heard.tokens[0]], abs=1e-5)
    assert [token for token, _ in heard.logprobs[0].top] == np.argsort(-exact)[:3].tolist()


def test_prefill_progress_rises_to_the_whole_prompt() -> None:
    driver = Driver(FakeModel(), make_limits(step_tokens=32))
    heard = driver.run(make_request("a", prompt_of(100), 3))
    assert [event.done_tokens for event in heard.progress] == [32, 64, 96, 100]
    assert {event.total_tokens for event in heard.progress} == {100}


def test_a_batch_of_different_lengths_gives_everyone_their_own_answer() -> None:
    driver = Driver(FakeModel(), make_limits())
    requests = [make_request(f"r{i}", prompt_of(3 + 17 * i, i), 40) for i in range(6)]
    for request in requests:
        driver.add(request)
    driver.finish()
    for request in requests:
        heard = driver.heard[request.request_id]
        assert heard.tokens == expected_tokens(driver.model, request)


def test_scored_rows_are_the_logits_of_every_position() -> None:
    driver = Driver(FakeModel(), make_limits())
    text = prompt_of(150)
    rows = np.full((150, 50), np.nan, dtype=np.float32)
    seq = driver.add(make_request("a", text))
    driver.abort("a")

    def take(start: int, logits: np.ndarray) -> None:
        rows[start : start + len(logits)] = logits

    seq = driver.add(make_request("b", text, 1))
    seq.rows_sink = take
    driver.add(make_request("other", prompt_of(20, 5), 30))
    driver.finish()
    wanted = np.array([driver.model.logits_after(text[: i + 1]) for i in range(150)])
    assert np.array_equal(rows, wanted)
    assert driver.heard["b"].tokens == []


def test_an_abort_frees_pages_at_once() -> None:
    driver = Driver(FakeModel(), make_limits(prefix_cache=False))
    driver.add(make_request("a", prompt_of(100), 100))
    driver.add(make_request("b", prompt_of(10), 100))
    for _ in range(6):
        driver.step()
    held = driver.runner.memory.full.held_count
    driver.abort("a")
    assert driver.heard["a"].reason is FinishReason.ABORT
    assert driver.runner.memory.full.held_count <= held - 4
    driver.abort("b")
    assert driver.runner.memory.full.free_count == 64
    assert driver.runner.memory.window.free_count == 64


def test_an_abort_reaches_a_waiting_request() -> None:
    driver = Driver(FakeModel(), make_limits(max_running=1))
    driver.add(make_request("a", [1], 50))
    driver.add(make_request("b", [2], 50))
    driver.step()
    driver.abort("b")
    assert driver.heard["b"].reason is FinishReason.ABORT
    driver.finish()
    assert driver.heard["a"].reason is FinishReason.LENGTH


def test_a_failed_step_ends_its_requests_with_an_error_and_the_next_ones_run() -> None:
    driver = Driver(FakeModel(), make_limits(max_running=1))
    driver.add(make_request("a", prompt_of(50), 10))
    later = make_request("b", prompt_of(50), 10)
    driver.add(later)
    driver.step()
    driver.model.fail_next = 1
    driver.finish()
    end = driver.heard["a"].end
    assert end is not None
    assert end.error is not None
    assert "told to fail" in end.error.message
    assert driver.heard["b"].tokens == expected_tokens(driver.model, later)
    assert driver.runner.broken is None


def test_failing_again_and_again_breaks_the_runner() -> None:
    driver = Driver(FakeModel(), make_limits(max_running=1))
    driver.model.fail_next = 3
    for name in "abc":
        driver.add(make_request(name, [1, 2], 3))
    driver.finish()
    assert driver.runner.broken is not None


def test_broken_numbers_end_only_the_request_that_met_them() -> None:
    class BrokenRow(FakeModel):
        def forward(self, kv, step):
            logits = super().forward(kv, step)
            logits[[int(step.token_ids[row]) == 49 for row in step.logit_rows]] = np.nan
            return logits

    driver = Driver(BrokenRow(), make_limits())
    driver.add(make_request("bad", [1, 49], 5))
    good = make_request("good", [1, 2], 2)
    driver.add(good)
    driver.finish()
    assert driver.heard["bad"].reason is FinishReason.ERROR
    assert driver.heard["good"].reason is FinishReason.LENGTH
