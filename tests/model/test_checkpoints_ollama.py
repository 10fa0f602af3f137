"""gpt-oss in GGUF as Ollama's converter has written it over time, from the weights of a folder.

Names, types and orders are written out here as its source has them (ollama/ollama,
`convert/convert_gptoss.go`, `model/models/gptoss/model.go`, `ml/backend/ggml/ggml.go`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from osslo.errors import CheckpointError
from osslo.kernels import formats
from osslo.model.checkpoints import (
    Bf16Matrix,
    Checkpoint,
    GgufVocabulary,
    Mxfp4Matrix,
    TokenizerFile,
    open_checkpoint,
    tensor_names,
)
from osslo.model.checkpoints.gguf import GgmlType, MetadataValue
from osslo.model.checkpoints.writing import GgufSpec, gguf_writer
from osslo.model.config import ModelConfig
from osslo.model.discovery import ModelRoots, find_local
from osslo.model.pack import Precision, pack
from osslo.model.packed_file import read_header
from osslo.model.presets import BYTE_SPECIALS, BYTE_TOKENS, PRESETS
from osslo.model.synth_tokenizer import byte_tokenizer_json, gguf_tokenizer
from osslo.model.tokenizer import Tokenizer
from tests.model.random_models import Checkpoints

SHAPE = replace(
    PRESETS["tiny"],
    hidden=96,
    layers=2,
    layer_kinds=PRESETS["tiny"].layer_kinds[:2],
    intermediate=64,
    experts=3,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Era:
    """One way in which Ollama's files have been laid out."""

    mxfp4: int
    fused_attention: bool
    fused_experts: bool
    output: str = "attn_out"
    sinks: str = "attn_sinks"
    norm: str = "ffn_norm"


PUBLISHED = Era(mxfp4=4, fused_attention=True, fused_experts=True)
ERAS = {
    "published, from original/": PUBLISHED,
    "from Hugging Face's folder": Era(mxfp4=4, fused_attention=False, fused_experts=True),
    "after ggml had MXFP4": Era(mxfp4=39, fused_attention=False, fused_experts=False),
    "after ggml had MXFP4, from original/": Era(
        mxfp4=39, fused_attention=True, fused_experts=False
    ),
    "in llama.cpp's names": Era(
        mxfp4=39,
        fused_attention=False,
        fused_experts=False,
        output="attn_output",
        sinks="attn_sinks.weight",
        norm="post_attention_norm",
    ),
}

Stored = tuple[str, int, NDArray[Any]]
"""Name, type number, and values or blocks."""


def bits(source: Checkpoint, name: str) -> NDArray[np.uint16]:
    matrix = source.matrix(name)
    assert isinstance(matrix, Bf16Matrix)
    return matrix.bits


def attention(source: Checkpoint, era: Era, layer: int) -> Iterator[Stored]:
    start, block = f"layers.{layer}.", f"blk.{layer}."
    yield f"{block}attn_norm.weight", 0, source.vector(f"{start}attention_norm")
    weights = [bits(source, start + part) for part in "qkv"]
    biases = [source.vector(f"{start}{part}_bias") for part in "qkv"]
    if era.fused_attention:
        yield f"{block}attn_qkv.weight", 30, np.concatenate(weights)
        yield f"{block}attn_qkv.bias", 0, np.concatenate(biases)
    else:
        for part, weight, bias in zip("qkv", weights, biases, strict=True):
            yield f"{block}attn_{part}.weight", 30, weight
            yield f"{block}attn_{part}.bias", 0, bias
    yield f"{block}{era.output}.weight", 30, bits(source, f"{start}o")
    yield f"{block}{era.output}.bias", 0, source.vector(f"{start}o_bias")
    yield block + era.sinks, 0, source.vector(f"{start}sinks")


def blocks(source: Checkpoint, era: Era, layer: int, part: str) -> NDArray[np.uint8]:
    """The experts' matrices as `[experts, rows, blocks in a row, 17]`, scales first."""
    pieces = []
    for expert in range(source.config.experts):
        matrix = source.matrix(f"layers.{layer}.experts.{expert}.{part}")
        assert isinstance(matrix, Mxfp4Matrix)
        nibbles = matrix.blocks
        if era.mxfp4 == 39:  # elements 0 to 15 in the low halves, 16 to 31 in the high ones
            codes = np.stack([nibbles & 15, nibbles >> 4], axis=-1).reshape(*nibbles.shape[:-1], 32)
            nibbles = codes[..., :16] | codes[..., 16:] << 4
        pieces.append(np.concatenate([matrix.scales[..., None], nibbles], axis=-1))
    return np.stack(pieces)


