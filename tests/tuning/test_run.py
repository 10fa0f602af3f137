"""A whole run on a small model: plan, training, resume, result, report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from osslo.cli.main import run as command_line
from osslo.errors import ConfigurationError, MemoryPlanError
from osslo.model.adapters.peft import WEIGHTS_FILE, open_adapter
from osslo.model.checkpoints import open_checkpoint
from osslo.model.presets import preset
from osslo.model.synth import write_random
from osslo.tuning.dataset import DataOptions
from osslo.tuning.learning import Learning, Method
from osslo.tuning.loop import StepRecord
from osslo.tuning.memory import MemoryEstimate, check_memory
from osslo.tuning.picture import loss_curve
from osslo.tuning.plan import TuneOptions, make_plan
from osslo.tuning.run import Result, execute

pytestmark = pytest.mark.filterwarnings("ignore")


class Quiet:
    def __init__(self) -> None:
        self.steps: list[StepRecord] = []
        self.stages: set[str] = set()

    def stage(self, what: str, done: int, total: int) -> None:
        self.stages.add(what)

    def step(self, record: StepRecord, steps: int) -> None:
        self.steps.append(record)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = replace(preset("tiny"), layers=2, layer_kinds=preset("tiny").layer_kinds[:2])
    return write_random(shape, tmp_path_factory.mktemp("model") / "tiny", seed=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "yes.jsonl"
    rows = []
    for word in "abcdefghij":
        talk = [{"role": "user", "content": word}, {"role": "assistant", "content": "yes"}]
        rows.append(json.dumps({"messages": talk}))
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def options(model: Path, data: Path, tmp_path: Path, **more: object) -> TuneOptions:
    made = TuneOptions(
        model=model,
        base="tiny",
        data=(data,),
        folder=tmp_path / "run",
        out=tmp_path / "out",
        learning=Learning(rank=4, alpha=8),
        steps=6,
        rate=2e-2,
        checkpoint_every=2,
        samples=1,
        sample_tokens=8,
        patience=0,
    )
    return replace(made, **more)  # type: ignore[arg-type]


def go(chosen: TuneOptions, stop_after: int | None = None) -> tuple[Result, Quiet]:
    watcher = Quiet()
    result = execute(make_plan(chosen), watcher, stop=lambda: len(watcher.steps) == stop_after)
    return result, watcher


def test_a_run_learns_and_one_that_was_stopped_ends_alike(
    model: Path, data: Path, tmp_path: Path
) -> None:
    whole, watcher = go(options(model, data, tmp_path / "whole"))
    assert watcher.stages == {"loading layers", "answering before", "answering after"}
    losses = [record.loss for record in watcher.steps]
    assert losses[-1] < losses[0] / 2
    assert whole.out is not None
    assert whole.report is not None
    text = whole.report.read_text("utf-8")
    assert "## Samples" in text
    assert "Before:" in text
    assert (whole.report.parent / "loss.svg").read_text("utf-8").startswith("<svg")

    parts = options(model, data, tmp_path / "parts")
    stopped, _ = go(parts, stop_after=3)
    assert (stopped.outcome.reason, stopped.out) == ("interrupted", None)
    resumed, watcher = go(parts)
    assert [record.step for record in watcher.steps] == [3, 4, 5]
    assert "answering before" not in watcher.stages
    assert resumed.before == stopped.before
    bits = [(out / WEIGHTS_FILE).read_bytes() for out in (whole.out, parts.out)]
    assert bits[0] == bits[1]
    adapter = open_adapter(parts.out, preset("tiny"))
    assert (adapter.base_name, adapter.rank, len(adapter.targets)) == ("tiny", 4, 6)
    assert {factors.scale for factors in adapter.load().factors.values()} == {2.0}


def test_full_fine_tuning_gives_a_checkpoint(model: Path, data: Path, tmp_path: Path) -> None:
    full = options(model, data, tmp_path, learning=Learning(Method.FULL), rate=1e-3, steps=3)
    result, watcher = go(full)
    assert watcher.steps[-1].loss < watcher.steps[0].loss
    assert result.out is not None
    tuned, base = open_checkpoint(result.out), open_checkpoint(model)
    name = "layers.0.experts.0.down"
    assert (tuned.matrix(name).to_float32() != base.matrix(name).to_float32()).any()
    router = "layers.0.router"
    assert (tuned.matrix(router).to_float32() == base.matrix(router).to_float32()).all()


def test_early_stopping_keeps_the_best(model: Path, data: Path, tmp_path: Path) -> None:
    wild = options(model, data, tmp_path, steps=24, rate=0.9, patience=1)
    result, watcher = go(wild)
    assert result.outcome.reason == "stopped early"
    validations = [r.validation for r in watcher.steps if r.validation is not None]
    assert result.outcome.best_validation == min(validations) < validations[-1]


def test_another_run_is_not_overwritten(model: Path, data: Path, tmp_path: Path) -> None:
    go(options(model, data, tmp_path, steps=1))
    with pytest.raises(ConfigurationError, match=r"differs in rate, reading.*--fresh"):
        make_plan(options(model, data, tmp_path, rate=1e-3, reading=DataOptions(max_tokens=512)))


def test_what_cannot_fit_is_refused_with_advice() -> None:
    needed = MemoryEstimate(1 << 30, 1 << 30, 1 << 33, 5)
    check_memory(needed, 1 << 34, Learning())
    with pytest.raises(MemoryPlanError, match=r"10\.\d+ GiB and 4\.00 GiB.*--pack-tokens"):
        check_memory(needed, 1 << 32, Learning())
    with pytest.raises(MemoryPlanError, match="a smaller model"):
        check_memory(needed, 1 << 29, Learning())


def test_the_curve_shows_both_losses() -> None:
    svg = loss_curve([(1, 2.0), (2, 1.0)], [(2, 1.5)])
    assert svg.count("<polyline") == 2
    assert svg.count("<circle") == 1


def test_the_command_line_plans_trains_and_refuses(
    model: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OSSLO_HOME", str(tmp_path / "home"))
    common = ["tune", str(data), "--model", str(model), "--name", "yes"]
    assert command_line([*common, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "activations" in shown
    assert "9 documents" in shown
    short = ["--steps", "2", "--samples", "0", "--rank", "2"]
    assert command_line([*common, *short, "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0]["event"] == "plan"
    assert [event["step"] for event in events if event["event"] == "step"] == [0, 1]
    assert events[-1]["out"] == str(tmp_path / "home" / "adapters" / "yes")
    assert command_line([*common, *short, "--name", "No Name"]) == 2
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}\n", encoding="utf-8")
    assert command_line(["tune", str(bad), "--model", str(model), "--name", "bad"]) == 2
    assert "bad.jsonl:1: 'messages' must be" in capsys.readouterr().err
