"""The memory plan: weights, KV pages and scratch, added up before anything is loaded.

Pure arithmetic over a configuration. What the machine has is `available`'s to find out; the pools
that a plan names (`full_pages`, `window_pages`) are what the engine is to be given.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from osslo.errors import MemoryPlanError
from osslo.kernels.formats import BLOCK
from osslo.kernels.panels import PANEL_ROWS, WeightKind, panel_bytes
from osslo.model.checkpoints import Bf16Matrix, Checkpoint, Matrix, Mxfp4Matrix, Q8Matrix
from osslo.model.config import ModelConfig
from osslo.model.forward import PAGE_TOKENS, PageKind
from osslo.model.packed_file import PackedHeader

Precision = Literal["default", "exact"]

PROCESS_BYTES = 256 << 20
"""Interpreter, libraries, server, and tokenizer and grammar tables of a 201,088-word vocabulary:
206 MiB were measured, and requests take some more."""

_LOOKUP_SHARE = 8
"""The part of the embedding's rows counted as in use: texts know some ten thousand words."""

TABLE_CONTEXTS = (4096, 8192, 16384, 32768, 65536, 131072)
"""The contexts that `context_table` shows, as far as the model goes."""


@dataclass(frozen=True, slots=True)
class WeightKinds:
    """How a checkpoint's matrices will lie in the packed file."""

    experts: WeightKind
    dense: WeightKind
    embedding: WeightKind
    router: WeightKind

    @classmethod
    def published(cls, precision: Precision = "default") -> WeightKinds:
        """gpt-oss as published: MXFP4 experts, the rest BF16."""
        dense = WeightKind.BF16 if precision == "exact" else WeightKind.Q8
        return cls(WeightKind.MXFP4, dense, WeightKind.BF16, WeightKind.BF16)

    @classmethod
    def of(cls, checkpoint: Checkpoint, precision: Precision = "default") -> WeightKinds:
        """The kinds that packing `checkpoint` will choose."""
        return cls(
            _packed_kind(checkpoint.matrix("layers.0.experts.0.gate"), precision),
            _packed_kind(checkpoint.matrix("layers.0.q"), precision),
            _lookup_kind(checkpoint.matrix("embedding")),
            _packed_kind(checkpoint.matrix("layers.0.router"), "exact"),
        )


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of the packed file, and how many of them are the embedding, read row by row."""

    total_bytes: int
    lookup_bytes: int

    @classmethod
    def packed(cls, header: PackedHeader) -> Weights:
        embedding = header.tensor("embedding")
        return cls(header.file_bytes, embedding.bytes if embedding else 0)

    @classmethod
    def estimated(cls, config: ModelConfig, kinds: WeightKinds) -> Weights:
        """What packing will give, within a fraction of a percent; without the tokenizer."""
        lookup = _lookup_bytes(config, kinds.embedding)
        return cls(_matrix_bytes(config, kinds) + lookup, lookup)

    @property
    def resident_bytes(self) -> int:
        """What must stay in memory: of the embedding only the rows that texts use."""
        return self.total_bytes - self.lookup_bytes + self.lookup_bytes // _LOOKUP_SHARE


@dataclass(frozen=True, slots=True)
class MemoryRequest:
    """What a server wants room for.

    `context_tokens` bounds one request; `kv_tokens` positions are kept in all (None: one whole
    context, shared by whoever runs). `concurrent` sequences run together; `resume_points` places
    keep their windows so that later prompts can go on from there. A step has at most
    `step_tokens` rows, and checks `draft_tokens` guesses. Adapters of up to `adapter_rank` take
    `adapter_bytes` together.
    """

    context_tokens: int
    concurrent: int = 8
    kv_tokens: int | None = None
    resume_points: int = 32
    step_tokens: int = 512
    draft_tokens: int = 0
    threads: int = 1
    adapter_bytes: int = 0
    adapter_rank: int = 0


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What a model needs in memory, in bytes, for `request`; `weights_bytes`: what stays resident.

    `largest_context_tokens` is the longest context that fits `available_bytes` with everything
    else as requested, a multiple of a page; 0 if not even one page does.
    """

    request: MemoryRequest
    precision: Precision
    full_pages: int
    window_pages: int
    weights_bytes: int
    full_kv_bytes: int
    window_kv_bytes: int
    scratch_bytes: int
    process_bytes: int
    adapter_bytes: int
    available_bytes: int
    largest_context_tokens: int

    @property
    def kv_bytes(self) -> int:
        return self.full_kv_bytes + self.window_kv_bytes

    @property
    def total_bytes(self) -> int:
        rest = self.scratch_bytes + self.process_bytes + self.adapter_bytes
        return self.weights_bytes + self.kv_bytes + rest

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.available_bytes

    def rows(self) -> tuple[tuple[str, str], ...]:
        """Names and sizes, to be printed before loading."""
        adapters = (("adapters", gib(self.adapter_bytes)),) if self.adapter_bytes else ()
        return (
            ("weights", gib(self.weights_bytes)),
            *adapters,
            (f"KV for {self.request.context_tokens:,} tokens", gib(self.kv_bytes)),
            ("scratch", gib(self.scratch_bytes)),
            ("process", gib(self.process_bytes)),
            ("in all", gib(self.total_bytes)),
            ("available", gib(self.available_bytes)),
            ("largest context that fits", f"{self.largest_context_tokens:,} tokens"),
        )


