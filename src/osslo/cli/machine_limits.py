"""What this machine could do at most where decoding is concerned: how fast memory is read, and how
much of it one token takes."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from osslo.model.forward import PAGE_TOKENS, PageKind
from osslo.model.model import Model

_PROBE_BYTES = 192 << 20  # of each thread: beyond any cache
_PROBES = 5
_EXPERTS = (".gate_up", ".down")


def read_speed(threads: int) -> float:
    """Bytes a second that `threads` read from memory together, the best of a few tries."""

    def read(part: NDArray[np.float32]) -> float:
        return float(part.max())

    parts = [np.ones(_PROBE_BYTES // 4, dtype=np.float32) for _ in range(threads)]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_PROBES):
            begin = time.perf_counter()
            list(pool.map(read, parts))
            best = max(best, threads * _PROBE_BYTES / (time.perf_counter() - begin))
    return best


def token_bytes(model: Model, depth: int) -> float:
    """What decoding one token at `depth` reads: all weights but the embedding, of the experts those
    that a token has, and the keys and values it sees."""
    weights = [t for t in model.header.tensors if t.kind is not None and t.name != "embedding"]
    experts = sum(t.bytes for t in weights if t.name.endswith(_EXPERTS))
    used = model.config.experts_per_token / model.config.experts
    seen = {PageKind.FULL: depth, PageKind.WINDOW: min(depth, model.sliding_window)}
    kv = sum(model.page_bytes(kind) / PAGE_TOKENS * rows for kind, rows in seen.items())
    return sum(t.bytes for t in weights) - experts * (1 - used) + kv
