"""Checkpoints of every layout: the same model read from each, and one clear line for what is wrong.

That the values mean what `transformers` takes them for is `test_reference_model`'s.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from osslo.errors import CheckpointError, OssloError
from osslo.model.checkpoints import (
    Bf16Matrix,
    Checkpoint,
    F16Matrix,
    F32Matrix,
    GgufVocabulary,
    Mxfp4Matrix,
    Q8Matrix,
    TokenizerFile,
    open_checkpoint,
    tensor_names,
)
from osslo.model.config import ModelConfig
from osslo.model.presets import PRESETS
from osslo.model.synth import Format, write_random
from tests.model.random_models import SMALLEST, Checkpoints

FORMATS: tuple[Format, ...] = ("safetensors", "original", "gguf")


def is_vector(name: str) -> bool:
    return name.endswith(("_bias", "_norm", "sinks"))


def assert_same(ours: Checkpoint, theirs: Checkpoint) -> None:
    assert ours.names() == theirs.names() == tensor_names(ours.config)
    for name in ours.names():
        if is_vector(name):
            a, b = ours.vector(name), theirs.vector(name)
        else:
            a, b = ours.matrix(name).to_float32(), theirs.matrix(name).to_float32()
        assert a.dtype == np.float32
        assert a.shape == b.shape, name
        assert (a == b).all(), name


@pytest.mark.parametrize("experts", ["mxfp4", "plain"])
def test_every_layout_gives_the_same_model(checkpoints: Checkpoints, experts: str) -> None:
    config = replace(PRESETS["tiny"], rope_theta=150000.0, max_context=4096)
    opened = [
        open_checkpoint(checkpoints.path(config, "same", format=f, experts=experts))
        for f in FORMATS
    ]
    assert [c.format for c in opened] == ["huggingface", "original", "gguf"]
    for other in opened[1:]:
        assert_same(opened[0], other)
    plain = [replace(c.config, eos_token_ids=(), rms_eps=1e-5) for c in opened]
    assert plain[0] == plain[1] == plain[2]


@pytest.mark.parametrize("name", ["tiny-odd", "tiny-128-experts", "tiny-full"])
def test_odd_shapes_are_the_same_in_gguf(checkpoints: Checkpoints, name: str) -> None:
    folder, file = (checkpoints.preset(name, f) for f in ("safetensors", "gguf"))
    assert_same(open_checkpoint(folder), open_checkpoint(file))


def test_each_matrix_keeps_the_numbers_of_its_file(checkpoints: Checkpoints) -> None:
    kinds = {
        ("safetensors", "mxfp4"): (Bf16Matrix, Bf16Matrix, Mxfp4Matrix),
        ("safetensors", "plain"): (Bf16Matrix, Bf16Matrix, Bf16Matrix),
        ("original", "mxfp4"): (Bf16Matrix, Bf16Matrix, Mxfp4Matrix),
        ("gguf", "mxfp4"): (Q8Matrix, F32Matrix, Mxfp4Matrix),
        ("gguf", "plain"): (Q8Matrix, F32Matrix, Q8Matrix),
    }
    names = ("layers.1.q", "layers.1.router", "layers.1.experts.1.up")
    for (form, experts), wanted in kinds.items():
        opened = open_checkpoint(checkpoints.smallest(form, experts))
        assert tuple(type(opened.matrix(name)) for name in names) == wanted
        up = opened.matrix(names[2])
        assert (up.rows, up.cols) == (SMALLEST.intermediate, SMALLEST.hidden)


def test_gate_and_up_rows_alternate(checkpoints: Checkpoints) -> None:
    """Read with the safetensors library, by the convention as published."""
    folder = checkpoints.smallest("safetensors")
    opened = open_checkpoint(folder)
    with safe_open(folder / "model.safetensors", "numpy") as file:
        blocks = file.get_tensor("model.layers.0.mlp.experts.gate_up_proj_blocks")
        scales = file.get_tensor("model.layers.0.mlp.experts.gate_up_proj_scales")
    for offset, part in enumerate(("gate", "up")):
        matrix = opened.matrix(f"layers.0.experts.1.{part}")
        assert isinstance(matrix, Mxfp4Matrix)
        assert (matrix.blocks == blocks[1, offset::2]).all()
        assert (matrix.scales == scales[1, offset::2]).all()


def test_safetensors_matrices_are_views_of_the_file(checkpoints: Checkpoints) -> None:
    opened = open_checkpoint(checkpoints.smallest("safetensors"))
    gate, query = opened.matrix("layers.0.experts.0.gate"), opened.matrix("layers.0.q")
    assert isinstance(gate, Mxfp4Matrix)
    assert isinstance(query, Bf16Matrix)
    for array in (gate.blocks, gate.scales, query.bits):
        assert not array.flags.owndata
        assert not array.flags.writeable


def test_other_float_types_and_a_tied_head(tmp_path: Path) -> None:
    config = SMALLEST
    folder = write_random(config, tmp_path / "model", experts="plain")
    before = open_checkpoint(folder)
    wanted = before.matrix("layers.0.experts.1.down").to_float32().copy()
    rewrite(folder, lambda tensors: tensors.pop("lm_head.weight"))
    settings = json.loads((folder / "config.json").read_text())
    with pytest.raises(CheckpointError, match=r"tensor lm_head\.weight is missing"):
        open_checkpoint(folder)
    (folder / "config.json").write_text(json.dumps({**settings, "tie_word_embeddings": True}))
    opened = open_checkpoint(folder)
    assert isinstance(opened.matrix("layers.0.experts.1.down"), F16Matrix)
    assert isinstance(opened.matrix("layers.0.q"), F32Matrix)
    head, embedding = opened.matrix("head").to_float32(), opened.matrix("embedding").to_float32()
    assert (head == embedding).all()
    assert (opened.matrix("layers.0.experts.1.down").to_float32() == wanted).all()
    assert opened.vector("layers.0.sinks").dtype == np.float32


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Save a BF16 model again: experts as F16, the rest as F32, after `change`."""
    from safetensors.torch import load_file

    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        kind = np.float16 if name.endswith(("gate_up_proj", "down_proj")) else np.float32
        tensors[name] = tensor.float().numpy().astype(kind)
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_a_sharded_model_is_read_as_one(tmp_path: Path, checkpoints: Checkpoints) -> None:
    whole = open_checkpoint(checkpoints.smallest("safetensors"))
    folder = write_random(SMALLEST, tmp_path / "sharded", seed=5, shard_bytes=6000)
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 3
    sharded = open_checkpoint(folder)
    assert_same(whole, sharded)
    assert sharded.stored_bytes() == whole.stored_bytes()
    first = sorted(folder.glob("model-*.safetensors"))[0]
    first.unlink()
    with pytest.raises(CheckpointError, match=f"{first.name}: cannot be read"):
        open_checkpoint(folder)


