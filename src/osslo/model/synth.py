"""Writes random checkpoints of any gpt-oss shape, streamed to disk in every layout that is read.

The weights are `random_weights`'; here they are brought into each layout's order. Memory stays
below a few hundred megabytes whatever the model's size, and a folder or file takes its name only
when it is complete.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from osslo.errors import ConfigurationError
from osslo.kernels import formats
from osslo.model.checkpoints.export import gguf_metadata, huggingface_config, original_config
from osslo.model.checkpoints.gguf import GgmlType, pairs_to_halves
from osslo.model.checkpoints.layouts import GGUF, HUGGINGFACE, ORIGINAL, Expected, Layout
from osslo.model.checkpoints.safetensors_checkpoint import CONFIG_NAME, INDEX_NAME, TOKENIZER_NAME
from osslo.model.checkpoints.tensors import TensorName
from osslo.model.checkpoints.writing import (
    GgufSpec,
    OrderedWriter,
    SafeSpec,
    gguf_writer,
    safetensors_writer,
)
from osslo.model.config import ModelConfig
from osslo.model.presets import preset as preset_config
from osslo.model.random_weights import RandomWeights
from osslo.model.synth_tokenizer import byte_tokenizer_json, gguf_tokenizer

Progress = Callable[[int, int], None]
"""Called with the bytes written so far and the bytes there will be."""

Format = Literal["safetensors", "original", "gguf"]
Experts = Literal["mxfp4", "plain"]

_LAYOUTS = {"safetensors": HUGGINGFACE, "original": ORIGINAL, "gguf": GGUF}
_SHARD_BYTES = 5_000_000_000
_SPARE_BYTES = 64_000_000  # headers, tokenizer, and what else the disk is needed for
_LARGEST_BYTE_VOCABULARY = 65_536  # above it, a preset's tokenizer is not of bytes


def synthesize(
    preset: str,
    out: Path,
    *,
    format: Format = "safetensors",  # the word users know it by
    seed: int = 0,
    progress: Progress | None = None,
    tokenizer_json: str | None = None,
) -> Path:
    """Write a random model of a preset's shape: a folder of safetensors, or a GGUF file at `out`.

    Small presets get a byte-level tokenizer with harmony's special tokens; larger ones
    `tokenizer_json`, or none. Raises ConfigurationError if there is no such preset, `out` exists
    already, or the disk is too full.
    """
    config = preset_config(preset)
    return write_random(
        config, out, format=format, seed=seed, progress=progress, tokenizer_json=tokenizer_json
    )


def random_checkpoint(
    directory: Path, config: ModelConfig, seed: int = 0, *, experts: Experts = "mxfp4"
) -> Path:
    """Write a random model of any shape as a Hugging Face folder, for tests; `plain` experts are
    BF16 numbers, as everything else in it is. Gives `directory`."""
    return write_random(config, directory, seed=seed, experts=experts)


def write_random(
    config: ModelConfig,
    out: Path,
    *,
    format: Format = "safetensors",  # the word users know it by
    seed: int = 0,
    experts: Experts = "mxfp4",
    shard_bytes: int = _SHARD_BYTES,
    progress: Progress | None = None,
    tokenizer_json: str | None = None,
) -> Path:
    """Write a random model of shape `config`; as `synthesize`, for any shape.

    A shard of safetensors holds at most `shard_bytes`, if no single tensor is larger. Plain experts
    are BF16 in safetensors and Q8_0 in GGUF.
    """
    if out.exists():
        raise ConfigurationError(f"{out} exists already; remove it or choose another place")
    if tokenizer_json is None and config.vocab_size <= _LARGEST_BYTE_VOCABULARY:
        tokenizer_json = byte_tokenizer_json(config.vocab_size)
    job = _Job(config, _LAYOUTS[format], seed, experts, progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    _check_space(out, job.total_bytes)
    if format == "gguf":
        metadata = {**gguf_metadata(config), **gguf_tokenizer(tokenizer_json, config.vocab_size)}
        job.write_gguf(out, metadata)
        return out
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    job.write_safetensors(partial, shard_bytes)
    if tokenizer_json is not None:
        (partial / TOKENIZER_NAME).write_text(tokenizer_json, "utf-8")
    return partial.rename(out)


def _check_space(out: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(out.parent).free
    if free < needed_bytes + _SPARE_BYTES:
        raise ConfigurationError(
            f"{out}: {needed_bytes / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free there"
        )


def _check_blocks(names: dict[str, int], what: str) -> None:
    for name, size in names.items():
        if size % formats.BLOCK:
            raise ConfigurationError(
                f"{what} needs rows of a multiple of {formats.BLOCK}, but {name} is {size}"
            )


_Piece = NDArray[Any]
_Pieces = Callable[[], Iterator[_Piece]]


class _Job:
    """One model on its way to disk: what is written, and how far it is."""

    def __init__(
        self,
        config: ModelConfig,
        layout: Layout,
        seed: int,
        experts: Experts,
        progress: Progress | None,
    ) -> None:
        self.config = config
        self._layout = layout
        self._weights = RandomWeights(config, seed)
        self._mxfp4 = experts == "mxfp4"
        self._progress = progress
        self._done_bytes = 0
        self._check()
        plan = self._gguf_tensors if layout is GGUF else self._safe_tensors
        self._plan = [entry for item in layout.expected(config) for entry in plan(item)]
        self.total_bytes = sum(spec.stored_bytes for spec, _ in self._plan)

    def write_gguf(self, path: Path, metadata: dict[str, Any]) -> None:
        specs = [spec for spec, _ in self._plan if isinstance(spec, GgufSpec)]
        with gguf_writer(path, metadata, specs) as writer:
            for spec, pieces in self._plan:
                self._write(writer, spec.name, pieces())

    def write_safetensors(self, folder: Path, shard_bytes: int) -> None:
        shards = self._shards(shard_bytes)
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        if len(shards) == 1:
            names = ["model.safetensors"]
        for name, shard in zip(names, shards, strict=True):
            specs = [spec for spec, _ in shard if isinstance(spec, SafeSpec)]
            with safetensors_writer(folder / name, specs) as writer:
                for spec, pieces in shard:
                    self._write(writer, spec.name, pieces())
        placed = zip(names, shards, strict=True)
        index = {spec.name: name for name, shard in placed for spec, _ in shard}
        self._write_config(folder, index if len(shards) > 1 else None)

    # --- plans ------------------------------------------------------------------------------------

    def _gguf_tensors(self, item: Expected) -> Iterator[tuple[GgufSpec, _Pieces]]:
        (part,) = item.parts
        name = TensorName(part, item.layer)
        if item.is_expert and item.is_matrix and self._mxfp4:
            yield (
                GgufSpec(item.stored, GgmlType.MXFP4, item.shape),
                lambda: self._gguf_mxfp4(name),
            )
        elif item.is_matrix and part != "router":
            kind = GgmlType.Q8_0
            yield GgufSpec(item.stored, kind, item.shape), lambda: self._gguf_q8(name)
        else:
            kind = GgmlType.F32
            yield GgufSpec(item.stored, kind, item.shape), lambda: self._float32(name)

    def _safe_tensors(self, item: Expected) -> Iterator[tuple[SafeSpec, _Pieces]]:
        names = [TensorName(part, item.layer) for part in item.parts]
        weights, layout = self._weights, self._layout
        if not item.is_expert:
            yield (
                SafeSpec(item.stored, "BF16", item.shape),
                lambda: (piece for name in names for piece in self._bf16(name)),
            )
        elif not item.is_matrix:
            yield (
                SafeSpec(item.stored, "BF16", item.shape),
                lambda: _alternate([self._bf16(name) for name in names]),
            )
        elif self._mxfp4:
            experts, rows, cols = item.shape
            groups = (experts, rows, cols // formats.BLOCK)
            yield (
                SafeSpec(item.stored + layout.blocks, "U8", (*groups, formats.BLOCK // 2)),
                lambda: _alternate([weights.expert_blocks(name) for name in names]),
            )
            yield (
                SafeSpec(item.stored + layout.scales, "U8", groups),
                lambda: _alternate([weights.expert_scales(name) for name in names]),
            )
        else:
            experts, rows, cols = item.shape
            shape = (experts, cols, rows) if layout.transposed_experts else item.shape
            yield SafeSpec(item.stored, "BF16", shape), lambda: self._plain_experts(names)

    def _shards(self, shard_bytes: int) -> list[list[tuple[SafeSpec | GgufSpec, _Pieces]]]:
        shards: list[list[tuple[SafeSpec | GgufSpec, _Pieces]]] = [[]]
        size = 0
        for spec, pieces in self._plan:
            if shards[-1] and size + spec.stored_bytes > shard_bytes:
                shards.append([])
                size = 0
            shards[-1].append((spec, pieces))
            size += spec.stored_bytes
        return shards

    # --- pieces -----------------------------------------------------------------------------------

    def _bf16(self, name: TensorName) -> Iterator[_Piece]:
        bits = formats.bf16_encode(self._table(name.part))
        return (bits[piece.view(np.uint8)] for piece in self._weights.integers(name))

    def _float32(self, name: TensorName) -> Iterator[_Piece]:
        values = self._table(name.part)
        return (values[piece.view(np.uint8)] for piece in self._weights.integers(name))

    def _plain_experts(self, names: list[TensorName]) -> Iterator[_Piece]:
        bits = formats.bf16_encode(self._table(names[0].part))
        for piece in _alternate([self._weights.expert_integers(name) for name in names]):
            matrix = bits[piece.view(np.uint8)]
            yield matrix.T if self._layout.transposed_experts else matrix

    def _gguf_q8(self, name: TensorName) -> Iterator[_Piece]:
        scale = np.array([2.0 ** self._weights.numbers(name.part).exponent], "<f2")
        for piece in self._weights.integers(name):
            blocks = np.empty((piece.size // formats.BLOCK, GgmlType.Q8_0.block_bytes), np.uint8)
            blocks[:, :2] = scale.view(np.uint8)
            blocks[:, 2:] = piece.view(np.uint8).reshape(-1, formats.BLOCK)
            yield blocks

    def _gguf_mxfp4(self, name: TensorName) -> Iterator[_Piece]:
        codes, scales = self._weights.expert_blocks(name), self._weights.expert_scales(name)
        for block, scale in zip(codes, scales, strict=True):
            yield np.concatenate([scale[..., None], pairs_to_halves(block)], axis=-1)

    def _table(self, part: str) -> NDArray[np.float32]:
        """The value of every integer, by its bits: float32 `[256]`."""
        integers = np.arange(256, dtype=np.uint8).view(np.int8)
        return self._weights.numbers(part).float32(integers)

    # --- the rest ---------------------------------------------------------------------------------

    def _write(self, writer: OrderedWriter, name: str, pieces: Iterator[_Piece]) -> None:
        for piece in pieces:
            writer.write(name, piece)
            self._done_bytes += piece.nbytes
            if self._progress is not None:
                self._progress(self._done_bytes, self.total_bytes)

    def _write_config(self, folder: Path, index: dict[str, str] | None) -> None:
        if self._layout is ORIGINAL:
            _write_json(folder / CONFIG_NAME, original_config(self.config))
            return
        _write_json(folder / CONFIG_NAME, huggingface_config(self.config, mxfp4=self._mxfp4))
        eos = list(self.config.eos_token_ids)
        _write_json(folder / "generation_config.json", {"do_sample": True, "eos_token_id": eos})
        if index is not None:
            whole = {"metadata": {"total_size": self.total_bytes}, "weight_map": index}
            _write_json(folder / INDEX_NAME, whole)

    def _check(self) -> None:
        config = self.config
        inner = {"hidden": config.hidden, "intermediate": config.intermediate}
        if self._mxfp4:
            _check_blocks(inner, "MXFP4")
        if self._layout is GGUF:
            _check_blocks({**inner, "heads * head_dim": config.query_size}, "Q8_0")


def _alternate(parts: list[Iterator[_Piece]]) -> Iterator[_Piece]:
    """Fuse streams of equal pieces so that their rows (or values) take turns."""
    for pieces in zip(*parts, strict=True):
        yield np.stack(pieces, axis=1).reshape(-1, *pieces[0].shape[1:])


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
