"""What the benchmark feeds is exactly what it was given, and its numbers mean what they say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from osslo.cli.measure import FedModel, Measured, Meter, random_ids
from osslo.engine.prefix_disk import PrefixDisk
from osslo.errors import ConfigurationError
from osslo.model.forward import ForwardInput, KvCache, PageKind
from osslo.model.model import Model

IDS = random_ids(256, 8, 600, seed=1)


class Recorder(Model):
    """The native model, which notes the rows it was given."""

    rows: list[tuple[int, int]]

    def forward(self, kv: KvCache, step: ForwardInput):  # type: ignore[no-untyped-def]  # as above
        self.rows += zip(step.positions.tolist(), step.token_ids.tolist(), strict=True)
        return super().forward(kv, step)


@pytest.fixture
def model(tiny_packed: Path) -> Recorder:
    model = Recorder.load(tiny_packed, threads=1)
    assert isinstance(model, Recorder)
    model.rows = []
    return model


@pytest.fixture
def meter(model: Recorder) -> Iterator[Meter]:
    with Meter(model, IDS, context_tokens=512) as meter:
        yield meter


def test_decoding_is_fed_the_given_ids(model: Recorder, meter: Meter) -> None:
    meter.decode(100, 16)
    wanted = [(position, int(IDS[0, position])) for position in range(100 + 4 + 16 - 1)]
    assert model.rows == wanted


def test_streams_are_fed_their_own_rows(model: Recorder, meter: Meter) -> None:
    measured = meter.streams(4, 20, 8)
    wanted = {(p, int(IDS[s, p])) for s in range(4) for p in range(27)}
    assert set(model.rows) == wanted
    assert 0 < measured.decode_tokens <= 4 * 8 - 1
    assert 0 < measured.decode_seconds < measured.seconds


def test_a_prefill_is_never_taken_from_the_cache(model: Recorder, meter: Meter) -> None:
    for _ in range(2):
        meter.prefill(64)
    assert len(model.rows) == 128


def test_a_repeated_depth_is_taken_from_the_cache(model: Recorder, meter: Meter) -> None:
    meter.decode(200, 8)
    first = len(model.rows)
    meter.decode(200, 8)
    assert first >= 200
    assert len(model.rows) - first < 100


def test_a_shared_prefix_is_computed_once(model: Recorder, meter: Meter) -> None:
    measured = meter.prefix(128)
    assert measured.seconds > 0
    assert 0 < measured.share < 1
    assert len(model.rows) == (133 + 40) + 40


def test_a_shared_prefix_is_found_on_disk_by_the_next_process(
    model: Recorder, tmp_path: Path
) -> None:
    sizes = {kind: model.page_bytes(kind) for kind in PageKind}
    for stream in (1, 2):
        disk = PrefixDisk(tmp_path, max_bytes=1 << 30, identity="one", page_bytes=sizes)
        model.rows = []
        with Meter(model, IDS, context_tokens=512, disk=disk) as meter:
            assert meter.run(f"first:{stream}:128").seconds > 0
    assert len(model.rows) == 133 + 40 - 128


def test_jobs_by_name(model: Recorder, meter: Meter) -> None:
    assert meter.run("prefill:32").job == "prefill:32"
    decoded = meter.run("decode:0:8")
    assert isinstance(decoded, Measured)
    assert decoded.decode_tokens == 8
    assert 0 <= decoded.python_share < 1
    assert decoded.rss_gib > 0
    assert decoded.experts_per_step == model.config.experts_per_token


@pytest.mark.parametrize(
    "job", ["", "prefill", "prefill:x", "decode:8", "nonsense:8", "prefill:8:8"]
)
def test_a_name_that_is_no_job(meter: Meter, job: str) -> None:
    with pytest.raises(ConfigurationError, match="no measurement"):
        meter.run(job)


def test_too_few_ids_are_refused(model: Recorder) -> None:
    with pytest.raises(ConfigurationError, match="too few"):
        Meter(model, IDS, context_tokens=600)


def test_the_fed_model_prefers_the_next_id(model: Recorder) -> None:
    fed = FedModel(model, IDS)
    kv = fed.new_kv(2, 2)
    tables = np.array([[0, 1]], np.int32)
    rows = np.arange(3, dtype=np.int32)
    starts = np.array([0, 3], np.int32)
    step = ForwardInput(IDS[2, :3].copy(), rows, starts, tables, tables, rows)
    assert fed.forward(kv, step).argmax(axis=1).tolist() == IDS[2, 1:4].tolist()
    assert fed.forward_s > 0
    assert fed.feeding_s > 0
