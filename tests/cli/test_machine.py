"""`osslo doctor`, `inspect`, `bench` and `pull` on a tiny model and an empty machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from osslo.cli.bench import speed
from osslo.cli.doctor import cpu_features
from osslo.cli.machine_limits import token_bytes
from osslo.cli.main import run
from osslo.cli.measure import Measured
from osslo.cli.output import gib
from osslo.model.forward import PageKind
from osslo.model.model import Model


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No model is found but those that a test puts there."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "OLLAMA_MODELS", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OSSLO_HOME", str(tmp_path / "osslo"))
    return tmp_path


def test_doctor_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "kernels" in shown
    assert "osslo pull gpt-oss-20b" in shown
    assert "131,072 tokens" in shown


def test_doctor_for_scripts(
    empty_home: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = empty_home / "osslo" / "models"
    models.mkdir(parents=True)
    (models / "gpt-oss-tiny").symlink_to(tiny_checkpoint)
    assert run(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["machine"]["kernels"][-1] == "scalar"
    assert report["machine"]["threads"] >= 1
    assert [model["name"] for model in report["models"]] == ["gpt-oss-tiny"]
    assert report["plans"][0]["weights_bytes"] > 10 << 30


@pytest.mark.parametrize(
    ("text", "features", "name"),
    [
        ("model name\t: X\nflags\t\t: fpu avx2 fma avx512f\n", ("avx2", "fma", "avx512f"), "X"),
        ("Features\t: fp asimddp i8mm\n", ("asimddp", "i8mm"), None),
    ],
)
def test_features_are_read(
    tmp_path: Path, text: str, features: tuple[str, ...], name: str | None
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(text)
    found, processor = cpu_features(info)
    assert found == features
    assert processor == name or name is None


def test_no_list_of_features_is_no_error(tmp_path: Path) -> None:
    assert cpu_features(tmp_path / "nothing")[0] == ()


def test_inspect(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(tiny_checkpoint), "--tensors"]) == 0
    shown = capsys.readouterr().out
    assert "huggingface" in shown
    assert "4,096" in shown
    assert "model.layers.0.self_attn.sinks" in shown


def test_inspect_a_packed_file_as_json(
    tiny_packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(tiny_packed), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["config"]["experts"] == 4
    assert report["plans"][-1]["fits"] is True
    assert "tensors" not in report


def test_a_model_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "no-such-model"]) == 2
    assert "no-such-model" in capsys.readouterr().err


def test_bench_for_scripts(tiny_packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["--prefill", "32", "--decode", "0,64", "--tokens", "4", "--streams", "2"]
    rows += ["--shared", "40"]
    assert run(["bench", str(tiny_packed), *rows, "--repeat", "2", "--threads", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    jobs = ["prefill:32", "decode:0:4", "decode:64:4", "streams:2:128:4", "prefix:40"]
    assert list(report["rows"]) == jobs
    assert all(len(samples) == 2 for samples in report["rows"].values())
    assert all(sample["seconds"] > 0 for job in jobs for sample in report["rows"][job])
    assert list(report["memory_share"]) == ["decode:0:4", "decode:64:4"]
    assert report["read_bytes_per_s"] > 1e8


def test_bench_for_people(tiny_packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["--prefill", "32", "--decode", "8", "--tokens", "4", "--streams", "0"]
    assert run(["bench", str(tiny_packed), *rows, "--repeat", "1", "--threads", "1"]) == 0
    shown = capsys.readouterr().out
    assert "read 32 tokens" in shown
    assert "generate 4 after 8" in shown
    assert "GB/s" in shown
    assert "prompt, 512 shared" in shown


def test_a_token_reads_its_experts_and_what_it_sees(tiny_packed: Path) -> None:
    model = Model.load(tiny_packed, threads=1)
    config = model.config
    sizes = {tensor.name: tensor.bytes for tensor in model.header.tensors}
    experts = sum(n for name, n in sizes.items() if name.endswith((".gate_up", ".down")))
    rest = sum(sizes.values()) - experts - sizes["embedding"] - sizes.get("tokenizer", 0)
    weights = rest + experts * config.experts_per_token / config.experts
    assert token_bytes(model, 0) == pytest.approx(weights)
    row = config.kv_size * 2 * 2
    full = sum(kind is PageKind.FULL for kind in config.layer_kinds)
    seen = full * 1000 + (config.layers - full) * config.sliding_window
    assert token_bytes(model, 1000) == pytest.approx(weights + row * seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--prefill", "many"], "--prefill"), (["--decode", "5000"], "4096")],
)
def test_a_bench_that_cannot_be(
    tiny_packed: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", str(tiny_packed), *options]) == 2
    assert message in capsys.readouterr().err


def test_speed_counts_what_the_row_is_about() -> None:
    assert speed(Measured("prefill:100", 2.0)) == 50
    assert speed(Measured("decode:0:8", 9.0, decode_seconds=4.0, decode_tokens=8)) == 2


def test_pull_finds_what_is_there(
    empty_home: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = empty_home / ".lmstudio" / "models" / "somebody" / "gpt-oss-20b"
    folder.parent.mkdir(parents=True)
    folder.symlink_to(tiny_checkpoint)
    assert run(["pull", "gpt-oss-20b", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert Path(found["path"]) == folder
    assert "LM Studio" in found["source"]


def test_pull_offline_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OSSLO_OFFLINE", "1")
    assert run(["pull", "gpt-oss-20b"]) == 1
    assert "offline" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("amount", "text"),
    [(12, "12 B"), (2048, "2.00 KiB"), (5 << 20, "5.00 MiB"), (3 << 30, "3.00 GiB")],
)
def test_sizes_are_short(amount: int, text: str) -> None:
    assert gib(amount) == text
