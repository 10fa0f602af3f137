"""A packed model, ready to run: the native `ForwardModel`, with its configuration and tokenizer."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from osslo.errors import EngineError, PackedFileError
from osslo.kernels import _native, panels
from osslo.model.adapters.factors import Adapter, Factors, Place, Target
from osslo.model.config import ModelConfig, rope_inverse_frequencies
from osslo.model.forward import PAGE_TOKENS, ForwardInput, KvCache, LoadedAdapter, PageKind
from osslo.model.packed_file import (
    TOKENIZER,
    PackedHeader,
    encode_header,
    read_header,
    read_tensor,
)
from osslo.model.tokenizer import Tokenizer

_T = TypeVar("_T", bound=np.generic)


class NativeKvCache:
    """The page pools of one model, in native memory."""

    def __init__(self, native: _native.KvCache) -> None:
        self.native = native

    def copy_page(self, kind: PageKind, source: int, target: int, tokens: int) -> None:
        self.native.copy_page(
            window=kind is PageKind.WINDOW, source=source, target=target, tokens=tokens
        )

    def page(self, kind: PageKind, page: int) -> NDArray[np.uint8]:
        return self.native.page(window=kind is PageKind.WINDOW, page=page)


class NativeAdapter:
    """A LoRA adapter in native memory; a `LoadedAdapter`."""

    def __init__(self, native: _native.Adapter, identity: str) -> None:
        self.native = native
        self.identity = identity

    @property
    def resident_bytes(self) -> int:
        return self.native.bytes


class Model:
    """Weights mapped from a packed file, and the forward pass over them.

    `forward` is called by one thread at a time and runs without the GIL on `threads` threads.
    """

    def __init__(self, path: Path, header: PackedHeader, native: _native.NativeModel) -> None:
        self.path = path
        self.header = header
        self._native = native

    @classmethod
    def load(cls, path: Path, *, threads: int | None = None, kernels: str = "") -> Model:
        """Map the packed file at `path`; nothing is copied.

        `threads` None takes what affinity and cgroup quota allow; `kernels` names an instruction
        set (`amx`, `avx512`, `avx2`, `scalar`), empty takes the best. Raises PackedFileError.
        """
        header = read_header(path)
        tensors = {
            tensor.name: _native.TensorEntry(
                tensor.kind, tensor.rows, tensor.columns, tensor.offset, tensor.bytes
            )
            for tensor in header.tensors
            if tensor.kind is not None
        }
        try:
            native = _native.NativeModel(str(path), _shape(header), tensors, threads or 0, kernels)
        except RuntimeError as error:
            raise PackedFileError(f"{path}: {error}; pack the model again") from error
        return cls(path, header, native)

    @property
    def config(self) -> ModelConfig:
        return self.header.config

    @property
    def name(self) -> str:
        """What the checkpoint was called when it was packed."""
        return self.header.name

    @property
    def threads(self) -> int:
        return self._native.threads

    @property
    def kernels(self) -> str:
        """The instruction set the kernels run on."""
        return self._native.isa

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def max_context_tokens(self) -> int:
        return self.config.max_context

    @property
    def sliding_window(self) -> int:
        return self.config.sliding_window

    @property
    def experts_in_last_step(self) -> float:
        """Different experts that the last forward ran, per layer."""
        return self._native.active_experts / self.config.layers

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The packed tokenizer. Raises PackedFileError where the checkpoint had none."""
        entry = self.header.tensor(TOKENIZER)
        if entry is None:
            raise PackedFileError(f"{self.path}: this model was packed without a tokenizer")
        return Tokenizer.from_packed(read_tensor(self.path, entry))

    @cached_property
    def kv_identity(self) -> str:
        """A digest of all that keys and values depend on, the text and its adapter aside: the
        packed file's header, which has every tensor's checksum, and the native code itself."""
        digest = hashlib.sha256(encode_header(self.header))
        digest.update(Path(_native.__file__).read_bytes())
        return digest.hexdigest()

    def page_bytes(self, kind: PageKind) -> int:
        return self._native.page_bytes(window=kind is PageKind.WINDOW)

    def new_kv(self, full_pages: int, window_pages: int) -> NativeKvCache:
        return NativeKvCache(self._native.new_kv(full_pages, window_pages))

    def load_adapter(self, adapter: Adapter) -> NativeAdapter:
        """Copy an adapter into the form that `forward` takes. Thread-safe, also beside `forward`.

        Raises EngineError where it does not fit this model.
        """
        native = self._native.new_adapter()
        try:
            for place, factors in adapter:
                _add_factors(native, place, factors)
        except ValueError as error:
            raise EngineError(f"the adapter does not fit the model: {error}") from error
        return NativeAdapter(native, adapter.identity)

    def forward(self, kv: KvCache, step: ForwardInput) -> NDArray[np.float32]:
        """Logits `[L, V]` of the step's `logit_rows`. Raises EngineError on an invalid step."""
        if not isinstance(kv, NativeKvCache):
            raise EngineError("the native model runs only over its own page pools")
        adapters, rows = _adapters_of(step.adapters)
        try:
            return self._native.forward(
                kv.native,
                step.token_ids,
                step.positions,
                step.sequence_starts,
                step.full_pages,
                step.window_pages,
                step.logit_rows,
                adapters,
                rows,
            )
        except ValueError as error:
            raise EngineError(f"invalid step: {error}") from error