def plan(
    config: ModelConfig,
    request: MemoryRequest,
    *,
    precision: Precision = "default",
    weights: Weights | None = None,
    available_bytes: int,
) -> MemoryPlan:
    """The plan for `request`, clamped to the model's own context.

    `weights` None: those that gpt-oss as published would have with this configuration.
    """
    request = replace(request, context_tokens=min(request.context_tokens, config.max_context))
    weights = weights or Weights.estimated(config, WeightKinds.published(precision))
    resident = weights.resident_bytes
    room = available_bytes - resident
    largest = _largest_context(config, request, precision, room)
    draft = _plan(config, request, precision, available_bytes=available_bytes)
    return replace(draft, weights_bytes=resident, largest_context_tokens=largest)


def check(planned: MemoryPlan) -> None:
    """Raises `MemoryPlanError` unless the plan fits; it names the largest context that would."""
    if planned.fits:
        return
    need, have = gib(planned.total_bytes), gib(planned.available_bytes)
    wanted = f"a context of {planned.request.context_tokens:,} tokens needs {need} of memory"
    if planned.largest_context_tokens:
        raise MemoryPlanError(
            f"{wanted}, but {have} are available; the largest context that fits is "
            f"{planned.largest_context_tokens} tokens: ask for that one"
        )
    raise MemoryPlanError(
        f"{wanted}, but {have} are available and no context fits: the weights alone take "
        f"{gib(planned.weights_bytes)}; free memory or use a smaller model"
    )


def context_table(
    config: ModelConfig,
    request: MemoryRequest,
    *,
    contexts: Iterable[int] = TABLE_CONTEXTS,
    precision: Precision = "default",
    weights: Weights | None = None,
    available_bytes: int,
) -> tuple[MemoryPlan, ...]:
    """A plan for each of `contexts` that the model has, and for its longest."""
    sizes = sorted({min(size, config.max_context) for size in contexts})
    return tuple(
        plan(
            config,
            replace(request, context_tokens=size, kv_tokens=None),
            precision=precision,
            weights=weights,
            available_bytes=available_bytes,
        )
        for size in sizes
    )


# --- KV -------------------------------------------------------------------------------------------


def page_bytes(config: ModelConfig, kind: PageKind, precision: Precision = "default") -> int:
    """Bytes of one page: K and V of `PAGE_TOKENS` positions in all layers of `kind`."""
    layers = sum(layer is kind for layer in config.layer_kinds)
    return layers * 2 * PAGE_TOKENS * config.kv_size * (4 if precision == "exact" else 2)


def full_pages_for(request: MemoryRequest) -> int:
    """Pages of full-attention layers: for `kv_tokens`, at least one whole context."""
    return _pages(max(request.kv_tokens or 0, request.context_tokens))


def window_pages_for(config: ModelConfig, request: MemoryRequest) -> int:
    """Pages of window layers: a window for each running sequence and resume point, and a step's
    prefill. Never more than the full pages, since a position needs one page of each."""
    if not config.sliding_window:
        return 0
    span = min(_pages(config.sliding_window - 1) + 1, _pages(request.context_tokens))
    windows = (request.concurrent + request.resume_points) * span
    wanted = windows + _pages(request.step_tokens) + 1
    return max(span, min(full_pages_for(request), wanted))


