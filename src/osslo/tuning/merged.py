"""Writing whole models: canonical float32 tensors as a Hugging Face folder or a GGUF file.

Tensors come one at a time from a function, so that memory stays at one stored tensor. Matrices are
BF16, experts MXFP4 or BF16, vectors float32.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osslo.errors import ConfigurationError
from osslo.kernels import formats
from osslo.model.checkpoints.export import gguf_metadata, huggingface_config
from osslo.model.checkpoints.gguf import GgmlType, MetadataValue, pairs_to_halves
from osslo.model.checkpoints.layouts import GGUF, HUGGINGFACE, Expected
from osslo.model.checkpoints.safetensors_checkpoint import CONFIG_NAME, INDEX_NAME, TOKENIZER_NAME
from osslo.model.checkpoints.writing import (
    GgufSpec,
    OrderedWriter,
    SafeSpec,
    gguf_writer,
    safetensors_writer,
)
from osslo.model.config import ModelConfig
from osslo.model.synth_tokenizer import gguf_tokenizer
from osslo.model.tokenizer import Tokenizer

_SHARD_BYTES = 5_000_000_000
_SPARE_BYTES = 64_000_000

Float = NDArray[np.float32]
TensorSource = Callable[[str], Float]
"""A canonical tensor by its name, float32."""

Progress = Callable[[int, int], None]
"""Called with the tensors written so far, and how many there are."""


class Experts(StrEnum):
    MXFP4 = "mxfp4"
    BF16 = "bf16"


@dataclass(frozen=True, slots=True)
class _Entry:
    """One tensor to be written: its spec and its contents in pieces."""

    spec: SafeSpec | GgufSpec
    pieces: Callable[[], Iterator[NDArray[Any]]]


def rounded(values: Float, experts: Experts | None) -> Float:
    """A matrix as it will be read back; `experts` None stands for matrices outside of them."""
    if experts is Experts.MXFP4:
        return formats.mxfp4_decode(*formats.mxfp4_encode(values))
    return formats.bf16_decode(formats.bf16_encode(values))


def write_model(
    folder: Path,
    config: ModelConfig,
    source: TensorSource,
    tokenizer: Tokenizer,
    *,
    experts: Experts,
    card: str,
    notices: Mapping[str, str] | None = None,
    shard_bytes: int = _SHARD_BYTES,
    progress: Progress | None = None,
) -> None:
    """Write a Hugging Face folder, whole or not at all, in the place of one that is there.

    `notices` are more files by name. Raises `ConfigurationError` if the disk is too full or rows
    do not divide into MXFP4's blocks.
    """
    check_experts(config, experts)
    entries = [e for item in HUGGINGFACE.expected(config) for e in _safe(item, source, experts)]
    _check_space(folder, entries)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shards = _shards(entries, shard_bytes)
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    names = ["model.safetensors"] if len(shards) == 1 else names
    done = 0
    for name, shard in zip(names, shards, strict=True):
        specs = [entry.spec for entry in shard if isinstance(entry.spec, SafeSpec)]
        with safetensors_writer(partial / name, specs) as writer:
            done = _write(writer, shard, done, len(entries), progress)
    _write_texts(partial, config, tokenizer, experts, {"README.md": card, **(notices or {})})
    if len(shards) > 1:
        placed = zip(names, shards, strict=True)
        index = {entry.spec.name: name for name, shard in placed for entry in shard}
        size = sum(entry.spec.stored_bytes for entry in entries)
        whole = {"metadata": {"total_size": size}, "weight_map": index}
        (partial / INDEX_NAME).write_text(json.dumps(whole, indent=2), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def write_gguf(
    path: Path,
    config: ModelConfig,
    source: TensorSource,
    tokenizer: Tokenizer,
    *,
    experts: Experts,
    metadata: Mapping[str, MetadataValue],
    progress: Progress | None = None,
) -> None:
    """Write a GGUF file, whole or not at all. Raises as `write_model`."""
    check_experts(config, experts)
    entries = [_gguf(item, source, experts) for item in GGUF.expected(config)]
    _check_space(path, entries)
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {
        **gguf_metadata(config),
        **metadata,
        **gguf_tokenizer(tokenizer.to_json(), config.vocab_size),
    }
    specs = [entry.spec for entry in entries if isinstance(entry.spec, GgufSpec)]
    with gguf_writer(path, values, specs) as writer:
        _write(writer, entries, 0, len(entries), progress)


def check_experts(config: ModelConfig, experts: Experts) -> None:
    """Raises `ConfigurationError` where MXFP4 cannot hold this model's experts."""
    for name, size in (("hidden", config.hidden), ("intermediate", config.intermediate)):
        if experts is Experts.MXFP4 and size % formats.BLOCK:
            raise ConfigurationError(
                f"MXFP4 needs rows of a multiple of {formats.BLOCK}, but {name} is {size}; "
                "use --experts bf16"
            )


