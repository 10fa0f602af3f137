"""Who runs when: decoding first, shares between tenants, turns, preemption, refusal to starve."""

from __future__ import annotations

import numpy as np
import pytest

from osslo.engine.fairness import OUTPUT_WEIGHT, TenantClock
from osslo.engine.limits import EngineLimits
from osslo.errors import ConfigurationError
from osslo.types import FinishReason
from tests.engine.fakes import FakeModel
from tests.engine.helpers import Driver, expected_tokens, make_limits, make_request
from tests.engine.test_runner import prompt_of


def test_decoding_goes_on_during_a_long_prefill() -> None:
    driver = Driver(FakeModel(), make_limits(step_tokens=64, mixed_prefill_tokens=16))
    driver.add(make_request("chat", [1, 2, 3], 40))
    driver.step()
    driver.add(make_request("long", prompt_of(300), 5))
    for _ in range(10):
        before = len(driver.heard["chat"].tokens)
        driver.step()
        assert len(driver.heard["chat"].tokens) == before + 1
        assert len(driver.model.steps[-1].token_ids) == 17


def test_alone_a_prefill_gets_the_whole_step() -> None:
    driver = Driver(FakeModel(), make_limits(step_tokens=64, mixed_prefill_tokens=16))
    driver.add(make_request("long", prompt_of(128), 1))
    driver.step()
    driver.step()
    assert [len(step.token_ids) for step in driver.model.steps] == [64, 64]
    assert driver.heard["long"].reason is FinishReason.LENGTH


def test_a_crowd_of_one_tenant_does_not_keep_another_out() -> None:
    driver = Driver(FakeModel(), make_limits(max_running=2))
    for index in range(10):
        driver.add(make_request(f"crowd{index}", prompt_of(40, index), 20, tenant="crowd"))
    driver.step()
    driver.add(make_request("guest", prompt_of(40, 99), 20, tenant="guest"))
    while driver.heard["guest"].end is None:
        driver.step()
    ended = [name for name in driver.heard if driver.heard[name].end is not None]
    assert len(ended) <= 4


def test_prefills_of_two_tenants_advance_together() -> None:
    driver = Driver(FakeModel(), make_limits(step_tokens=32))
    driver.add(make_request("a", prompt_of(300, 1), 1, tenant="a"))
    driver.add(make_request("b", prompt_of(300, 2), 1, tenant="b"))
    for _ in range(8):
        driver.step()
    progress = [driver.heard[name].progress[-1].done_tokens for name in "ab"]
    assert progress == [128, 128]


def test_a_long_prefill_gives_way_to_a_short_one_of_the_same_tenant() -> None:
    limits = make_limits(step_tokens=32, prefill_turn_tokens=64)
    driver = Driver(FakeModel(), limits)
    driver.add(make_request("long", prompt_of(400, 1), 1))
    driver.step()
    driver.add(make_request("short", prompt_of(40, 2), 1))
    for _ in range(4):
        driver.step()
    assert driver.heard["short"].end is not None
    assert driver.heard["long"].end is None


def test_preemption_recomputes_and_changes_nothing() -> None:
    driver = Driver(FakeModel(), make_limits(full_pages=10, window_pages=16))
    requests = [make_request(f"r{i}", prompt_of(40, i), 150) for i in range(4)]
    for request in requests:
        driver.add(request)
    driver.finish()
    assert driver.runner.scheduler.preemptions > 0
    for request in requests:
        heard = driver.heard[request.request_id]
        assert heard.tokens == expected_tokens(driver.model, request, context=driver.context)


def test_computing_again_is_a_prefill_and_leaves_room_for_those_who_decode() -> None:
    limits = make_limits(full_pages=10, window_pages=16, mixed_prefill_tokens=8, prefix_cache=False)
    driver = Driver(FakeModel(), limits)
    for index in range(4):
        driver.add(make_request(f"r{index}", prompt_of(40, index), 150))
    driver.finish()
    assert driver.runner.scheduler.preemptions > 0
    for step in driver.model.steps:
        rows = np.diff(step.sequence_starts)
        assert 1 not in rows or rows[rows > 1].sum() <= 8


