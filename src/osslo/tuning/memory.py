"""What a training run will take of memory, estimated before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from osslo.errors import MemoryPlanError
from osslo.model.checkpoints import Checkpoint
from osslo.model.checkpoints.tensors import Mxfp4Matrix
from osslo.model.config import ModelConfig
from osslo.tuning.learning import Learning, Method
from osslo.tuning.packing import Pack

_FLOAT_BYTES = 4
_PROCESS_BYTES = 450_000_000  # Python, torch and its threads
_MXFP4_BYTES = 17 / 32  # a value, its share of the scale with it
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes of each part. `learned` counts the parameters that learn."""

    weights_bytes: int
    learning_bytes: int
    activation_bytes: int
    learned: int

    @property
    def total_bytes(self) -> int:
        parts = self.weights_bytes + self.learning_bytes + self.activation_bytes
        return parts + _PROCESS_BYTES

    def rows(self) -> tuple[tuple[str, str], ...]:
        """Names and values, for a table of two columns."""
        return (
            ("weights", _gib(self.weights_bytes)),
            ("learning", f"{_gib(self.learning_bytes)} ({self.learned:,} parameters)"),
            ("activations", _gib(self.activation_bytes)),
            ("in all", _gib(self.total_bytes)),
        )


def estimate(
    checkpoint: Checkpoint,
    learning: Learning,
    packs: Sequence[Pack],
    *,
    workers: int,
    weight_bytes: int = _FLOAT_BYTES,
) -> MemoryEstimate:
    """The memory of a run whose weights take `weight_bytes` each, `workers` packs at a time."""
    config = checkpoint.config
    dense, in_experts = _parameters(config)
    packed = learning.method is Method.LORA and isinstance(
        checkpoint.matrix("layers.0.experts.0.gate"), Mxfp4Matrix
    )
    weights = dense * weight_bytes + round(in_experts * (_MXFP4_BYTES if packed else weight_bytes))
    learned = dense + in_experts if learning.lora is None else _factors(config, learning)
    # A gradient for each worker and their sum, and Adam's two moments; LoRA's own values.
    copies = workers + 1 + 2 + (0 if learning.lora is None else 1)
    largest = max((_activations(config, pack) for pack in packs), default=0)
    return MemoryEstimate(weights, learned * copies * _FLOAT_BYTES, largest * workers, learned)


def check_memory(needed: MemoryEstimate, available_bytes: int, learning: Learning) -> None:
    """Raises `MemoryPlanError` that says what to change."""
    if needed.total_bytes <= available_bytes:
        return
    advice = ["--pack-tokens lower", "--workers 1"]
    if learning.method is Method.FULL:
        advice.insert(0, "--method lora")
    else:
        advice.append("--rank lower")
    if needed.weights_bytes + _PROCESS_BYTES > available_bytes:
        advice = ["an MXFP4 checkpoint, a smaller model, or a machine with more memory"]
    raise MemoryPlanError(
        f"this takes about {_gib(needed.total_bytes)} and {_gib(available_bytes)} are available; "
        f"change: {', '.join(advice)}"
    )


def _parameters(config: ModelConfig) -> tuple[int, int]:
    """Weights outside the experts, and in them."""
    attention = 2 * config.hidden * (config.query_size + config.kv_size)
    layer = attention + config.hidden * (config.experts + 3)
    dense = config.layers * layer + 2 * config.vocab_size * config.hidden
    experts = 3 * config.layers * config.experts * config.hidden * config.intermediate
    return dense, experts


def _factors(config: ModelConfig, learning: Learning) -> int:
    hidden, query, kv, inner = config.hidden, config.query_size, config.kv_size, config.intermediate
    attention = 2 * (hidden + query) + 2 * (hidden + kv)
    experts = config.experts * (hidden + 2 * inner + inner + hidden)
    sizes = attention * learning.attention + experts * learning.experts
    return config.layers * learning.rank * sizes


def _activations(config: ModelConfig, pack: Pack) -> int:
    """What a forward keeps for its backward, in float32."""
    hidden, query = config.hidden, config.query_size
    attention = 6 * hidden + 4 * query + 4 * config.kv_size
    experts = config.experts_per_token * (2 * hidden + 9 * config.intermediate)
    scores = 3 * config.heads * sum(_seen(pack)) / max(1, pack.tokens)
    layers = config.layers * pack.tokens * (attention + experts + scores)
    logits = 3 * len(pack.rows) * config.vocab_size
    return round((layers + logits) * _FLOAT_BYTES)


def _seen(pack: Pack) -> list[int]:
    """For each segment its length times what it sees."""
    products = []
    for segment in pack.segments:
        length = segment.end - segment.start
        before = 0
        if segment.prefix is not None:
            prefix = pack.segments[segment.prefix]
            before = prefix.end - prefix.start
        products.append(length * (length + before))
    return products


def _gib(amount_bytes: float) -> str:
    return f"{amount_bytes / _GIB:.2f} GiB"