# --- tensors --------------------------------------------------------------------------------------


def _names(item: Expected, expert: int | None) -> list[str]:
    """Canonical names of what is fused in a stored tensor (of one expert)."""
    start = "" if item.layer is None else f"layers.{item.layer}."
    start += "" if expert is None else f"experts.{expert}."
    ends = {"gate_bias": "gate_bias", "up_bias": "up_bias", "down_bias": "down_bias"}
    return [start + ends.get(part, part) for part in item.parts]


def _fused(item: Expected, source: TensorSource, expert: int | None) -> Float:
    """The rows of an expert's parts take turns; others stand alone."""
    parts = [source(name) for name in _names(item, expert)]
    if len(parts) == 1:
        return parts[0]
    return np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])


def _each(item: Expected, source: TensorSource) -> Iterator[Float]:
    count = item.shape[0]
    return (_fused(item, source, expert) for expert in range(count))


def _safe(item: Expected, source: TensorSource, experts: Experts) -> Iterator[_Entry]:
    shape = item.shape
    if not item.is_expert:
        dtype = "BF16" if item.is_matrix else "F32"
        encode = formats.bf16_encode if item.is_matrix else np.ascontiguousarray
        yield _Entry(
            SafeSpec(item.stored, dtype, shape),
            lambda: iter([encode(_fused(item, source, None))]),
        )
    elif not item.is_matrix:
        yield _Entry(SafeSpec(item.stored, "F32", shape), lambda: _each(item, source))
    elif experts is Experts.BF16:
        count, rows, cols = shape
        yield _Entry(
            SafeSpec(item.stored, "BF16", (count, cols, rows)),
            lambda: (formats.bf16_encode(one).T for one in _each(item, source)),
        )
    else:
        count, rows, cols = shape
        groups = (count, rows, cols // formats.BLOCK)
        for which, name in enumerate((HUGGINGFACE.blocks, HUGGINGFACE.scales)):
            stored = (*groups, formats.BLOCK // 2) if which == 0 else groups
            yield _Entry(
                SafeSpec(item.stored + name, "U8", stored),
                lambda which=which: (  # type: ignore[misc]
                    formats.mxfp4_encode(one)[which] for one in _each(item, source)
                ),
            )


def _gguf(item: Expected, source: TensorSource, experts: Experts) -> _Entry:
    is_router = item.parts == ("router",)
    if not item.is_matrix or is_router:
        kind = GgmlType.F32
    elif item.is_expert and experts is Experts.MXFP4:
        kind = GgmlType.MXFP4
    else:
        kind = GgmlType.BF16

    def pieces() -> Iterator[NDArray[Any]]:
        whole = _each(item, source) if item.is_expert else iter([_fused(item, source, None)])
        return (_ggml(one, kind) for one in whole)

    return _Entry(GgufSpec(item.stored, kind, item.shape), pieces)


def _ggml(values: Float, kind: GgmlType) -> NDArray[Any]:
    match kind:
        case GgmlType.MXFP4:
            blocks, scales = formats.mxfp4_encode(values)
            return np.concatenate([scales[..., None], pairs_to_halves(blocks)], axis=-1)
        case GgmlType.BF16:
            return formats.bf16_encode(values)
        case _:
            return np.ascontiguousarray(values, np.float32)


# --- files ----------------------------------------------------------------------------------------


def _write(
    writer: OrderedWriter,
    entries: list[_Entry],
    done: int,
    total: int,
    progress: Progress | None,
) -> int:
    for entry in entries:
        for piece in entry.pieces():
            writer.write(entry.spec.name, piece)
        done += 1
        if progress is not None:
            progress(done, total)
    return done


def _shards(entries: list[_Entry], shard_bytes: int) -> list[list[_Entry]]:
    shards: list[list[_Entry]] = [[]]
    size = 0
    for entry in entries:
        if shards[-1] and size + entry.spec.stored_bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.spec.stored_bytes
    return shards


def _write_texts(
    folder: Path,
    config: ModelConfig,
    tokenizer: Tokenizer,
    experts: Experts,
    texts: Mapping[str, str],
) -> None:
    values = huggingface_config(config, mxfp4=experts is Experts.MXFP4)
    eos = list(config.eos_token_ids)
    generation = {"do_sample": True, "eos_token_id": eos, "pad_token_id": eos[0] if eos else None}
    files = {
        CONFIG_NAME: json.dumps(values, indent=2) + "\n",
        "generation_config.json": json.dumps(generation, indent=2) + "\n",
        TOKENIZER_NAME: tokenizer.to_json(),
        **texts,
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def _check_space(path: Path, entries: list[_Entry]) -> None:
    needed = sum(entry.spec.stored_bytes for entry in entries) + _SPARE_BYTES
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise ConfigurationError(
            f"{path}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free there"
        )