def test_an_index_may_only_name_files_beside_it(tmp_path: Path) -> None:
    folder = write_random(SMALLEST, tmp_path / "sharded", shard_bytes=6000)
    index = folder / "model.safetensors.index.json"
    for name in ("../x.safetensors", "/x", "", ".."):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(CheckpointError):
            open_checkpoint(folder)
    index.write_text(json.dumps({"weight_map": ["a"]}))
    with pytest.raises(CheckpointError, match="weight_map is not an object"):
        open_checkpoint(folder)


def test_names_sizes_and_files_are_described(checkpoints: Checkpoints) -> None:
    for form in FORMATS:
        opened = open_checkpoint(checkpoints.smallest(form))
        rows = opened.describe()
        assert sum(row.stored_bytes for row in rows) == opened.stored_bytes()
        assert len({row.name for row in rows}) == len(rows)
    by_name = {row.name: row for row in rows}
    up = by_name["blk.1.ffn_up_exps.weight"]
    assert (up.dtype, up.shape, up.stored_bytes) == ("MXFP4", (2, 32, 32), 2 * 32 * 17)


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    for form in FORMATS:
        path = write_random(SMALLEST, tmp_path / form, format=form)
        before = open_checkpoint(path).fingerprint()
        assert open_checkpoint(path).fingerprint() == before
        weights = path if form == "gguf" else path / "model.safetensors"
        os.utime(weights, ns=(1, 1))
        touched = open_checkpoint(path).fingerprint()
        assert touched != before
        other = write_random(SMALLEST, tmp_path / f"{form}-2", format=form, seed=1)
        assert open_checkpoint(other).fingerprint() != before


def test_tokenizers_are_found(tmp_path: Path, checkpoints: Checkpoints) -> None:
    folder = checkpoints.preset("tiny", "safetensors")
    assert open_checkpoint(folder).tokenizer_source() == TokenizerFile(folder / "tokenizer.json")
    vocabulary = open_checkpoint(checkpoints.preset("tiny", "gguf")).tokenizer_source()
    assert isinstance(vocabulary, GgufVocabulary)
    assert len(vocabulary.tokens) == len(vocabulary.token_types) == PRESETS["tiny"].vocab_size
    assert vocabulary.tokens[261] == "<|start|>"
    assert vocabulary.pre == "gpt-4o"
    assert vocabulary.merges == []
    assert open_checkpoint(checkpoints.smallest("safetensors")).tokenizer_source() is None
    assert open_checkpoint(checkpoints.smallest("gguf")).tokenizer_source() is None
    # a repository as OpenAI publishes it: the tokenizer one folder above `original/`
    repository = tmp_path / "repository"
    shutil.copytree(checkpoints.smallest("original"), repository / "original")
    (repository / "tokenizer.json").write_text("{}")
    found = open_checkpoint(repository)
    assert found.format == "original"
    assert found.tokenizer_source() == TokenizerFile(repository / "tokenizer.json")


