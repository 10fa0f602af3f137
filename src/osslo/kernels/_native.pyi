from collections.abc import Mapping
from enum import Enum
from typing import final

import numpy as np
from numpy.typing import NDArray

PAGE_TOKENS: int

class WeightKind(Enum):
    MXFP4 = 0
    Q8 = 1
    BF16 = 2
    F32 = 3

def available_kernels() -> list[str]: ...
def usable_threads() -> int: ...
def pack_mxfp4(blocks: NDArray[np.uint8], scales: NDArray[np.uint8]) -> NDArray[np.uint8]: ...
def pack_q8(values: NDArray[np.int8], scales: NDArray[np.uint16]) -> NDArray[np.uint8]: ...
def pack_bf16(bits: NDArray[np.uint16]) -> NDArray[np.uint8]: ...
def pack_f32(values: NDArray[np.float32]) -> NDArray[np.uint8]: ...
def quantize_q8(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.uint16]]: ...
def matmul(
    isa: str,
    kind: WeightKind,
    rows: int,
    panels: NDArray[np.uint8],
    x: NDArray[np.float32],
    *,
    quantized: bool,
) -> NDArray[np.float32]: ...
def quantize_int8(
    isa: str, x: NDArray[np.float32]
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]: ...
def quantize_int16(
    isa: str, x: NDArray[np.float32]
) -> tuple[NDArray[np.int16], NDArray[np.float32]]: ...
def rms_norm(
    isa: str, x: NDArray[np.float32], weight: NDArray[np.float32], epsilon: float
) -> NDArray[np.float32]: ...
def low_rank_f32(
    isa: str,
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    scale: float,
    x: NDArray[np.float32],
    base: NDArray[np.float32],
    share: int,
) -> NDArray[np.float32]: ...
def low_rank_bf16(
    isa: str,
    a: NDArray[np.uint16],
    b: NDArray[np.uint16],
    scale: float,
    x: NDArray[np.float32],
    base: NDArray[np.float32],
    share: int,
) -> NDArray[np.float32]: ...
def swiglu(
    isa: str, gate_up: NDArray[np.float32], n: int, alpha: float, limit: float
) -> NDArray[np.float32]: ...
def attention(
    isa: str,
    query: NDArray[np.float32],
    keys: NDArray[np.float32],
    values: NDArray[np.float32],
    first: NDArray[np.int32],
    last: NDArray[np.int32],
    sink: NDArray[np.float32],
    *,
    half: bool,
) -> NDArray[np.float32]: ...

@final
class ModelShape:
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    experts: int
    experts_per_token: int
    vocab_size: int
    sliding_window: int
    rms_epsilon: float
    swiglu_alpha: float
    swiglu_limit: float
    rope_scale: float
    inverse_frequencies: list[float]
    window_layers: list[bool]
    quantize_activations: bool
    half_kv: bool
    def __init__(self) -> None: ...

@final
class TensorEntry:
    def __init__(
        self, kind: WeightKind, rows: int, columns: int, offset: int, bytes: int
    ) -> None: ...

@final
class KvCache:
    @property
    def full_pages(self) -> int: ...
    @property
    def window_pages(self) -> int: ...
    def copy_page(self, *, window: bool, source: int, target: int, tokens: int) -> None: ...
    def page(self, *, window: bool, page: int) -> NDArray[np.uint8]: ...

class AdapterTarget(Enum):
    QUERY = 0
    KEY = 1
    VALUE = 2
    OUTPUT = 3
    GATE_UP = 4
    DOWN = 5

@final
class Adapter:
    @property
    def bytes(self) -> int: ...
    def add_f32(
        self,
        layer: int,
        target: AdapterTarget,
        expert: int,
        a: NDArray[np.float32],
        b: NDArray[np.float32],
        scale: float,
    ) -> None: ...
    def add_bf16(
        self,
        layer: int,
        target: AdapterTarget,
        expert: int,
        a: NDArray[np.uint16],
        b: NDArray[np.uint16],
        scale: float,
    ) -> None: ...

@final
class NativeModel:
    def __init__(
        self,
        path: str,
        shape: ModelShape,
        tensors: Mapping[str, TensorEntry],
        threads: int,
        isa: str,
    ) -> None: ...
    def new_kv(self, full_pages: int, window_pages: int) -> KvCache: ...
    def forward(
        self,
        kv: KvCache,
        token_ids: NDArray[np.int32],
        positions: NDArray[np.int32],
        sequence_starts: NDArray[np.int32],
        full_pages: NDArray[np.int32],
        window_pages: NDArray[np.int32],
        logit_rows: NDArray[np.int32],
        adapters: list[Adapter],
        sequence_adapters: NDArray[np.int32],
    ) -> NDArray[np.float32]: ...
    def new_adapter(self) -> Adapter: ...
    def page_bytes(self, *, window: bool) -> int: ...
    @property
    def active_experts(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def isa(self) -> str: ...
