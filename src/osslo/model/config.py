"""The sizes of a gpt-oss model, read from whatever configuration its checkpoint carries.

Owns parsing, checking and the rotary frequencies that follow from them. Every size comes from the
checkpoint; nothing here knows how large gpt-oss-20b is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osslo.errors import CheckpointError, ConfigurationError
from osslo.model.fields import Fields
from osslo.model.forward import PageKind

SWIGLU_ALPHA = 1.702
"""The sigmoid's gain in the experts' activation, where a checkpoint does not say."""

SWIGLU_LIMIT = 7.0
"""The clamp of that activation; GGUF files leave it out, since ggml fixes it at this value."""

GGUF_ARCHITECTURE = "gpt-oss"

OLLAMA_ARCHITECTURE = "gptoss"
"""What Ollama's converter calls the same, in GGUF files with keys and tensors of their own."""

_LARGEST_SIZE = 2**31 - 1  # positions, rows and columns are 32-bit in the kernels
_MOST_LAYERS = 4096
_MOST_EXPERTS = 65536
_LAYER_TYPES = {"sliding_attention": PageKind.WINDOW, "full_attention": PageKind.FULL}


@dataclass(frozen=True, slots=True)
class YarnConfig:
    """YaRN's context extension (arXiv 2309.00071, section 3).

    Dimensions that turn more than `beta_fast` times in `original_context` positions keep their
    frequency, those below `beta_slow` turns are slowed by `factor`, those between are blended;
    `truncate` rounds the two ends of that range to whole dimensions. `attention_factor` scales
    both cosine and sine.
    """

    factor: float
    original_context: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = False


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything a forward pass must know besides the weights.

    `layer_kinds[i]` says whether layer i sees all earlier positions or the last `sliding_window`,
    its own included; `sliding_window` is 0 where no layer has a window. Raises
    ConfigurationError naming the field that is wrong.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    experts: int
    experts_per_token: int
    vocab_size: int
    layer_kinds: tuple[PageKind, ...]
    sliding_window: int
    rope_theta: float
    yarn: YarnConfig | None
    max_context: int
    rms_eps: float = 1e-5
    swiglu_limit: float = SWIGLU_LIMIT
    swiglu_alpha: float = SWIGLU_ALPHA
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in _POSITIVE_SIZES:
            _require(0 < getattr(self, name) <= _LARGEST_SIZE, name, "a positive 32-bit size", self)
        for name in ("rope_theta", "rms_eps", "swiglu_limit", "swiglu_alpha"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value > 0, name, "a positive number", self)
        _require(self.layers <= _MOST_LAYERS, "layers", f"at most {_MOST_LAYERS}", self)
        _require(self.experts <= _MOST_EXPERTS, "experts", f"at most {_MOST_EXPERTS}", self)
        self._check_relations()
        if self.yarn is not None:
            _check_yarn(self.yarn)

    def _check_relations(self) -> None:
        windowed = PageKind.WINDOW in self.layer_kinds
        _require(self.head_dim % 2 == 0, "head_dim", "even", self)
        _require(self.rope_theta > 1, "rope_theta", "above 1", self)
        _require(
            self.heads % self.kv_heads == 0,
            "heads",
            f"a multiple of the {self.kv_heads} key/value heads",
            self,
        )
        _require(
            self.experts_per_token <= self.experts,
            "experts_per_token",
            f"at most the {self.experts} experts",
            self,
        )
        if len(self.layer_kinds) != self.layers:
            raise ConfigurationError(
                f"layer_kinds names {len(self.layer_kinds)} layers, the model has {self.layers}"
            )
        if windowed != (self.sliding_window > 0) or self.sliding_window > _LARGEST_SIZE:
            raise ConfigurationError(
                f"sliding_window is {self.sliding_window}, but must be positive where a layer has "
                "a window and 0 where none has"
            )
        if any(not 0 <= token < self.vocab_size for token in self.eos_token_ids):
            raise ConfigurationError(
                f"eos_token_ids {list(self.eos_token_ids)} lie outside the vocabulary of "
                f"{self.vocab_size}"
            )

    @property
    def query_size(self) -> int:
        """Rows of the query projection, columns of the output projection."""
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Rows of the key projection and of the value projection."""
        return self.kv_heads * self.head_dim

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON keeps; `from_dict` is the inverse."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        values["layer_kinds"] = [kind.value for kind in self.layer_kinds]
        values["eos_token_ids"] = list(self.eos_token_ids)
        if self.yarn is not None:
            values["yarn"] = {f.name: getattr(self.yarn, f.name) for f in fields(self.yarn)}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str = "config") -> ModelConfig:
        """Read what `to_dict` wrote. Raises CheckpointError naming `source` and the field."""
        given = Fields(source, values)
        given.expect_only({f.name for f in fields(cls)})
        kinds = given.strings("layer_kinds")
        if not set(kinds) <= set(PageKind):
            raise given.fail("layer_kinds", "is not a list of 'full' and 'window'")
        return _build(
            source,
            **{name: given.integer(name) for name in _POSITIVE_SIZES},
            **{name: given.number(name) for name in _POSITIVE_NUMBERS},
            layer_kinds=tuple(PageKind(kind) for kind in kinds),
            sliding_window=given.integer("sliding_window"),
            yarn=_stored_yarn(given.group("yarn")),
            eos_token_ids=given.token_ids("eos_token_ids"),
        )

    @classmethod
    def from_huggingface(
        cls, values: Mapping[str, Any], *, source: str = "config.json"
    ) -> ModelConfig:
        """Read a Hugging Face `config.json`, with `rope_parameters` (transformers 5) or
        `rope_scaling` and `rope_theta` (before). Raises CheckpointError naming the field."""
        given = Fields(source, values)
        given.expect("model_type", "gpt_oss")
        for name, only in (("hidden_act", "silu"), ("attention_bias", True)):
            if values.get(name) is not None:
                given.expect(name, only)
        layers = given.integer("num_hidden_layers")
        kinds = _huggingface_kinds(given, layers)
        rope = given.group("rope_parameters") or given.group("rope_scaling")
        theta = given.number("rope_theta", 150000.0)
        max_context = given.integer("max_position_embeddings", 131072)
        return _build(
            source,
            hidden=given.integer("hidden_size"),
            layers=layers,
            heads=given.integer("num_attention_heads"),
            kv_heads=given.integer("num_key_value_heads"),
            head_dim=given.integer("head_dim", 64),
            intermediate=given.integer("intermediate_size"),
            experts=given.integer("num_local_experts"),
            experts_per_token=given.integer("num_experts_per_tok"),
            vocab_size=given.integer("vocab_size"),
            layer_kinds=kinds,
            sliding_window=_window(given.integer("sliding_window", 0), kinds),
            rope_theta=theta if rope is None else rope.number("rope_theta", theta),
            yarn=None if rope is None else _huggingface_yarn(rope, max_context),
            max_context=max_context,
            rms_eps=given.number("rms_norm_eps", 1e-5),
            swiglu_limit=given.number("swiglu_limit", SWIGLU_LIMIT),
            swiglu_alpha=given.number("swiglu_alpha", SWIGLU_ALPHA),
            eos_token_ids=given.token_ids("eos_token_id"),
        )

    @classmethod
    def from_original(
        cls, values: Mapping[str, Any], *, source: str = "config.json"
    ) -> ModelConfig:
        """Read the `config.json` of OpenAI's `original/` folder: windows on even layers, YaRN
        with an unrounded range. Raises CheckpointError naming the field."""
        given = Fields(source, values)
        layers = given.integer("num_hidden_layers")
        context = given.integer("initial_context_length", 4096)
        factor = given.number("rope_scaling_factor", 1.0)
        kinds = _alternating(layers)
        return _build(
            source,
            hidden=given.integer("hidden_size"),
            layers=layers,
            heads=given.integer("num_attention_heads"),
            kv_heads=given.integer("num_key_value_heads"),
            head_dim=given.integer("head_dim", 64),
            intermediate=given.integer("intermediate_size"),
            experts=given.integer("num_experts"),
            experts_per_token=given.integer("experts_per_token"),
            vocab_size=given.integer("vocab_size"),
            layer_kinds=kinds,
            sliding_window=_window(given.integer("sliding_window"), kinds),
            rope_theta=given.number("rope_theta", 150000.0),
            yarn=YarnConfig(
                factor,
                context,
                yarn_attention_factor(factor),
                beta_fast=given.number("rope_ntk_beta", 32.0),
                beta_slow=given.number("rope_ntk_alpha", 1.0),
            )
            if factor > 1
            else None,
            max_context=round(min(context * max(factor, 1.0), _LARGEST_SIZE)),
            swiglu_limit=given.number("swiglu_limit", SWIGLU_LIMIT),
        )

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], *, source: str = "metadata") -> ModelConfig:
        """Read a GGUF file's metadata (architecture `gpt-oss`, or Ollama's `gptoss`), plus the keys
        `osslo.*` in which our own files keep what the format has no place for. Raises
        CheckpointError."""
        ollama = is_ollama(metadata)
        architecture = OLLAMA_ARCHITECTURE if ollama else GGUF_ARCHITECTURE
        given = Fields(source, metadata)
        given.expect("general.architecture", architecture)
        given = given.below(f"{architecture}.")
        own = Fields(source, metadata).below("osslo.")
        intermediate = "feed_forward_length" if ollama else "expert_feed_forward_length"
        layers = given.integer("block_count")
        kinds = _gguf_kinds(given, layers)
        hidden, heads = given.integer("embedding_length"), given.integer("attention.head_count")
        return _build(
            source,
            hidden=hidden,
            layers=layers,
            heads=heads,
            kv_heads=given.integer("attention.head_count_kv"),
            head_dim=given.integer("attention.key_length", hidden // max(heads, 1)),
            intermediate=given.integer(intermediate),
            experts=given.integer("expert_count"),
            experts_per_token=given.integer("expert_used_count"),
            vocab_size=_gguf_vocab_size(metadata, given),
            layer_kinds=kinds,
            sliding_window=_window(given.integer("attention.sliding_window", 0), kinds),
            rope_theta=given.number("rope.freq_base"),
            yarn=_gguf_yarn(
                given, truncate=own.boolean("rope_truncate", default=False), implied=ollama
            ),
            max_context=given.integer("context_length"),
            rms_eps=given.number("attention.layer_norm_rms_epsilon"),
            swiglu_limit=own.number("swiglu_limit", SWIGLU_LIMIT),
            swiglu_alpha=own.number("swiglu_alpha", SWIGLU_ALPHA),
            eos_token_ids=_gguf_eos(Fields(source, metadata).below("tokenizer.ggml.")),
        )


def is_ollama(metadata: Mapping[str, Any]) -> bool:
    """Whether a GGUF file with this metadata is laid out as Ollama's converter does it."""
    return metadata.get("general.architecture") == OLLAMA_ARCHITECTURE


