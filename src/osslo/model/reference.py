"""The whole forward pass in NumPy: the oracle of the native one, and a small real model for tests.

Implements `ForwardModel` over paged K and V. A row's logits depend on its sequence alone, never on
the batch, on how a prompt is cut into chunks, or on which pages are used. Weights are decoded to
float32 when first used and kept: meant for small checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from osslo.errors import ConfigurationError, EngineError
from osslo.kernels import formats
from osslo.kernels import reference as kernels
from osslo.model.adapters.factors import Adapter, Place, Target
from osslo.model.checkpoints.tensors import Checkpoint, Mxfp4Matrix, Q8Matrix
from osslo.model.config import ModelConfig, rope_inverse_frequencies
from osslo.model.forward import PAGE_TOKENS, ForwardInput, KvCache, PageKind

_Integers = tuple[NDArray[np.int8], NDArray[np.float32], bool]
"""A quantised matrix: values, scales, and whether its activations are MXFP4's."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer: its number, its kind, and the how-manieth of that kind it is."""

    number: int
    kind: PageKind
    index: int

    def name(self, part: str) -> str:
        return f"layers.{self.number}.{part}"


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceKv:
    """Page pools: per kind `[pages, layers of the kind, 2, PAGE_TOKENS, G, D]`, and views of their
    keys and values, `[layers of the kind, pages, PAGE_TOKENS, G, D]`."""

    pools: dict[PageKind, NDArray[np.floating]]
    keys: dict[PageKind, NDArray[np.floating]]
    values: dict[PageKind, NDArray[np.floating]]

    def copy_page(self, kind: PageKind, source: int, target: int, tokens: int) -> None:
        """Copy the first `tokens` positions of a page, all layers of its kind."""
        for pool in (self.keys[kind], self.values[kind]):
            pool[:, target, :tokens] = pool[:, source, :tokens]

    def page(self, kind: PageKind, page: int) -> NDArray[np.uint8]:
        """The bytes of one page, shared."""
        whole: NDArray[np.uint8] = self.pools[kind][page].reshape(-1).view(np.uint8)
        return whole


