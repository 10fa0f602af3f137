"""The memory plan against packed files and page pools that really exist, and against itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osslo.engine.limits import EngineLimits
from osslo.errors import MemoryPlanError
from osslo.model.available import available_memory
from osslo.model.checkpoints import open_checkpoint
from osslo.model.forward import PageKind
from osslo.model.inspection import count_parameters, inspect_checkpoint
from osslo.model.memory import (
    MemoryRequest,
    Precision,
    WeightKinds,
    Weights,
    check,
    context_table,
    page_bytes,
    plan,
)
from osslo.model.model import Model
from osslo.model.pack import pack
from osslo.model.packed_file import read_header
from osslo.model.presets import PRESETS
from osslo.model.synth import Experts, Format
from tests.model.random_models import Checkpoints

GIB = 1 << 30
FULL_SIZE = PRESETS["gpt-oss-20b"]
REQUEST = MemoryRequest(context_tokens=8192)


# --- against what exists --------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["default", "exact"])
@pytest.mark.parametrize(
    ("form", "experts"),
    [("safetensors", "mxfp4"), ("safetensors", "plain"), ("gguf", "mxfp4"), ("gguf", "plain")],
)
def test_estimated_weights_are_what_packing_writes(
    checkpoints: Checkpoints, tmp_path: Path, form: Format, experts: Experts, precision: Precision
) -> None:
    checkpoint = open_checkpoint(checkpoints.preset("tiny", form, experts))
    estimated = Weights.estimated(checkpoint.config, WeightKinds.of(checkpoint, precision))
    header = read_header(pack(checkpoint, tmp_path / "m.osslo", precision=precision))
    tensors = [t for t in header.tensors if t.kind is not None]
    # Padding of biases to whole panels is all that the estimate leaves out.
    assert estimated.total_bytes == pytest.approx(sum(t.bytes for t in tensors), rel=0.01)
    assert estimated.lookup_bytes == Weights.packed(header).lookup_bytes


@pytest.mark.parametrize("precision", ["default", "exact"])
def test_pages_are_those_of_the_native_model(
    checkpoints: Checkpoints, tmp_path: Path, precision: Precision
) -> None:
    checkpoint = open_checkpoint(checkpoints.preset("tiny", "safetensors"))
    model = Model.load(pack(checkpoint, tmp_path / "m.osslo", precision=precision))
    for kind in PageKind:
        assert page_bytes(model.config, kind, precision) == model.page_bytes(kind)
    for request in (MemoryRequest(64), MemoryRequest(4096, concurrent=3, kv_tokens=10_000)):
        planned = plan(model.config, request, available_bytes=GIB)
        limits = EngineLimits.for_model(
            model,
            context_tokens=planned.request.context_tokens,
            max_running=request.concurrent,
            kv_tokens=request.kv_tokens,
            resume_points=request.resume_points,
            step_tokens=request.step_tokens,
        )
        assert (planned.full_pages, planned.window_pages) == (
            limits.full_pages,
            limits.window_pages,
        )


def test_full_size_parameters_are_the_published_ones() -> None:
    everything, active = count_parameters(FULL_SIZE)
    assert everything == pytest.approx(20.9e9, rel=0.002)
    assert active == pytest.approx(3.6e9, rel=0.01)


def test_full_size_fits_a_laptop_of_16_gb_at_8k() -> None:
    planned = plan(FULL_SIZE, REQUEST, available_bytes=int(12.6 * GIB))
    check(planned)
    assert planned.kv_bytes < 0.5 * GIB


# --- against itself -------------------------------------------------------------------------------


@given(
    available=st.integers(0, 20 * GIB),
    context=st.integers(1, 200_000),
    concurrent=st.integers(1, 64),
    kv=st.none() | st.integers(1, 400_000),
)
@settings(max_examples=200, deadline=None)
def test_largest_context_fits_and_the_next_page_does_not(
    available: int, context: int, concurrent: int, kv: int | None
) -> None:
    request = MemoryRequest(context, concurrent=concurrent, kv_tokens=kv)
    planned = plan(FULL_SIZE, request, available_bytes=available)
    largest = planned.largest_context_tokens
    alone = replace(request, kv_tokens=None)
    if largest:
        fitting = replace(alone, context_tokens=largest)
        assert plan(FULL_SIZE, fitting, available_bytes=available).fits
    if largest < FULL_SIZE.max_context:
        over = replace(alone, context_tokens=largest + 1)
        assert not plan(FULL_SIZE, over, available_bytes=available).fits


def test_context_is_clamped_to_the_models() -> None:
    planned = plan(FULL_SIZE, MemoryRequest(10**9), available_bytes=64 * GIB)
    assert planned.request.context_tokens == FULL_SIZE.max_context


def test_windows_do_not_grow_with_the_context() -> None:
    small, large = (
        plan(FULL_SIZE, MemoryRequest(size), available_bytes=64 * GIB) for size in (16384, 131072)
    )
    assert small.window_kv_bytes == large.window_kv_bytes
    assert large.full_kv_bytes == 8 * small.full_kv_bytes


def test_check_names_the_largest_context() -> None:
    planned = plan(FULL_SIZE, MemoryRequest(131072), available_bytes=13 * GIB)
    with pytest.raises(MemoryPlanError) as caught:
        check(planned)
    assert str(planned.largest_context_tokens) in caught.value.message
    assert 16384 < planned.largest_context_tokens < 131072


def test_check_says_when_no_context_fits() -> None:
    planned = plan(FULL_SIZE, REQUEST, available_bytes=4 * GIB)
    assert planned.largest_context_tokens == 0
    with pytest.raises(MemoryPlanError, match="no context fits"):
        check(planned)


def test_table_ends_at_the_models_context() -> None:
    plans = context_table(PRESETS["tiny"], REQUEST, available_bytes=GIB)
    assert plans[-1].request.context_tokens == PRESETS["tiny"].max_context
    totals = [planned.total_bytes for planned in plans]
    assert totals == sorted(totals)


# --- inspect --------------------------------------------------------------------------------------


def test_inspect_reports_checkpoints_and_packed_files(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    source = checkpoints.preset("tiny", "gguf")
    report = inspect_checkpoint(source, available_bytes=GIB)
    packed = pack(open_checkpoint(source), tmp_path / "m.osslo")
    packed_report = inspect_checkpoint(packed, available_bytes=GIB)
    assert report.format == "gguf"
    assert packed_report.format == "packed (default)"
    assert report.parameters == packed_report.parameters > report.active_parameters
    assert all(planned.fits for planned in report.plans + packed_report.plans)
    assert dict(report.rows())["vocabulary"] == f"{report.config.vocab_size:,}"


# --- the machine ----------------------------------------------------------------------------------


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    write(tmp_path / "proc/meminfo", "MemTotal: 16000 kB\nMemAvailable:  8000 kB\n")
    return tmp_path / "proc"


def test_machine_without_cgroups(proc: Path, tmp_path: Path) -> None:
    assert available_memory(proc=proc, cgroups=tmp_path / "none") == 8000 * 1024


def test_cgroup_v2_limits_of_parents_count(proc: Path, tmp_path: Path) -> None:
    root = tmp_path / "cg"
    write(proc / "self/cgroup", "0::/a/b\n")
    write(root / "a/b/memory.max", "max\n")
    write(root / "a/b/memory.current", "100\n")
    write(root / "a/memory.max", "5000\n")
    write(root / "a/memory.current", "3000\n")
    write(root / "a/memory.stat", "anon 1000\ninactive_file 500\nactive_file 700\n")
    assert available_memory(proc=proc, cgroups=root) == 5000 - 3000 + 1200


def test_cgroup_v1_and_a_path_hidden_by_a_container(proc: Path, tmp_path: Path) -> None:
    root = tmp_path / "cg"
    write(proc / "self/cgroup", "4:cpu,memory:/docker/x\n0::/\n")
    write(root / "memory/memory.limit_in_bytes", "4000\n")
    write(root / "memory/memory.usage_in_bytes", "1000\n")
    write(root / "memory/memory.stat", "total_inactive_file 10\ntotal_active_file 20\n")
    assert available_memory(proc=proc, cgroups=root) == 3030
    write(root / "memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert available_memory(proc=proc, cgroups=root) == 8000 * 1024


def test_this_machine() -> None:
    assert available_memory() > 0