def test_a_gguf_is_found_in_a_folder_and_without_its_ending(
    tmp_path: Path, checkpoints: Checkpoints
) -> None:
    source = checkpoints.smallest("gguf")
    shutil.copy(source, tmp_path / "model.gguf")
    assert open_checkpoint(tmp_path).format == "gguf"
    shutil.copy(source, tmp_path / "sha256-0123")  # as Ollama keeps it
    assert open_checkpoint(tmp_path / "sha256-0123").format == "gguf"
    shutil.copy(source, tmp_path / "second.gguf")
    with pytest.raises(CheckpointError, match=r"several GGUF models \(model.gguf, second.gguf\)"):
        open_checkpoint(tmp_path)


def test_unknown_names_and_kinds(checkpoints: Checkpoints) -> None:
    for form in FORMATS:
        opened = open_checkpoint(checkpoints.smallest(form))
        for name in (
            "",
            "layers.2.q",
            "layers.01.q",
            "layers.0.experts.2.up",
            "layers.0.gate",
            "layers.0.experts.0.q",
            "layers.0.sinks_bias",
            "layers.0.q_bias_bias",
            "head_bias",
        ):
            with pytest.raises(CheckpointError, match=f"has no tensor {name}"):
                opened.matrix(name)
        with pytest.raises(CheckpointError, match=r"layers\.0\.sinks is a vector"):
            opened.matrix("layers.0.sinks")
        with pytest.raises(CheckpointError, match="head is a matrix"):
            opened.vector("head")


def test_e8m0_255_is_refused_and_0_is_exact(tmp_path: Path) -> None:
    for form in ("safetensors", "gguf"):
        path = write_random(SMALLEST, tmp_path / form, format=form)
        weights = path if form == "gguf" else path / "model.safetensors"
        stored = weights.read_bytes()
        opened = open_checkpoint(path)
        matrix = opened.matrix("layers.1.experts.1.down")
        assert isinstance(matrix, Mxfp4Matrix)
        place = stored.index(
            matrix.scales.tobytes()
            if form == "safetensors"
            else gguf_rows(opened.path, "blk.1.ffn_down_exps.weight")
        )
        for scale in (255, 0):
            changed = bytearray(stored)
            changed[place] = scale
            weights.unlink()
            weights.write_bytes(changed)
            if scale == 255:
                with pytest.raises(CheckpointError, match=r"layers\.1\.experts\.1\.down has an MX"):
                    open_checkpoint(path).matrix("layers.1.experts.1.down")
            else:
                found = open_checkpoint(path).matrix("layers.1.experts.1.down").to_float32()
                assert 0 < np.abs(found[0]).max() <= 6 * 2.0**-127


def gguf_rows(path: Path, name: str) -> bytes:
    """The stored bytes of the last expert of a tensor."""
    from osslo.model.checkpoints.gguf import GgufFile

    return GgufFile(path).blocks(name)[-1].tobytes()


# --- what is wrong --------------------------------------------------------------------------------