class ReferenceModel:
    """A checkpoint run in NumPy; implements `ForwardModel`.

    With `quantized`, matrix products quantise their activations in blocks of 32 (int8 with
    outliers for MXFP4, int16 for Q8_0), and matrices that are neither become Q8_0, as the native
    default precision has it (router and embedding stay as stored). `kv_dtype` is what K and V are
    kept in.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, quantized: bool = False, kv_dtype: DTypeLike = np.float32
    ) -> None:
        self.config: ModelConfig = checkpoint.config
        self._checkpoint = checkpoint
        self._quantized = quantized
        if quantized:
            _check_blocks(checkpoint.config)
        self._kv_dtype = np.dtype(kv_dtype)
        self._frequencies, self._rope_scale = rope_inverse_frequencies(checkpoint.config)
        self._layers = _layers(checkpoint.config)
        self._floats: dict[str, NDArray[np.float32]] = {}
        self._integers: dict[str, _Integers] = {}

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def max_context_tokens(self) -> int:
        return self.config.max_context

    @property
    def sliding_window(self) -> int:
        return self.config.sliding_window

    def page_bytes(self, kind: PageKind) -> int:
        """Bytes of one page: K and V of `PAGE_TOKENS` positions in all layers of `kind`."""
        layers = self.config.layer_kinds.count(kind)
        return 2 * layers * PAGE_TOKENS * self.config.kv_size * self._kv_dtype.itemsize

    def new_kv(self, full_pages: int, window_pages: int) -> ReferenceKv:
        """Empty page pools. They hold NaN, so that reading what was never written shows."""
        config = self.config
        counts = {PageKind.FULL: full_pages, PageKind.WINDOW: window_pages}
        row = (PAGE_TOKENS, config.kv_heads, config.head_dim)
        pools = {
            kind: np.full((pages, config.layer_kinds.count(kind), 2, *row), np.nan, self._kv_dtype)
            for kind, pages in counts.items()
        }
        sides = [
            {kind: pool[:, :, side].swapaxes(0, 1) for kind, pool in pools.items()}
            for side in (0, 1)
        ]
        return ReferenceKv(pools, *sides)

    def logits(self, ids: Sequence[int], adapter: Adapter | None = None) -> NDArray[np.float32]:
        """The logits after every token of one sequence, float32 `[T, V]`, through `forward`."""
        count = len(ids)
        pages = np.arange(-(-count // PAGE_TOKENS), dtype=np.int32)
        rows = np.arange(count, dtype=np.int32)
        step = ForwardInput(
            token_ids=np.array(ids, np.int32),
            positions=rows,
            sequence_starts=np.array([0, count], np.int32),
            full_pages=pages[None],
            window_pages=pages[None],
            logit_rows=rows,
            adapters=(adapter,) if adapter is not None else (),
        )
        return self.forward(self.new_kv(pages.size, pages.size), step)

    def forward(self, kv: KvCache, step: ForwardInput) -> NDArray[np.float32]:
        """One ragged step: writes K and V of every row, gives logits `[L, V]`.

        Raises EngineError if a token id, a page table or `kv` cannot belong to this model.
        """
        if not isinstance(kv, ReferenceKv):
            raise EngineError("these page pools were not made by this model's new_kv")
        if step.token_ids.size and not 0 <= step.token_ids.min() <= step.token_ids.max() < (
            self.vocab_size
        ):
            raise EngineError(f"a token id lies outside the vocabulary of {self.vocab_size}")
        x = self._matrix("embedding")[step.token_ids]
        deltas = _deltas(step)
        for layer in self._layers:
            x = x + self._attention(layer, kv, step, x, deltas)
            x = x + self._experts(layer, x, deltas)
        rows = self._norm("final_norm", x[step.logit_rows])
        if not len(rows):
            return np.zeros((0, self.vocab_size), np.float32)
        return self._matmul("head", rows)

    def _attention(
        self,
        layer: _Layer,
        kv: ReferenceKv,
        step: ForwardInput,
        x: NDArray[np.float32],
        deltas: _Deltas,
    ) -> NDArray[np.float32]:
        """Attention of one layer, before the residual is added."""
        query, key, value = self._project(layer, step.positions, x, deltas)
        windowed = layer.kind is PageKind.WINDOW
        tables = step.window_pages if windowed else step.full_pages
        window = self.config.sliding_window if windowed else 0
        sinks = self._vector(layer.name("sinks"))
        pools = (kv.keys[layer.kind][layer.index], kv.values[layer.kind][layer.index])
        attended = np.empty((len(x), self.config.query_size), np.float32)
        starts = step.sequence_starts.tolist()
        for table, start, end in zip(tables, starts, starts[1:], strict=False):
            if start == end:
                continue
            rows, positions = slice(start, end), step.positions[start:end]
            _write(pools, table, positions, (key[rows], value[rows]))
            first = max(0, int(positions[0]) + 1 - window) if window else 0
            keys, values = _read(pools, table, first, int(positions[-1]) + 1)
            attended[rows] = kernels.attention(
                query[rows],
                keys,
                values,
                sinks,
                query_positions=positions,
                first_key_position=first,
                window=window,
            ).reshape(end - start, -1)
        place = Place(layer.number, Target.OUTPUT)
        return self._linear(layer.name("o"), attended) + deltas.of(place, attended)

    def _project(
        self,
        layer: _Layer,
        positions: NDArray[np.int32],
        x: NDArray[np.float32],
        deltas: _Deltas,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Rotated queries `[T, H, D]`, rotated keys and values `[T, G, D]`."""
        normed = self._norm(layer.name("attention_norm"), x)
        size = (len(x), -1, self.config.head_dim)
        query, key, value = (
            (
                self._linear(layer.name(part), normed)
                + deltas.of(Place(layer.number, target), normed)
            ).reshape(size)
            for part, target in (("q", Target.QUERY), ("k", Target.KEY), ("v", Target.VALUE))
        )
        turn = (positions, self._frequencies, self._rope_scale)
        return kernels.rope(query, *turn), kernels.rope(key, *turn), value

    def _experts(
        self, layer: _Layer, x: NDArray[np.float32], deltas: _Deltas
    ) -> NDArray[np.float32]:
        """The mixture of experts of one layer, before the residual is added."""
        normed = self._norm(layer.name("mlp_norm"), x)
        scores = kernels.matmul(normed, self._matrix(layer.name("router")))
        scores = scores + self._vector(layer.name("router_bias"))
        experts, weights = kernels.route(scores, self.config.experts_per_token)
        total = np.zeros_like(x)
        for row, chosen in enumerate(experts):
            for expert, weight in zip(chosen, weights[row], strict=True):
                own = deltas.row(row)
                total[row] += weight * self._expert(layer, int(expert), normed[[row]], own)[0]
        return total

    def _expert(
        self, layer: _Layer, expert: int, x: NDArray[np.float32], deltas: _Deltas
    ) -> NDArray[np.float32]:
        start = layer.name(f"experts.{expert}.")
        both = deltas.of(Place(layer.number, Target.GATE_UP, expert), x)
        gate = self._linear(f"{start}gate", x) + both[:, 0::2]
        up = self._linear(f"{start}up", x) + both[:, 1::2]
        config = self.config
        inner = kernels.clamped_swiglu(gate, up, config.swiglu_limit, config.swiglu_alpha)
        place = Place(layer.number, Target.DOWN, expert)
        return self._linear(f"{start}down", inner) + deltas.of(place, inner)

    def _norm(self, name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return kernels.rms_norm(x, self._vector(name), self.config.rms_eps)

    def _linear(self, name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._matmul(name, x) + self._vector(f"{name}_bias")

    def _matmul(self, name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self._quantized:
            return kernels.matmul(x, self._matrix(name))
        if name not in self._integers:
            self._integers[name] = _quantised(self._checkpoint, name)
        return _integer_product(x, *self._integers[name])

    def _matrix(self, name: str) -> NDArray[np.float32]:
        if name not in self._floats:
            matrix = self._checkpoint.matrix(name)
            self._floats[name] = np.ascontiguousarray(matrix.to_float32())
        return self._floats[name]

    def _vector(self, name: str) -> NDArray[np.float32]:
        if name not in self._floats:
            self._floats[name] = self._checkpoint.vector(name)
        return self._floats[name]


@dataclass(frozen=True, slots=True)
class _Deltas:
    """The adapter of every row of a step, None for none."""

    adapters: tuple[Adapter | None, ...]

    def row(self, index: int) -> _Deltas:
        return _Deltas(self.adapters[index : index + 1])

    def of(self, place: Place, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the rows' adapters add to one matrix's outputs; `[T, 1]` zeros if nothing."""
        rows = [
            self._row(adapter, place, x[[index]]) for index, adapter in enumerate(self.adapters)
        ]
        width = max((row.shape[1] for row in rows), default=1)
        zero = np.zeros((1, width), np.float32)
        return np.concatenate([row if row.shape[1] == width else zero for row in rows])

    @staticmethod
    def _row(adapter: Adapter | None, place: Place, x: NDArray[np.float32]) -> NDArray[np.float32]:
        factors = None if adapter is None else adapter.factors.get(place)
        if factors is None:
            return np.zeros((1, 2), np.float32)[:, : 2 if place.target is Target.GATE_UP else 1]
        return kernels.low_rank(x, *factors.floats(), factors.scale)


def _deltas(step: ForwardInput) -> _Deltas:
    """Raises EngineError for an adapter that another model has loaded."""
    counts = np.diff(step.sequence_starts).tolist()
    rows: list[Adapter | None] = []
    for count, adapter in zip(counts, step.adapters or (None,) * len(counts), strict=True):
        if adapter is not None and not isinstance(adapter, Adapter):
            raise EngineError("the reference runs only adapters as they were read")
        rows += [adapter] * count
    return _Deltas(tuple(rows))


def _layers(config: ModelConfig) -> tuple[_Layer, ...]:
    kinds = config.layer_kinds
    return tuple(_Layer(i, kind, kinds[:i].count(kind)) for i, kind in enumerate(kinds))


def _check_blocks(config: ModelConfig) -> None:
    sizes = {"hidden": config.hidden, "heads * head_dim": config.query_size}
    for name, size in {**sizes, "intermediate": config.intermediate}.items():
        if size % formats.BLOCK:
            raise ConfigurationError(
                f"{name} is {size}; quantised products need a multiple of {formats.BLOCK}"
            )


def _quantised(checkpoint: Checkpoint, name: str) -> _Integers:
    """A matrix as int8 `[R, C]`, float32 scales `[R, C / 32]`, and whether it is MXFP4: MXFP4 and
    Q8_0 exactly, others rounded to Q8_0."""
    matrix = checkpoint.matrix(name)
    match matrix:
        case Mxfp4Matrix(blocks, scales):
            return *kernels.mxfp4_integers(blocks, scales), True
        case Q8Matrix(values, halves):
            return values, halves.astype(np.float32), False
        case _:
            integers, halves = formats.q8_encode(matrix.to_float32())
            return integers, halves.astype(np.float32), False


def _integer_product(
    x: NDArray[np.float32],
    weight: NDArray[np.int8],
    scales: NDArray[np.float32],
    is_mxfp4: bool,
) -> NDArray[np.float32]:
    if is_mxfp4:
        values, x_scales, outliers = kernels.quantize_activations_int8(x)
        return kernels.integer_matmul(values, x_scales, weight, scales, outliers)
    return kernels.integer_matmul(*kernels.quantize_activations_int16(x), weight, scales)


def _slots(
    table: NDArray[np.int32], positions: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Page and place in it of every position. Raises EngineError where the table has no page."""
    pages = table[positions // PAGE_TOKENS]
    if (pages < 0).any():
        raise EngineError(f"position {positions[pages < 0][0]} has no page")
    return pages, positions % PAGE_TOKENS


def _write(
    pools: tuple[NDArray[np.floating], NDArray[np.floating]],
    table: NDArray[np.int32],
    positions: NDArray[np.int32],
    rows: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> None:
    slots = _slots(table, positions)
    for pool, values in zip(pools, rows, strict=True):
        pool[slots] = values


def _read(
    pools: tuple[NDArray[np.floating], NDArray[np.floating]],
    table: NDArray[np.int32],
    first: int,
    end: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Keys and values of positions `first` to `end`, float32 `[N, G, D]`."""
    slots = _slots(table, np.arange(first, end, dtype=np.int32))
    return pools[0][slots].astype(np.float32), pools[1][slots].astype(np.float32)
