"""The hot kernels take no more instructions than were recorded: a guard that no clock disturbs."""

from __future__ import annotations

import shutil

import pytest

from bench.instructions.counting import CASES, compiler, count_all, recorded

SLACK = 1.02
"""Patch releases of a compiler differ by less; what costs more is to be recorded on purpose."""


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="platform: valgrind is not installed")
def test_hot_kernels_take_no_more_instructions_than_recorded() -> None:
    bounds = recorded().get(compiler())
    if bounds is None:
        pytest.skip(f"platform: nothing is recorded for {compiler()}")
    counts = count_all()
    assert set(bounds) == set(CASES)
    over = {
        case: counts[case] / bounds[case] for case in CASES if counts[case] > SLACK * bounds[case]
    }
    assert not over, (
        f"{over}; python -m bench.instructions.counting --record takes them as they are"
    )