def bias(source: Checkpoint, layer: int, part: str) -> NDArray[np.float32]:
    names = (f"layers.{layer}.experts.{i}.{part}_bias" for i in range(source.config.experts))
    return np.stack([source.vector(name) for name in names])


def in_turn(gate: NDArray[Any], up: NDArray[Any]) -> NDArray[Any]:
    both = np.empty((gate.shape[0], 2 * gate.shape[1], *gate.shape[2:]), gate.dtype)
    both[:, 0::2], both[:, 1::2] = gate, up
    return both


def experts(source: Checkpoint, era: Era, layer: int) -> Iterator[Stored]:
    start, block = f"layers.{layer}.", f"blk.{layer}."
    yield f"{block}{era.norm}.weight", 0, source.vector(f"{start}mlp_norm")
    yield f"{block}ffn_gate_inp.weight", 0, source.matrix(f"{start}router").to_float32()
    yield f"{block}ffn_gate_inp.bias", 0, source.vector(f"{start}router_bias")
    found = {part: blocks(source, era, layer, part) for part in ("gate", "up", "down")}
    biases = {part: bias(source, layer, part) for part in ("gate", "up", "down")}
    if era.fused_experts:
        found["gate_up"] = in_turn(found.pop("gate"), found.pop("up"))
        biases["gate_up"] = in_turn(biases.pop("gate"), biases.pop("up"))
    for part, matrices in found.items():
        yield f"{block}ffn_{part}_exps.weight", era.mxfp4, matrices
        yield f"{block}ffn_{part}_exps.bias", 30, formats.bf16_encode(biases[part])


def tensors(source: Checkpoint, era: Era) -> Iterator[Stored]:
    yield "token_embd.weight", 30, bits(source, "embedding")
    for layer in range(source.config.layers):
        yield from attention(source, era, layer)
        yield from experts(source, era, layer)
    yield "output_norm.weight", 0, source.vector("final_norm")
    yield "output.weight", 30, bits(source, "head")


def metadata(config: ModelConfig) -> dict[str, MetadataValue]:
    assert config.yarn is not None
    return {
        "general.architecture": "gptoss",
        "general.file_type": 4,
        "gptoss.context_length": config.max_context,
        "gptoss.block_count": config.layers,
        "gptoss.embedding_length": config.hidden,
        "gptoss.feed_forward_length": config.intermediate,
        "gptoss.expert_count": config.experts,
        "gptoss.expert_used_count": config.experts_per_token,
        "gptoss.attention.head_count": config.heads,
        "gptoss.attention.head_count_kv": config.kv_heads,
        "gptoss.attention.key_length": config.head_dim,
        "gptoss.attention.value_length": config.head_dim,
        "gptoss.attention.layer_norm_rms_epsilon": config.rms_eps,
        "gptoss.attention.sliding_window": config.sliding_window,
        "gptoss.rope.freq_base": config.rope_theta,
        "gptoss.rope.scaling.factor": config.yarn.factor,
        "gptoss.rope.scaling.original_context_length": config.yarn.original_context,
        **tokenizer(config),
    }


def tokenizer(config: ModelConfig) -> dict[str, MetadataValue]:
    """Ollama does not know gpt-oss's pre-tokenizer, and pads up to the rows of the embedding."""
    size = BYTE_TOKENS + len(BYTE_SPECIALS)
    values = gguf_tokenizer(byte_tokenizer_json(size), size)
    names, types = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    assert isinstance(names, list)
    assert isinstance(types, list)
    padding = range(config.vocab_size - size)
    return {
        **values,
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [*names, *(f"[PAD{i}]" for i in padding)],
        "tokenizer.ggml.token_type": [*types, *(4 for _ in padding)],
        "tokenizer.ggml.eos_token_id": config.eos_token_ids[0],
        "tokenizer.ggml.eos_token_ids": [*config.eos_token_ids],
    }


def write(path: Path, config: ModelConfig, stored: Iterable[Stored]) -> Path:
    return write_with(path, metadata(config), stored)


def write_with(path: Path, values: dict[str, MetadataValue], stored: Iterable[Stored]) -> Path:
    kept = list(stored)
    specs = []
    for name, number, values_or_blocks in kept:
        shape, kind = values_or_blocks.shape, GgmlType(number)
        if kind.block_bytes == 17:
            shape = (*shape[:-2], shape[-2] * 32)
        specs.append(GgufSpec(name, kind, shape))
    with gguf_writer(path, values, specs) as writer:
        for name, _, array in kept:
            writer.write(name, array)
    return path


