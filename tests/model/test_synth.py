"""Random checkpoints: the exact shapes, the same from the same seed, and nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from osslo.errors import ConfigurationError
from osslo.model.checkpoints import Mxfp4Matrix, open_checkpoint
from osslo.model.checkpoints.export import huggingface_config
from osslo.model.presets import BYTE_SPECIALS, PRESETS, preset
from osslo.model.reference import ReferenceModel
from osslo.model.synth import Format, random_checkpoint, synthesize, write_random
from osslo.model.tokenizer import Tokenizer
from tests.model.random_models import SMALLEST, Checkpoints

FORMATS: tuple[Format, ...] = ("safetensors", "original", "gguf")


def contents(path: Path) -> bytes:
    return (path / "model.safetensors" if path.is_dir() else path).read_bytes()


@pytest.mark.parametrize("form", FORMATS)
def test_the_seed_decides(tmp_path: Path, form: Format) -> None:
    first, again, other = (
        write_random(SMALLEST, tmp_path / name, format=form, seed=seed)
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert contents(first) == contents(again) != contents(other)


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("tiny")])
def test_activations_stay_sane(checkpoints: Checkpoints, name: str) -> None:
    model = ReferenceModel(open_checkpoint(checkpoints.preset(name, "safetensors")))
    ids = np.random.default_rng(0).integers(0, model.vocab_size, 40).tolist()
    logits = model.logits(ids)
    assert np.isfinite(logits).all()
    assert 1 < logits.std() < 10
    assert len(set(logits.argmax(axis=1).tolist())) > 10


def test_safetensors_has_the_shapes_transformers_wants(checkpoints: Checkpoints) -> None:
    config = preset("tiny-odd")
    folder = checkpoints.preset("tiny-odd", "safetensors")
    with safe_open(folder / "model.safetensors", "numpy") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  # no mapping
    layer = "model.layers.2."
    assert shapes["lm_head.weight"] == [777, 160]
    assert shapes[f"{layer}self_attn.q_proj.weight"] == [384, 160]
    assert shapes[f"{layer}self_attn.k_proj.bias"] == [128]
    assert shapes[f"{layer}mlp.router.weight"] == [5, 160]
    assert shapes[f"{layer}mlp.experts.gate_up_proj_blocks"] == [5, 448, 5, 16]
    assert shapes[f"{layer}mlp.experts.gate_up_proj_scales"] == [5, 448, 5]
    assert shapes[f"{layer}mlp.experts.gate_up_proj_bias"] == [5, 448]
    assert shapes[f"{layer}mlp.experts.down_proj_blocks"] == [5, 160, 7, 16]
    assert len(shapes) == 3 + 19 * config.layers
    assert json.loads((folder / "config.json").read_text()) == huggingface_config(
        config, mxfp4=True
    )


def test_progress_reaches_the_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = write_random(SMALLEST, tmp_path / "m", progress=lambda *step: seen.append(step))
    done = [step[0] for step in seen]
    assert done == sorted(done)
    assert {step[1] for step in seen} == {done[-1]} == {open_checkpoint(path).stored_bytes()}


class StopHereError(Exception):
    pass


@pytest.mark.parametrize("form", FORMATS)
def test_an_interrupted_write_leaves_nothing_that_opens(tmp_path: Path, form: Format) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise StopHereError

    out = tmp_path / "model"
    with pytest.raises(StopHereError):
        write_random(SMALLEST, out, format=form, progress=stop)
    assert not out.exists()
    assert open_checkpoint(write_random(SMALLEST, out, format=form)).config.hidden == 32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda out: synthesize("gpt-5", out), "no preset 'gpt-5'; there are gpt-oss-20b, "),
        (lambda out: synthesize("tiny", out.parent), "exists already"),
        (
            lambda out: write_random(replace(SMALLEST, vocab_size=2**31 - 1, hidden=2**20), out),
            "GB are needed",
        ),
        (lambda out: write_random(replace(SMALLEST, hidden=40), out), "hidden is 40"),
        (
            lambda out: write_random(replace(SMALLEST, head_dim=8), out, format="gguf"),
            r"heads \* head_dim is 16",
        ),
    ],
)
def test_what_cannot_be_written(
    tmp_path: Path, call: Callable[[Path], object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        call(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_plain_experts_need_no_blocks(tmp_path: Path) -> None:
    config = replace(SMALLEST, hidden=36, intermediate=20)
    opened = open_checkpoint(random_checkpoint(tmp_path / "m", config, 3, experts="plain"))
    down = opened.matrix("layers.1.experts.0.down")
    assert (down.rows, down.cols) == (36, 20)


def test_scales_and_codes_vary(checkpoints: Checkpoints) -> None:
    opened = open_checkpoint(checkpoints.preset("tiny", "safetensors"))
    matrix = opened.matrix("layers.0.experts.0.gate")
    assert isinstance(matrix, Mxfp4Matrix)
    assert len(np.unique(matrix.scales)) == 3
    assert len(np.unique(matrix.blocks)) == 256


def test_small_presets_come_with_a_byte_tokenizer(checkpoints: Checkpoints) -> None:
    folder = checkpoints.preset("tiny", "safetensors")
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    assert tokenizer.vocab_size == preset("tiny").vocab_size
    assert tokenizer.encode("Oslo ø<|end|>") == list("Oslo ø<|end|>".encode())
    assert [tokenizer.special(name) for name in BYTE_SPECIALS] == list(range(256, 265))
    eos = [tokenizer.special(n) for n in ("<|return|>", "<|endoftext|>", "<|call|>")]
    assert eos == list(open_checkpoint(folder).config.eos_token_ids)
    source = open_checkpoint(checkpoints.preset("tiny", "gguf")).tokenizer_source()
    assert source is not None
    rebuilt = Tokenizer.from_gguf(source.metadata)  # type: ignore[union-attr]  # of a GGUF file
    assert rebuilt.token_table() == tokenizer.token_table()


def test_a_given_tokenizer_is_kept_in_both_formats(
    tmp_path: Path, checkpoints: Checkpoints
) -> None:
    text = (checkpoints.preset("tiny", "safetensors") / "tokenizer.json").read_text()
    config = replace(SMALLEST, vocab_size=400)
    folder = write_random(config, tmp_path / "m", tokenizer_json=text)
    assert (folder / "tokenizer.json").read_text() == text
    file = write_random(config, tmp_path / "m.gguf", format="gguf", tokenizer_json=text)
    source = open_checkpoint(file).tokenizer_source()
    tokenizer = Tokenizer.from_gguf(source.metadata)  # type: ignore[union-attr]  # of a GGUF file
    assert tokenizer.vocab_size == 400
    assert tokenizer.special("<|call|>") == 264