_TARGETS = {
    Target.QUERY: _native.AdapterTarget.QUERY,
    Target.KEY: _native.AdapterTarget.KEY,
    Target.VALUE: _native.AdapterTarget.VALUE,
    Target.OUTPUT: _native.AdapterTarget.OUTPUT,
    Target.GATE_UP: _native.AdapterTarget.GATE_UP,
    Target.DOWN: _native.AdapterTarget.DOWN,
}


def _add_factors(native: _native.Adapter, place: Place, factors: Factors) -> None:
    at = (place.layer, _TARGETS[place.target], place.expert)
    if factors.is_bf16:
        a, b = factors.a.astype(np.uint16, "C"), factors.b.astype(np.uint16, "C")
        native.add_bf16(*at, a, _outputs(place, b), factors.scale)
    else:
        floats, rows = factors.a.astype(np.float32, "C"), factors.b.astype(np.float32, "C")
        native.add_f32(*at, floats, _outputs(place, rows), factors.scale)


def _outputs(place: Place, b: NDArray[_T]) -> NDArray[_T]:
    """Rows of b in the order in which the forward pass has the matrix's outputs."""
    return panels.in_turn(b[0::2], b[1::2]) if place.target is Target.GATE_UP else b


def _adapters_of(
    wanted: tuple[LoadedAdapter | None, ...],
) -> tuple[list[_native.Adapter], NDArray[np.int32]]:
    """The different adapters of a step, and for each sequence which of them, or -1."""
    indices: dict[int, int] = {}
    adapters: list[_native.Adapter] = []
    rows = np.full(len(wanted), -1, np.int32)
    for row, adapter in enumerate(wanted):
        if adapter is None:
            continue
        if not isinstance(adapter, NativeAdapter):
            raise EngineError("the native model runs only adapters that it has loaded itself")
        if id(adapter) not in indices:
            indices[id(adapter)] = len(adapters)
            adapters.append(adapter.native)
        rows[row] = indices[id(adapter)]
    return adapters, rows


def _shape(header: PackedHeader) -> _native.ModelShape:
    config = header.config
    frequencies, scale = rope_inverse_frequencies(config)
    exact = header.precision == "exact"
    shape = _native.ModelShape()
    shape.hidden = config.hidden
    shape.heads = config.heads
    shape.kv_heads = config.kv_heads
    shape.head_dim = config.head_dim
    shape.intermediate = config.intermediate
    shape.experts = config.experts
    shape.experts_per_token = config.experts_per_token
    shape.vocab_size = config.vocab_size
    shape.sliding_window = config.sliding_window
    shape.rms_epsilon = config.rms_eps
    shape.swiglu_alpha = config.swiglu_alpha
    shape.swiglu_limit = config.swiglu_limit
    shape.rope_scale = scale
    shape.inverse_frequencies = frequencies.tolist()
    shape.window_layers = [kind is PageKind.WINDOW for kind in config.layer_kinds]
    shape.quantize_activations = not exact
    shape.half_kv = not exact
    return shape


if _native.PAGE_TOKENS != PAGE_TOKENS:  # both sides index the same pages
    raise ImportError("the native module was built for another page size; rebuild it")