@pytest.fixture(scope="module")
def source(checkpoints: Checkpoints) -> Checkpoint:
    return open_checkpoint(checkpoints.path(SHAPE, "ollama-source", format="safetensors"))


def assert_same(ours: Checkpoint, theirs: Checkpoint) -> None:
    assert ours.names() == tensor_names(SHAPE)
    for name in ours.names():
        if name.endswith(("_bias", "_norm", "sinks")):
            ours_array, theirs_array = ours.vector(name), theirs.vector(name)
            assert ours_array.flags.c_contiguous
        else:
            ours_array = ours.matrix(name).to_float32()
            theirs_array = theirs.matrix(name).to_float32()
        assert ours_array.shape == theirs_array.shape, name
        assert (ours_array == theirs_array).all(), name


@pytest.mark.parametrize("era", ERAS.values(), ids=ERAS)
def test_every_era_gives_the_same_model(tmp_path: Path, source: Checkpoint, era: Era) -> None:
    path = write(tmp_path / "blob", source.config, tensors(source, era))
    opened = open_checkpoint(path)
    assert opened.format == "gguf"
    assert replace(opened.config, rms_eps=source.config.rms_eps) == source.config
    assert_same(opened, source)
    for part in ("gate", "up", "down"):
        name = f"layers.1.experts.2.{part}"
        ours, theirs = opened.matrix(name), source.matrix(name)
        assert isinstance(ours, Mxfp4Matrix)
        assert isinstance(theirs, Mxfp4Matrix)
        assert (ours.blocks == theirs.blocks).all()
        assert (ours.scales == theirs.scales).all()


def test_an_era_is_told_by_its_numbers(source: Checkpoint) -> None:
    """Number 4 keeps the folder's bytes; 39 moves all of them that hold two unlike elements."""
    published = blocks(source, PUBLISHED, 0, "up")
    later = blocks(source, ERAS["after ggml had MXFP4"], 0, "up")
    assert published.shape == later.shape == (3, 64, 3, 17)
    assert (published[..., 0] == later[..., 0]).all()
    assert (published[..., 1:] != later[..., 1:]).mean() > 0.5


def test_the_same_bytes_are_packed(tmp_path: Path, source: Checkpoint) -> None:
    blob = open_checkpoint(write(tmp_path / "blob", source.config, tensors(source, PUBLISHED)))
    precisions: tuple[Precision, ...] = ("default", "exact")
    for precision in precisions:
        ours = digests(pack(blob, tmp_path / "ours.osslo", precision=precision))
        theirs = digests(pack(source, tmp_path / "theirs.osslo", precision=precision))
        assert ours == theirs
        assert "layers.1.gate_up" in ours


def digests(packed: Path) -> dict[str, str]:
    """By name; not the routers', which Ollama's files keep as float32."""
    found = read_header(packed).tensors
    return {t.name: t.sha256 for t in found if t.kind is not None and "router" not in t.name}


def test_a_missing_head_is_the_embedding(tmp_path: Path, source: Checkpoint) -> None:
    stored = [t for t in tensors(source, PUBLISHED) if t[0] != "output.weight"]
    opened = open_checkpoint(write(tmp_path / "blob", source.config, stored))
    assert (opened.matrix("head").to_float32() == opened.matrix("embedding").to_float32()).all()


def test_the_tokenizer_cuts_as_gpt_oss_s_and_has_no_padding(
    tmp_path: Path, source: Checkpoint
) -> None:
    path = write(tmp_path / "blob", source.config, tensors(source, PUBLISHED))
    vocabulary = open_checkpoint(path).tokenizer_source()
    assert isinstance(vocabulary, GgufVocabulary)
    assert len(vocabulary.tokens) == SHAPE.vocab_size
    rebuilt = Tokenizer.from_gguf(vocabulary.metadata)
    assert rebuilt.encode("[PAD3] <|call|>") == list(b"[PAD3] <|call|>")
    assert rebuilt.special("<|call|>") == SHAPE.eos_token_ids[2]
    assert rebuilt.vocab_size == BYTE_TOKENS + len(BYTE_SPECIALS)
    source_path = source.tokenizer_source()
    assert isinstance(source_path, TokenizerFile)
    original = json.loads(Tokenizer.from_file(source_path.path).to_json())
    assert json.loads(rebuilt.to_json())["pre_tokenizer"] == original["pre_tokenizer"]


def test_a_model_without_scaling_has_no_yarn(tmp_path: Path, source: Checkpoint) -> None:
    values = metadata(source.config)
    for factor in (1.0, None):
        if factor is None:
            del values["gptoss.rope.scaling.factor"]
        else:
            values["gptoss.rope.scaling.factor"] = factor
        assert ModelConfig.from_gguf(values).yarn is None


