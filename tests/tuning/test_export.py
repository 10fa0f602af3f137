"""Exports: read back bit by bit, loaded elsewhere, and refused where the delta vanished."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from osslo.cli.main import run as command_line
from osslo.errors import CheckpointError, ConfigurationError
from osslo.model.adapters.peft import open_adapter
from osslo.model.checkpoints import open_checkpoint
from osslo.model.presets import preset
from osslo.model.synth import write_random
from osslo.tuning.adapter import Adapter, Delta, write_adapter
from osslo.tuning.export import Merged, export_merged
from osslo.tuning.merged import Experts

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(preset("tiny"), tmp_path_factory.mktemp("base") / "tiny", seed=2)


def adapter_in(folder: Path, size: float) -> Path:
    config, rank = preset("tiny"), 3
    random = np.random.default_rng(4)
    deltas = {}
    for layer in range(config.layers):
        for part, rows, cols, count in (
            ("q", config.query_size, config.hidden, 1),
            ("o", config.hidden, config.query_size, 1),
            ("gate_up", 2 * config.intermediate, config.hidden, config.experts),
            ("down", config.hidden, config.intermediate, config.experts),
        ):
            a = random.normal(size=(rank * count, cols)).astype(np.float32)
            b = size * random.normal(size=(rows, rank * count)).astype(np.float32)
            deltas[layer, part] = Delta(a, b)
    write_adapter(folder, Adapter("tiny", rank, 6.0, deltas), card="# a card\n")
    return folder


def merged_of(base: Path, adapter: Path) -> Merged:
    checkpoint = open_checkpoint(base)
    return Merged(checkpoint, open_adapter(adapter, checkpoint.config).load())


def export(
    arguments: list[str], base: Path, capsys: pytest.CaptureFixture[str]
) -> dict[str, object]:
    code = command_line(["export", *arguments, "--model", str(base), "--json"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    result: dict[str, object] = json.loads(shown.out)
    return result


@pytest.mark.parametrize("experts", ["bf16", "mxfp4"])
def test_transformers_loads_a_merged_model(
    base: Path, tmp_path: Path, experts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = adapter_in(tmp_path / "adapter", 0.05)
    out = tmp_path / "merged"
    result = export([str(adapter), str(out), "--experts", experts], base, capsys)
    assert result["loaded_by"] == "transformers"
    for kind in ("attention_left", "experts_left"):
        assert isinstance(result[kind], float)
        assert 0.9 < result[kind] < 1.1
    assert "Apache License" in (out / "LICENSE").read_text("utf-8")
    assert "changed" in (out / "NOTICE").read_text("utf-8")
    assert "base_model: tiny" in (out / "README.md").read_text("utf-8")


def test_a_gguf_gives_the_tensors_of_the_folder(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = adapter_in(tmp_path / "adapter", 0.05)
    common = ["--experts", "mxfp4", "--no-reload"]
    export([str(adapter), str(tmp_path / "hf"), *common], base, capsys)
    export([str(adapter), str(tmp_path / "m.gguf"), "--format", "gguf", *common], base, capsys)
    folder, file = open_checkpoint(tmp_path / "hf"), open_checkpoint(tmp_path / "m.gguf")
    assert folder.config.layer_kinds == file.config.layer_kinds
    for name in ("layers.1.q", "layers.2.experts.3.up", "layers.0.experts.1.down", "head"):
        one, other = folder.matrix(name).to_float32(), file.matrix(name).to_float32()
        assert np.array_equal(one, other), name
    assert (tmp_path / "m.LICENSE").exists()


def test_peft_loads_an_exported_adapter(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = adapter_in(tmp_path / "adapter", 0.05)
    out = tmp_path / "copy"
    result = export([str(adapter), str(out), "--format", "adapter"], base, capsys)
    assert result["loaded_by"] == "peft"
    assert (out / "LICENSE").exists()
    checkpoint = open_checkpoint(base)
    copies = [open_adapter(one, checkpoint.config).identity() for one in (adapter, out)]
    assert copies[0] == copies[1]


def test_a_delta_that_vanishes_is_an_error(base: Path, tmp_path: Path) -> None:
    """The base's experts lie on MXFP4's grid: what is far below a step rounds back to it."""
    adapter = adapter_in(tmp_path / "adapter", 1e-4)
    merged = merged_of(base, adapter)
    out = tmp_path / "merged"
    with pytest.raises(CheckpointError, match=r"learned in the experts \d% are left"):
        export_merged(merged, out, gguf=False, experts=Experts.MXFP4, card="")
    assert not out.exists()
    survival = export_merged(merged, out, gguf=False, experts=Experts.MXFP4, card="", least=-1)
    assert survival.experts is not None
    assert survival.experts < 0.1
    with pytest.raises(ConfigurationError, match="exists already"):
        export_merged(merged, out, gguf=False, experts=Experts.BF16, card="")
