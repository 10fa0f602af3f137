"""What `osslo inspect` reports: what a model file holds, and what running it costs in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from osslo.model.available import available_memory
from osslo.model.checkpoints import Checkpoint, StoredTensor, open_checkpoint
from osslo.model.config import ModelConfig
from osslo.model.forward import PageKind
from osslo.model.memory import (
    MemoryPlan,
    MemoryRequest,
    Precision,
    WeightKinds,
    Weights,
    context_table,
    gib,
)
from osslo.model.packed_file import SUFFIX, PackedHeader, read_header


@dataclass(frozen=True, slots=True)
class ModelReport:
    """A checkpoint or packed file, and its memory at several contexts.

    `parameters` counts every weight; `active_parameters` those that one token passes through
    (embedding and unchosen experts left out).
    """

    path: Path
    format: str
    config: ModelConfig
    parameters: int
    active_parameters: int
    stored_bytes: int
    has_tokenizer: bool
    tensors: tuple[StoredTensor, ...]
    plans: tuple[MemoryPlan, ...]

    def rows(self) -> tuple[tuple[str, str], ...]:
        """Names and values, for a table of two columns."""
        config = self.config
        windows = sum(kind is PageKind.WINDOW for kind in config.layer_kinds)
        layers = f"{config.layers} ({windows} with a window of {config.sliding_window})"
        yarn = f", YaRN x{config.yarn.factor:g}" if config.yarn else ""
        return (
            ("path", str(self.path)),
            ("format", self.format),
            ("parameters", f"{self.parameters:,} ({self.active_parameters:,} active a token)"),
            ("stored", f"{gib(self.stored_bytes)} in {len(self.tensors):,} tensors"),
            ("layers", layers if windows else str(config.layers)),
            ("hidden", f"{config.hidden:,}"),
            ("heads", f"{config.heads} of {config.head_dim}, {config.kv_heads} for keys, values"),
            (
                "experts",
                f"{config.experts} of {config.intermediate:,}, {config.experts_per_token} active",
            ),
            ("vocabulary", f"{config.vocab_size:,}"),
            ("context", f"{config.max_context:,} tokens{yarn}"),
            ("tokenizer", "yes" if self.has_tokenizer else "none"),
        )


def inspect_checkpoint(
    path: Path,
    *,
    precision: Precision = "default",
    request: MemoryRequest | None = None,
    available_bytes: int | None = None,
) -> ModelReport:
    """Report on a checkpoint folder, a GGUF file or a packed file.

    `available_bytes` None asks the machine. Raises `CheckpointError` or `PackedFileError`.
    """
    available = available_memory() if available_bytes is None else available_bytes
    request = request or MemoryRequest(context_tokens=8192)
    if path.suffix == SUFFIX:
        return _packed_report(path, read_header(path), request, available)
    return _checkpoint_report(open_checkpoint(path), precision, request, available)


def count_parameters(config: ModelConfig) -> tuple[int, int]:
    """All parameters, and those that one token passes through."""
    hidden = config.hidden
    expert = 3 * config.intermediate * hidden + 2 * config.intermediate + hidden
    qkv = config.query_size + 2 * config.kv_size
    attention = qkv * (hidden + 1) + (config.query_size + 1) * hidden + config.heads
    around = attention + config.experts * (hidden + 1) + 2 * hidden
    embedding = config.vocab_size * hidden
    outside = embedding + hidden  # head and final norm
    everything = config.layers * (around + config.experts * expert) + outside + embedding
    active = config.layers * (around + config.experts_per_token * expert) + outside
    return everything, active


def _checkpoint_report(
    checkpoint: Checkpoint, precision: Precision, request: MemoryRequest, available: int
) -> ModelReport:
    config = checkpoint.config
    weights = Weights.estimated(config, WeightKinds.of(checkpoint, precision))
    everything, active = count_parameters(config)
    return ModelReport(
        path=checkpoint.path,
        format=checkpoint.format,
        config=config,
        parameters=everything,
        active_parameters=active,
        stored_bytes=checkpoint.stored_bytes(),
        has_tokenizer=checkpoint.tokenizer_source() is not None,
        tensors=checkpoint.describe(),
        plans=context_table(
            config, request, precision=precision, weights=weights, available_bytes=available
        ),
    )


def _packed_report(
    path: Path, header: PackedHeader, request: MemoryRequest, available: int
) -> ModelReport:
    everything, active = count_parameters(header.config)
    precision: Precision = "exact" if header.precision == "exact" else "default"
    tensors = tuple(
        StoredTensor(t.name, t.kind.name if t.kind else "bytes", (t.rows, t.columns), t.bytes)
        for t in header.tensors
    )
    return ModelReport(
        path=path,
        format=f"packed ({precision})",
        config=header.config,
        parameters=everything,
        active_parameters=active,
        stored_bytes=header.file_bytes,
        has_tokenizer=header.tensor("tokenizer") is not None,
        tensors=tensors,
        plans=context_table(
            header.config,
            request,
            precision=precision,
            weights=Weights.packed(header),
            available_bytes=available,
        ),
    )