def edit_header(path: Path, change: Callable[[dict[str, dict[str, object]]], object]) -> None:
    """Change the JSON header of a safetensors file and leave its data as they are."""
    stored = path.read_bytes()
    length = int.from_bytes(stored[:8], "little")
    header = json.loads(stored[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + stored[8 + length :])


SINKS = "model.layers.0.self_attn.sinks"
BLOCKS = "model.layers.0.mlp.experts.down_proj_blocks"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.pop(SINKS), f"tensor {SINKS} is missing"),
        (lambda h: h[SINKS].update(dtype="F16", shape=[1, 2]), f"{SINKS} is F16 [1, 2], but must"),
        (lambda h: h[SINKS].update(dtype="I16"), f"{SINKS} is I16 [2], but must be F32 or F16"),
        (lambda h: h[SINKS].update(shape=[3]), f"{SINKS}: BF16 [3] does not fill its 4 bytes"),
        (lambda h: h[SINKS].update(shape=[-2]), f"{SINKS}: its shape is not a list of sizes"),
        (lambda h: h[SINKS].update(shape="2"), f"{SINKS}: its shape is not a list of sizes"),
        (lambda h: h[SINKS].update(data_offsets=[4, 0]), f"{SINKS}: its data_offsets are not"),
        (lambda h: h[SINKS].update(data_offsets=[0, 4]), "overlaps another one"),
        (lambda h: h[SINKS].update(data_offsets=[10**9, 10**9 + 4]), f"{SINKS}: truncated"),
        (lambda h: h[SINKS].pop("dtype"), f"{SINKS}: its dtype is missing"),
        (lambda h: h.update({SINKS: 3}), f"{SINKS}: its header entry is not an object"),
        (lambda h: h.pop(BLOCKS), "tensor model.layers.0.mlp.experts.down_proj is missing"),
        (
            lambda h: h[BLOCKS].update(shape=[2, 32, 16, 1]),
            f"{BLOCKS} is U8 [2, 32, 16, 1], but must be U8 [2, 32, 1, 16]",
        ),
        (
            lambda h: h.pop(BLOCKS.replace("blocks", "scales")),
            "down_proj_scales is missing",
        ),
    ],
)
def test_a_wrong_safetensors_entry_is_named(
    tmp_path: Path, change: Callable[[dict[str, dict[str, object]]], object], message: str
) -> None:
    folder = write_random(SMALLEST, tmp_path / "model")
    edit_header(folder / "model.safetensors", change)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    assert message in caught.value.message
    assert str(folder) in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\x01", "truncated"),
        (b"\xff" * 100, "not a safetensors file"),
        ((80).to_bytes(8, "little") + b"{}", "the file ends inside its header"),
        ((2).to_bytes(8, "little") + b"[]", "not a JSON object"),
        ((2).to_bytes(8, "little") + b"\xff\xff", "not valid JSON"),
        ((2).to_bytes(8, "little") + b"{}", "is missing"),
        ((15).to_bytes(8, "little") + b'{"a":1,"a":  2}', "appears twice"),
        ((100_000).to_bytes(8, "little") + b"[" * 100_000, "not valid JSON"),
    ],
)
def test_a_foreign_safetensors_file(
    tmp_path: Path, checkpoints: Checkpoints, content: bytes, message: str
) -> None:
    config = (checkpoints.smallest("safetensors") / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in caught.value.message


def test_a_config_that_does_not_fit_the_tensors(tmp_path: Path) -> None:
    folder = write_random(SMALLEST, tmp_path / "model")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "num_attention_heads": 4}))
    with pytest.raises(CheckpointError, match=r"q_proj\.weight is BF16 \[64, 32\], but must be .*"):
        open_checkpoint(folder)
    (folder / "config.json").write_text(json.dumps({**settings, "hidden_size": 33}))
    with pytest.raises(CheckpointError, match="embed_tokens"):
        open_checkpoint(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: not valid JSON"):
        open_checkpoint(folder)


def test_mxfp4_rows_that_have_no_blocks(tmp_path: Path) -> None:
    config: ModelConfig = replace(SMALLEST, intermediate=40)
    folder = write_random(config, tmp_path / "model", experts="plain")

    def quantised(tensors: dict[str, np.ndarray]) -> None:
        name = "model.layers.0.mlp.experts.down_proj"
        del tensors[name]
        tensors[f"{name}_blocks"] = np.zeros((2, 32, 1, 16), np.uint8)
        tensors[f"{name}_scales"] = np.zeros((2, 32, 1), np.uint8)

    rewrite(folder, quantised)
    with pytest.raises(CheckpointError, match="rows of 40 values do not divide into blocks"):
        open_checkpoint(folder)


def test_paths_that_are_no_checkpoint(tmp_path: Path, checkpoints: Checkpoints) -> None:
    config = (checkpoints.smallest("safetensors") / "config.json").read_text()
    (tmp_path / "empty").mkdir()
    (tmp_path / "only-config").mkdir()
    (tmp_path / "only-config" / "config.json").write_text(config)
    (tmp_path / "text").write_text("hello")
    (tmp_path / "a.safetensors").write_text("hello")
    for name, message in (
        ("nowhere", "there is no such file or folder"),
        ("empty", "not a model folder"),
        ("only-config", "there is no safetensors file beside config.json"),
        ("text", "not a checkpoint"),
        ("a.safetensors", "give the folder"),
    ):
        with pytest.raises(OssloError, match=message) as caught:
            open_checkpoint(tmp_path / name)
        assert isinstance(caught.value, CheckpointError)
        assert str(tmp_path / name) in caught.value.message