def _pages(tokens: int) -> int:
    return -(-tokens // PAGE_TOKENS)


def _plan(
    config: ModelConfig, request: MemoryRequest, precision: Precision, *, available_bytes: int
) -> MemoryPlan:
    """A plan of all but the weights."""
    full, window = full_pages_for(request), window_pages_for(config, request)
    return MemoryPlan(
        request=request,
        precision=precision,
        full_pages=full,
        window_pages=window,
        weights_bytes=0,
        full_kv_bytes=full * page_bytes(config, PageKind.FULL, precision),
        window_kv_bytes=window * page_bytes(config, PageKind.WINDOW, precision),
        scratch_bytes=scratch_bytes(config, request),
        process_bytes=PROCESS_BYTES,
        adapter_bytes=request.adapter_bytes,
        available_bytes=available_bytes,
        largest_context_tokens=0,
    )


def _largest_context(
    config: ModelConfig, request: MemoryRequest, precision: Precision, room_bytes: int
) -> int:
    """The most tokens whose pages, scratch and process fit `room_bytes`, by bisection."""
    low, high = 0, _pages(config.max_context)
    while low < high:
        middle = (low + high + 1) // 2
        tokens = min(middle * PAGE_TOKENS, config.max_context)
        tried = replace(request, context_tokens=tokens, kv_tokens=None)
        fits = _plan(config, tried, precision, available_bytes=room_bytes).fits
        low, high = (middle, high) if fits else (low, middle - 1)
    return min(low * PAGE_TOKENS, config.max_context)


# --- scratch --------------------------------------------------------------------------------------


def scratch_bytes(config: ModelConfig, request: MemoryRequest) -> int:
    """The forward pass's own buffers for a full step, and the logits that a step gives out.

    Follows `Forward::reserve` in csrc/model/forward.cpp: float32 but for the quantised activations,
    which are kept as int8 with outliers (a column and a value a block) and as int16.
    """
    rows = max(request.step_tokens, request.concurrent)
    pairs = rows * config.experts_per_token
    hidden, inner = _up(config.hidden, BLOCK), _up(config.intermediate, BLOCK)
    query = _up(config.query_size, BLOCK)
    floats = rows * (config.hidden + hidden + config.query_size + 2 * config.kv_size + query)
    floats += rows * (config.experts + config.head_dim)
    floats += pairs * (2 * _up(config.intermediate, PANEL_ROWS) + inner + config.hidden)
    widest = max(rows * hidden, rows * query, pairs * inner)
    attention = 2 * _ATTENTION_ROWS * config.head_dim + PAGE_TOKENS * _ATTENTION_ROWS
    floats += 5 * widest // BLOCK + request.threads * attention
    tiles = max(hidden, query, inner) * _TILE_BYTES_A_COLUMN * request.threads
    logit_rows = 2 * request.concurrent + request.draft_tokens  # as computed, and as sampled from
    floats += max(3 * rows, pairs) * request.adapter_rank  # between a delta's two products
    return 4 * (floats + 8 * pairs + logit_rows * config.vocab_size) + 3 * widest + tiles


_ATTENTION_ROWS = 8  # kAttentionRows in csrc/kernels/kernels.h
_TILE_BYTES_A_COLUMN = 290  # tile_scratch_bytes in csrc/kernels/amx.inl, also where there are none


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


# --- weights --------------------------------------------------------------------------------------


def _matrix_bytes(config: ModelConfig, kinds: WeightKinds) -> int:
    """Everything but the embedding, as `model.pack` lays it out."""
    hidden = config.hidden
    experts = config.experts * (
        panel_bytes(kinds.experts, 2 * _up(config.intermediate, PANEL_ROWS), hidden)
        + panel_bytes(kinds.experts, hidden, config.intermediate)
    )
    attention = panel_bytes(kinds.dense, config.query_size + 2 * config.kv_size, hidden)
    attention += panel_bytes(kinds.dense, hidden, config.query_size)
    router = panel_bytes(kinds.router, config.experts, hidden)
    biases = config.query_size + 2 * config.kv_size + config.heads + 3 * hidden + config.experts
    biases += config.experts * (2 * config.intermediate + hidden)
    layer = experts + attention + router + 4 * biases
    head = panel_bytes(kinds.dense, config.vocab_size, hidden)
    return config.layers * layer + head + 4 * hidden


def _lookup_bytes(config: ModelConfig, kind: WeightKind) -> int:
    values = config.vocab_size * config.hidden
    if kind is WeightKind.Q8:
        return values // BLOCK * (BLOCK + 2)
    return values * (2 if kind is WeightKind.BF16 else 4)


def _packed_kind(matrix: Matrix, precision: Precision) -> WeightKind:
    match matrix:
        case Mxfp4Matrix():
            return WeightKind.MXFP4
        case Q8Matrix():
            return WeightKind.Q8
        case Bf16Matrix() if precision == "exact":
            return WeightKind.BF16
        case _:
            return WeightKind.F32 if precision == "exact" else WeightKind.Q8


def _lookup_kind(matrix: Matrix) -> WeightKind:
    kinds = {Q8Matrix: WeightKind.Q8, Bf16Matrix: WeightKind.BF16}
    return kinds.get(type(matrix), WeightKind.F32)


def gib(amount_bytes: int) -> str:
    """Bytes in GiB, or in MiB below one."""
    if amount_bytes < 1 << 30:
        return f"{amount_bytes / (1 << 20):.0f} MiB"
    return f"{amount_bytes / (1 << 30):.2f} GiB"