_POSITIVE_SIZES = (
    "hidden",
    "layers",
    "heads",
    "kv_heads",
    "head_dim",
    "intermediate",
    "experts",
    "experts_per_token",
    "vocab_size",
    "max_context",
)
_POSITIVE_NUMBERS = ("rope_theta", "rms_eps", "swiglu_limit", "swiglu_alpha")


def yarn_attention_factor(factor: float) -> float:
    """YaRN's recommended scale of cosine and sine, 0.1 ln(factor) + 1 (arXiv 2309.00071)."""
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0


def rope_inverse_frequencies(config: ModelConfig) -> tuple[NDArray[np.float32], float]:
    """Radians a position, float32 `[head_dim / 2]`, and the scale of cosine and sine.

    The order of the float32 operations is transformers' `_compute_yarn_parameters`, so that the
    angles agree with it far into the context.
    """
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    turns = np.power(config.rope_theta, exponents.astype(np.float64)).astype(np.float32)
    plain = np.float32(1) / turns
    yarn = config.yarn
    if yarn is None:
        return plain, 1.0
    slowed = np.float32(1) / (np.float32(yarn.factor) * turns)
    low, high = _correction_range(config, yarn)
    steps = np.arange(config.head_dim // 2, dtype=np.float32)
    ramp = ((steps - np.float32(low)) / np.float32(high - low)).clip(0, 1)
    keep = np.float32(1) - ramp
    return slowed * (np.float32(1) - keep) + plain * keep, yarn.attention_factor


def _correction_range(config: ModelConfig, yarn: YarnConfig) -> tuple[float, float]:
    """The dimensions between which YaRN blends (arXiv 2309.00071, section 3.2)."""

    def dimension(rotations: float) -> float:
        turns = yarn.original_context / (rotations * 2 * math.pi)
        return config.head_dim * math.log(turns) / (2 * math.log(config.rope_theta))

    low, high = dimension(yarn.beta_fast), dimension(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.head_dim - 1)
    return low, high + 0.001 if low == high else high


# --- parts of the configurations ------------------------------------------------------------------


def _huggingface_kinds(given: Fields, layers: int) -> tuple[PageKind, ...]:
    if given.values.get("layer_types") is None:
        return _alternating(layers)
    types = given.strings("layer_types")
    unknown = sorted(set(types) - set(_LAYER_TYPES))
    if unknown:
        raise given.fail("layer_types", f"has the unknown kind {unknown[0]!r}")
    return tuple(_LAYER_TYPES[name] for name in types)


def _alternating(layers: int) -> tuple[PageKind, ...]:
    """gpt-oss's pattern where a configuration names none: windows on even layers."""
    pair = (PageKind.WINDOW, PageKind.FULL)
    return tuple(pair[i % 2] for i in range(min(layers, _MOST_LAYERS)))


def _window(size: int, kinds: Sequence[PageKind]) -> int:
    return size if PageKind.WINDOW in kinds else 0


def _huggingface_yarn(rope: Fields, max_context: int) -> YarnConfig | None:
    kind = rope.values.get("rope_type", rope.values.get("type", "default"))
    if rope.number("partial_rotary_factor", 1.0) != 1.0:
        raise rope.fail("partial_rotary_factor", "must be 1")
    if kind == "default":
        return None
    if kind != "yarn":
        raise rope.fail("rope_type", f"is {kind!r}; 'yarn' and 'default' are read")
    original = rope.integer("original_max_position_embeddings")
    factor = rope.number("factor", max_context / max(original, 1))
    return YarnConfig(
        factor,
        original,
        rope.number("attention_factor", _huggingface_attention_factor(rope, factor)),
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        truncate=rope.boolean("truncate", default=True),
    )


def _huggingface_attention_factor(rope: Fields, factor: float) -> float:
    """The factor as transformers infers it from `mscale` and `mscale_all_dim` where both stand."""
    scale, scale_all = rope.number("mscale", 0.0), rope.number("mscale_all_dim", 0.0)
    if not (scale and scale_all) or factor <= 1:
        return yarn_attention_factor(factor)
    log = 0.1 * math.log(factor)
    denominator = log * scale_all + 1.0
    if denominator == 0:
        raise rope.fail("mscale_all_dim", "leaves no attention factor")
    return (log * scale + 1.0) / denominator


def _stored_yarn(group: Fields | None) -> YarnConfig | None:
    if group is None:
        return None
    group.expect_only({f.name for f in fields(YarnConfig)})
    return YarnConfig(
        group.number("factor"),
        group.integer("original_context"),
        group.number("attention_factor"),
        beta_fast=group.number("beta_fast"),
        beta_slow=group.number("beta_slow"),
        truncate=group.boolean("truncate"),
    )


def _gguf_kinds(given: Fields, layers: int) -> tuple[PageKind, ...]:
    """`attention.sliding_window_pattern`: a list with true for a window, or a period of which the
    last layer sees everything; without it, gpt-oss's alternation."""
    pattern = given.values.get("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        return tuple(PageKind.WINDOW if window else PageKind.FULL for window in pattern)
    period = given.integer("attention.sliding_window_pattern", 2)
    count = range(min(layers, _MOST_LAYERS))
    if period < 1:
        return (PageKind.WINDOW,) * len(count)
    return tuple(PageKind.WINDOW if i % period < period - 1 else PageKind.FULL for i in count)


def _gguf_yarn(given: Fields, *, truncate: bool, implied: bool) -> YarnConfig | None:
    """YaRN where the file names it, or with `implied` where any factor but 1 stands: Ollama's files
    name no kind of scaling."""
    kind = "yarn" if implied and given.number("rope.scaling.factor", 1.0) != 1.0 else "none"
    if given.values.get("rope.scaling.type", kind) != "yarn":
        return None
    factor = given.number("rope.scaling.factor")
    return YarnConfig(
        factor,
        given.integer("rope.scaling.original_context_length"),
        yarn_attention_factor(factor),
        beta_fast=given.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=given.number("rope.scaling.yarn_beta_slow", 1.0),
        truncate=truncate,
    )


def _gguf_eos(tokenizer: Fields) -> tuple[int, ...]:
    """The one token that llama.cpp's files name, or all of Ollama's."""
    return tokenizer.token_ids("eos_token_ids") or tokenizer.token_ids("eos_token_id")


def _gguf_vocab_size(metadata: Mapping[str, Any], given: Fields) -> int:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and tokens:
        return len(tokens)
    return given.integer("vocab_size")


# --- checking -------------------------------------------------------------------------------------


def _require(condition: bool, name: str, what: str, config: ModelConfig) -> None:
    if not condition:
        raise ConfigurationError(f"{name} is {getattr(config, name)}, but must be {what}")


def _check_yarn(yarn: YarnConfig) -> None:
    for name in ("factor", "original_context", "attention_factor", "beta_fast", "beta_slow"):
        value = getattr(yarn, name)
        if not (math.isfinite(value) and value > 0):
            raise ConfigurationError(f"yarn.{name} is {value}, but must be a positive number")


def _build(source: str, **values: Any) -> ModelConfig:
    """The configuration, with what it complains of put down to the file it came from."""
    try:
        return ModelConfig(**values)
    except ConfigurationError as error:
        raise CheckpointError(f"{source}: {error.message}") from None
