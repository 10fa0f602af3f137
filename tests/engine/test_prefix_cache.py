"""What the prefix cache finds, keeps, gives up, and never shows to others."""

from __future__ import annotations

import random
from itertools import product

import numpy as np
import pytest

from osslo.engine.prefix_cache import common_tokens, token_key
from tests.engine.fakes import FakeModel
from tests.engine.helpers import Driver, expected_tokens, make_limits, make_request
from tests.engine.test_runner import prompt_of


def check(driver: Driver, request) -> int:
    """Run a request, compare its answer, and return its cached tokens."""
    heard = driver.run(request)
    assert heard.tokens == expected_tokens(driver.model, request, context=driver.context)
    return heard.cached


def common_by_hand(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    size = 0
    while size < min(len(a), len(b)) and a[size] == b[size]:
        size += 1
    return size


def test_keys_sort_like_tokens_and_share_beginnings() -> None:
    rng = random.Random(1)
    alphabet = [0, 1, 255, 256, 70000]
    texts = {tuple(rng.choices(alphabet, k=rng.randrange(1, 9))) for _ in range(99)}
    keys = {text: token_key(np.array(text, dtype=np.int32)) for text in texts}
    assert sorted(texts) == sorted(texts, key=keys.__getitem__)
    for a, b in product(texts, texts):
        assert common_tokens(keys[a], keys[b]) == common_by_hand(a, b)


@pytest.mark.parametrize("window", [0, 1, 33, 40, 512])
@pytest.mark.parametrize("shared", [1, 31, 32, 33, 63, 64, 100, 139])
def test_a_hit_at_any_position_with_different_suffixes(window: int, shared: int) -> None:
    driver = Driver(FakeModel(sliding_window=window), make_limits())
    base = prompt_of(140)
    assert check(driver, make_request("first", base, 5)) == 0
    for index in range(3):
        parting = (base[shared] + 1 + index) % 50
        other = [*base[:shared], parting, *prompt_of(30, index)]
        assert check(driver, make_request(f"r{index}", other, 5)) == shared


def test_a_hit_leaves_the_last_token_to_compute() -> None:
    driver = Driver(FakeModel(), make_limits())
    for length in (64, 65, 96):
        base = prompt_of(length, length)
        check(driver, make_request(f"a{length}", base, 3))
        assert check(driver, make_request(f"b{length}", base, 3)) == length - 1


def test_the_end_of_a_prompt_stays_after_a_long_answer() -> None:
    """Reasoning is dropped from the next prompt: it resumes where the last prompt ended."""
    driver = Driver(FakeModel(sliding_window=40), make_limits(window_pages=12))
    base = prompt_of(101)
    check(driver, make_request("turn1", base, 200))
    follow_up = [*base, *prompt_of(30, 7)]
    assert check(driver, make_request("turn2", follow_up, 5)) == 101


def fill(driver: Driver, count: int, *, length: int = 64) -> None:
    """Other texts, to press on the window pages."""
    for _ in range(count):
        name = f"fill{len(driver.heard)}"
        check(driver, make_request(name, prompt_of(length, 50 + len(driver.heard)), 3))


def test_the_end_of_an_answer_can_be_resumed() -> None:
    """Its window pages stay longer than newer ones in the middle of other texts."""
    driver = Driver(FakeModel(sliding_window=40), make_limits(window_pages=14))
    base = prompt_of(10)
    first = driver.run(make_request("call", base, 60))
    fill(driver, 2, length=200)
    with_result = [*base, *first.tokens, *prompt_of(10, 3)]
    assert check(driver, make_request("result", with_result, 5)) == 69  # the last token has no KV


def test_window_pages_in_the_middle_go_before_those_at_resume_points() -> None:
    driver = Driver(FakeModel(sliding_window=40), make_limits(window_pages=16))
    base = prompt_of(300)
    check(driver, make_request("a", base, 3))
    fill(driver, 3)
    assert check(driver, make_request("again", [*base, 1, 2], 3)) == 300
    halfway = [*base[:150], *prompt_of(20, 9)]
    assert check(driver, make_request("halfway", halfway, 3)) < 150


def test_a_place_where_a_request_went_on_is_kept_for_the_next() -> None:
    driver = Driver(FakeModel(sliding_window=40), make_limits(window_pages=17))
    base = prompt_of(300)
    check(driver, make_request("a", base, 3))
    assert check(driver, make_request("b", [*base[:150], *prompt_of(20, 9)], 3)) == 150
    fill(driver, 2, length=200)
    assert check(driver, make_request("c", [*base[:150], *prompt_of(20, 10)], 3)) >= 150


def test_a_parting_of_ways_becomes_a_resume_point() -> None:
    """Where a hit failed for want of window pages, the next request finds them."""
    driver = Driver(FakeModel(sliding_window=40), make_limits(window_pages=20))
    base = prompt_of(300)
    check(driver, make_request("a", base, 3))
    fill(driver, 8)
    parted = [[*base[:160], *prompt_of(100, seed)] for seed in (9, 10)]
    assert check(driver, make_request("b", parted[0], 3)) < 160
    fill(driver, 3)
    assert check(driver, make_request("c", parted[1], 3)) >= 160


def test_tenants_never_share() -> None:
    driver = Driver(FakeModel(), make_limits())
    base = prompt_of(100)
    for tenant in ("red", "blue"):
        assert check(driver, make_request(tenant, base, 3, tenant=tenant)) == 0
    assert check(driver, make_request("red2", base, 3, tenant="red")) == 99


def test_switched_off_it_keeps_nothing() -> None:
    driver = Driver(FakeModel(), make_limits(prefix_cache=False))
    base = prompt_of(100)
    for name in "ab":
        assert check(driver, make_request(name, base, 3)) == 0
    assert driver.runner.memory.full.free_count == 64


def test_equal_prompts_at_the_same_time_are_computed_once() -> None:
    driver = Driver(FakeModel(), make_limits(step_tokens=64))
    base = prompt_of(200)
    requests = [make_request(f"r{i}", base, 5, temperature=1.0, seed=i) for i in range(4)]
    for request in requests:
        driver.add(request)
    driver.finish()
    for request in requests:
        heard = driver.heard[request.request_id]
        assert heard.tokens == expected_tokens(driver.model, request)
    assert sum(len(step.token_ids) for step in driver.model.steps) < 200 + 4 * 16


def test_pages_known_already_are_used_and_their_copies_freed() -> None:
    """Two that could not wait for each other end up on the same pages."""
    driver = Driver(FakeModel(), make_limits())
    base = prompt_of(20)
    for name in "ab":  # shorter than a page: neither waits for the other
        driver.add(make_request(name, base, 60))
    driver.step()
    driver.step()
    while driver.living["a"].settled_pages < 2 or driver.living["b"].settled_pages < 2:
        driver.step()
    a, b = driver.living["a"], driver.living["b"]
    assert a.full_pages[:2].tolist() == b.full_pages[:2].tolist()


def test_old_texts_give_way_to_new_ones() -> None:
    driver = Driver(FakeModel(), make_limits(full_pages=12, window_pages=12))
    for index in range(20):
        check(driver, make_request(f"r{index}", prompt_of(100, index), 5))
    assert driver.runner.memory.full.held_count == 0
    assert check(driver, make_request("last", prompt_of(100, 19), 5)) == 99
    assert check(driver, make_request("first", prompt_of(100, 0), 5)) == 0


def test_what_was_used_again_outlives_what_was_not() -> None:
    driver = Driver(FakeModel(), make_limits(full_pages=12, window_pages=12))
    old, older = prompt_of(74, 1), prompt_of(74, 2)
    for name, text in (("x", older), ("y", old), ("z", older)):
        check(driver, make_request(name, text, 1))
    check(driver, make_request("push", prompt_of(250, 3), 3))
    assert check(driver, make_request("again", older, 3)) == 73
    assert check(driver, make_request("gone", old, 3)) < 73


def test_answers_give_way_before_prompts() -> None:
    driver = Driver(FakeModel(sliding_window=0), make_limits(full_pages=16))
    prompt = prompt_of(96)
    check(driver, make_request("prompt", prompt, 2))
    check(driver, make_request("answer", [1], 200))
    check(driver, make_request("push", prompt_of(250, 1), 3))
    assert check(driver, make_request("again", prompt, 3)) == 95


def test_emptied_trees_leave_nothing_behind() -> None:
    driver = Driver(FakeModel(), make_limits(full_pages=8, window_pages=8))
    for index in range(30):
        check(driver, make_request(f"r{index}", prompt_of(200, index), 3, tenant=f"t{index}"))
    kept_scopes = len(driver.runner.memory.cache._roots)
    assert kept_scopes <= 2
    assert len(driver.runner.memory.cache._full_heap) <= 2 * 8 + 64
