"""Single sequences through the step: paging, windows, prefix hits, ends."""

from __future__ import annotations

import numpy as np
import pytest

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