WRONG: dict[str, tuple[str, tuple[int, NDArray[Any]] | None, str]] = {
    "no sinks": ("blk.1.attn_sinks", None, "tensor blk.1.attn_sinks is missing"),
    "no query": ("blk.0.attn_qkv.weight", None, "tensor blk.0.attn_qkv.weight is missing"),
    "short fusion": (
        "blk.1.attn_qkv.weight",
        (30, np.zeros((255, 96), np.uint16)),
        r"blk.1.attn_qkv.weight is BF16 \[255, 96\], but must be .* \[256, 96\]",
    ),
    "gates alone": (
        "blk.0.ffn_gate_up_exps.weight",
        (4, np.zeros((3, 64, 3, 17), np.uint8)),
        r"gate_up_exps.weight is MXFP4_PAIRS \[3, 64, 96\], but must be .* \[3, 128, 96\]",
    ),
    "blocks for a vector": (
        "blk.0.ffn_norm.weight",
        (4, np.zeros((3, 17), np.uint8)),
        r"ffn_norm.weight is MXFP4_PAIRS \[96\], but must be F32 or F16 or BF16 \[96\]",
    ),
}


@pytest.mark.parametrize(("name", "changed", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_tensor_is_one_clear_line(
    tmp_path: Path,
    source: Checkpoint,
    name: str,
    changed: tuple[int, NDArray[Any]] | None,
    message: str,
) -> None:
    stored = [t for t in tensors(source, PUBLISHED) if t[0] != name]
    if changed is not None:
        stored.append((name, *changed))
    assert_refused(write(tmp_path / "blob", source.config, stored), message)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("general.architecture", "gpt-oss", "gpt-oss.block_count is missing"),
        ("gptoss.feed_forward_length", "x", "gptoss.feed_forward_length is 'x'"),
        ("gptoss.expert_count", 4, r"tensor blk.0.ffn_gate_inp.weight is F32 \[3, 96\]"),
        ("gptoss.rope.scaling.factor", 0.0, "yarn.factor is 0.0"),
        ("tokenizer.ggml.eos_token_ids", [320], "eos_token_ids"),
    ],
)
def test_wrong_metadata_is_one_clear_line(
    tmp_path: Path, source: Checkpoint, key: str, value: MetadataValue, message: str
) -> None:
    values = {**metadata(source.config), key: value}
    path = write_with(tmp_path / "blob", values, tensors(source, PUBLISHED))
    assert_refused(path, message)


def test_a_scale_that_is_no_number_is_refused(tmp_path: Path, source: Checkpoint) -> None:
    stored = list(tensors(source, PUBLISHED))
    for name, _, array in stored:
        if name == "blk.1.ffn_gate_up_exps.weight":
            array[2, 1, 0, 0] = 255  # row 1: the first of `up`
    opened = open_checkpoint(write(tmp_path / "blob", source.config, stored))
    opened.matrix("layers.1.experts.2.gate")
    with pytest.raises(CheckpointError, match=r"experts\.2\.up has an MXFP4 scale of 255"):
        opened.matrix("layers.1.experts.2.up")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.999])
def test_a_truncated_blob_is_one_clear_line(
    tmp_path: Path, source: Checkpoint, kept: float
) -> None:
    path = write(tmp_path / "blob", source.config, tensors(source, PUBLISHED))
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: int(len(data) * kept)])
    assert_refused(path, "truncated")


def assert_refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert "\n" not in caught.value.message


def test_a_blob_that_ollama_fetched_is_found_and_read(tmp_path: Path, source: Checkpoint) -> None:
    digest = "5" * 64
    media = "application/vnd.ollama.image"
    layers = [
        {"mediaType": f"{media}.model", "digest": f"sha256:{digest}"},
        {"mediaType": f"{media}.template", "digest": "sha256:" + "6" * 64},
    ]
    manifest = tmp_path / "ollama/manifests/registry.ollama.ai/library/gpt-oss/20b"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    blob = tmp_path / f"ollama/blobs/sha256-{digest}"
    blob.parent.mkdir()
    write(blob, source.config, tensors(source, PUBLISHED))
    roots = ModelRoots(models=tmp_path / "models", ollama=tmp_path / "ollama")
    (found,) = find_local(roots, "gpt-oss:20b")
    assert (found.path, found.source, found.format) == (blob, "Ollama", "gguf")
    assert_same(open_checkpoint(found.path), source)