def test_prefills_that_are_all_short_of_pages_cost_the_youngest_its_place() -> None:
    """Admission keeps this from happening; pages taken behind its back bring it about."""
    driver = Driver(FakeModel(), make_limits(full_pages=20, window_pages=20, prefix_cache=False))
    for index in range(2):
        driver.add(make_request(f"r{index}", prompt_of(200, index), 3, tenant=f"t{index}"))
    driver.step()
    driver.step()
    pool = driver.runner.memory.full
    stolen = [pool.take() for _ in range(pool.free_count)]
    driver.runner.step()
    assert driver.runner.scheduler.preemptions == 1
    assert [seq.request_id for seq in driver.runner.scheduler.running] == ["r0"]
    for page in stolen:
        assert page is not None
        pool.drop(page)
    driver.finish()
    assert driver.heard["r1"].reason is FinishReason.LENGTH


def test_the_oldest_is_never_preempted() -> None:
    driver = Driver(FakeModel(), make_limits(full_pages=10, window_pages=16))
    for index in range(4):
        driver.add(make_request(f"r{index}", prompt_of(40, index), 150))
    steps = 0
    while driver.heard["r0"].end is None:
        driver.step()
        steps += 1
    assert steps <= 152
    assert driver.runner.scheduler.preemptions > 0


def test_a_prompt_that_fills_the_pool_runs_alone() -> None:
    driver = Driver(FakeModel(), make_limits(full_pages=8, window_pages=8, max_running=4))
    big = make_request("big", prompt_of(255), 10)
    small = make_request("small", prompt_of(30, 1), 10)
    again = make_request("again", prompt_of(255), 10)
    for request in (small, big, again):
        driver.add(request)
    driver.finish()
    for request in (small, big, again):
        wanted = expected_tokens(driver.model, request, context=driver.context)
        assert driver.heard[request.request_id].tokens == wanted


@pytest.mark.parametrize("window_pages", [3, 4, 5])
def test_the_smallest_window_pools_still_serve_many(window_pages: int) -> None:
    driver = Driver(FakeModel(sliding_window=40), make_limits(window_pages=window_pages))
    requests = [make_request(f"r{i}", prompt_of(100, i), 60) for i in range(5)]
    for request in requests:
        driver.add(request)
    driver.finish()
    for request in requests:
        heard = driver.heard[request.request_id]
        assert heard.tokens == expected_tokens(driver.model, request)


def test_the_clock_gives_no_credit_for_idleness() -> None:
    clock = TenantClock()
    clock.enter("busy")
    clock.charge("busy", input_tokens=100, output_tokens=10)
    clock.enter("new")
    assert clock.served("new") == 100 + 10 * OUTPUT_WEIGHT
    clock.charge("new", input_tokens=1)
    assert clock.neediest(["new", "busy"]) == "busy"


def test_the_clock_remembers_those_ahead_and_forgets_the_rest() -> None:
    clock = TenantClock()
    for tenant in ("ahead", "steady"):
        clock.enter(tenant)
    clock.charge("ahead", input_tokens=50)
    clock.leave("ahead")
    clock.enter("ahead")
    assert clock.served("ahead") == 50
    clock.charge("steady", input_tokens=90)
    clock.leave("ahead")
    clock.leave("steady")
    assert clock.served("steady") == 0


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"full_pages": 0}, "full_pages"),
        ({"max_running": 0}, "max_running"),
        ({"max_waiting": -1}, "max_waiting"),
        ({"step_tokens": 4}, "step_tokens"),
        ({"window_pages": 0}, "window_pages"),
    ],
)
def test_senseless_limits_are_refused_by_name(change: dict[str, int], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        make_limits(**change).usable_context(FakeModel())


@pytest.mark.parametrize("window", [0, 40, 512])
def test_limits_made_for_a_model_hold_its_context(window: int) -> None:
    model = FakeModel(sliding_window=window)
    limits = EngineLimits.for_model(model, context_tokens=200)
    assert limits.usable_context(model) == 200
    assert limits.full_pages == 7
    assert (limits.window_pages > 0) == (window > 0)
