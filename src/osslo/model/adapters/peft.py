"""Reading adapters in PEFT's layout, and refusing by name what cannot be served.

Owns `adapter_config.json` and the tensor names of `adapter_model.safetensors`. `open_adapter` reads
the configuration and the header and checks every shape against the base; `AdapterFiles.load` reads
the numbers. docs/tuning.md describes the layout.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osslo.errors import AdapterError, CheckpointError
from osslo.model.adapters.factors import Adapter, Factors, Place, Target, native_bytes
from osslo.model.checkpoints.safetensors import SafeTensor, SafetensorsFiles
from osslo.model.config import ModelConfig
from osslo.model.fields import parse_json_object

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
FINGERPRINT_KEY = "osslo.base_fingerprint"
"""In the safetensors metadata: the fingerprint of the only base that the adapter is for."""

_MUST_BE: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "bias": ("none",),
        "use_dora": (False, None),
        "lora_bias": (False, None),
        "fan_in_fan_out": (False, None),
        "use_qalora": (False, None),
        "use_bdlora": (False, None),
        "modules_to_save": (None, []),
        "trainable_token_indices": (None, [], {}),
        "layer_replication": (None, []),
        "alora_invocation_tokens": (None, []),
        "arrow_config": (None, {}),
        "kasa_config": (None, {}),
        "velora_config": (None, {}),
        "monteclora_config": (None, {}),
    }
)
"""Fields of the configuration that change what a delta is; an absent field is its first value."""

_MAX_CONFIG_BYTES = 1 << 20
_MOST_RANK = 4096
_LAYER = re.compile(r"(?:base_model\.model\.)?model\.layers\.(\d+)\.(.+)\.lora_([AB])\.weight")
_ATTENTION = re.compile(r"self_attn\.([qkvo]_proj)")
_ONE_EXPERT = re.compile(
    r"mlp\.experts\.(?:(?P<n>\d+)\.(?P<part>gate_up_proj|down_proj)"
    r"|(?P<parts>gate_up_proj|down_proj)s\.(?P<m>\d+))"
)
_FUSED = frozenset({"mlp.experts", "mlp.experts.base_layer"})
_DTYPES = frozenset({"F32", "BF16", "F16"})


@dataclass(frozen=True, slots=True)
class Scaling:
    """From what a delta's scale follows: alpha / rank, or alpha / sqrt(rank) (rsLoRA, arXiv
    2312.03732); patterns set alpha or rank for modules whose name ends in a match."""

    rank: int
    alpha: float
    rank_stabilised: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]

    def scale(self, module: str, rank: int) -> float:
        alpha = next((v for k, v in self.alphas.items() if _ends_in(k, module)), self.alpha)
        return float(alpha / (math.sqrt(rank) if self.rank_stabilised else rank))

    def rank_of(self, module: str) -> int:
        return next((v for k, v in self.ranks.items() if _ends_in(k, module)), self.rank)


@dataclass(frozen=True, slots=True)
class _Pair:
    """The two stored tensors of one module. `experts` is 0 for a plain matrix, else how many
    experts are fused in them."""

    place: Place
    module: str
    a: SafeTensor
    b: SafeTensor
    rank: int
    experts: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class AdapterFiles:
    """An adapter on disk whose configuration and shapes fit the model. `resident_bytes` is what it
    takes once loaded; `base_name` is what it says it was trained on."""

    folder: Path
    base_name: str
    rank: int
    targets: tuple[Target, ...]
    resident_bytes: int
    pairs: tuple[_Pair, ...]
    scaling: Scaling

    def load(self) -> Adapter:
        """Read the numbers. Raises AdapterError for one that is not finite."""
        factors: dict[Place, Factors] = {}
        for pair in self.pairs:
            factors |= self._factors(pair)
        return Adapter(self.identity(), MappingProxyType(factors), self.resident_bytes)

    def identity(self) -> str:
        """SHA-256, in hex, over both files."""
        digest = hashlib.sha256()
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            with (self.folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def _factors(self, pair: _Pair) -> dict[Place, Factors]:
        a, b = self._numbers(pair.a), self._numbers(pair.b)
        if a.dtype != b.dtype:
            a, b = pair.a.float32(), pair.b.float32()
        scale = self.scaling.scale(pair.module, pair.rank)
        if not pair.experts:
            return {pair.place: Factors(a, b, scale)}
        # Rows of A are together by expert; columns of B take turns.
        each_a = a.reshape(pair.experts, pair.rank, -1)
        each_b = np.ascontiguousarray(
            b.reshape(b.shape[0], pair.rank, pair.experts).transpose(2, 0, 1)
        )
        return {
            replace(pair.place, expert=e): Factors(each_a[e], each_b[e], scale)
            for e in range(pair.experts)
        }

    def _numbers(self, tensor: SafeTensor) -> NDArray[Any]:
        floats = tensor.float32()
        if not np.isfinite(floats).all():
            raise AdapterError(
                f"{tensor.file.path}: tensor {tensor.name} holds NaN or infinity; train it again"
            )
        return tensor.array() if tensor.dtype == "BF16" else floats


def open_adapter(
    folder: Path, config: ModelConfig, *, fingerprint: str | None = None
) -> AdapterFiles:
    """Read an adapter's configuration and header and check them against the model `config`.

    `fingerprint` is the base checkpoint's, compared where the adapter names one. Raises
    AdapterError, one line that names the file and the field or tensor.
    """
    try:
        return _open(folder, config, fingerprint)
    except CheckpointError as error:
        raise AdapterError(error.message) from error
    except OSError as error:
        raise AdapterError(f"{folder}: cannot be read: {error.strerror or error}") from error


def _open(folder: Path, config: ModelConfig, fingerprint: str | None) -> AdapterFiles:
    scaling, base_name = _read_config(folder / CONFIG_FILE)
    stored = SafetensorsFiles([folder / WEIGHTS_FILE])
    _check_base(folder, stored, fingerprint)
    pairs = tuple(_pairs(folder / WEIGHTS_FILE, stored.tensors, config))
    for pair in pairs:
        wanted = scaling.rank_of(pair.module)
        if pair.rank != wanted:
            raise AdapterError(
                f"{folder / WEIGHTS_FILE}: {pair.module} has rank {pair.rank}, but "
                f"{CONFIG_FILE} says {wanted}"
            )
    return AdapterFiles(
        folder,
        base_name,
        max(pair.rank for pair in pairs),
        tuple(target for target in Target if any(p.place.target is target for p in pairs)),
        sum(_resident_bytes(pair, config) for pair in pairs),
        pairs,
        scaling,
    )


def _resident_bytes(pair: _Pair, config: ModelConfig) -> int:
    bf16 = pair.a.dtype == pair.b.dtype == "BF16"
    return max(1, pair.experts) * native_bytes(config, pair.place.target, pair.rank, bf16=bf16)


# --- the configuration ----------------------------------------------------------------------------


def _read_config(path: Path) -> tuple[Scaling, str]:
    def fail(what: str) -> AdapterError:
        return AdapterError(f"{path}: {what}")

    try:
        with path.open("rb") as file:
            text = file.read(_MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        raise fail("is missing; an adapter is a folder in PEFT's layout") from None
    if len(text) > _MAX_CONFIG_BYTES:
        raise fail(f"is longer than {_MAX_CONFIG_BYTES} bytes")
    values = parse_json_object(path, text)
    if values.get("peft_type") != "LORA":
        raise fail(f"peft_type is {values.get('peft_type')!r}; only LORA is served")
    for name, allowed in _MUST_BE.items():
        if name in values and not any(_same(values[name], value) for value in allowed):
            raise fail(f"{name} is {str(values[name])[:80]}, which is not served; train without it")
    base = values.get("base_model_name_or_path")
    scaling = Scaling(
        rank=_whole(fail, "r", values.get("r"), _MOST_RANK),
        alpha=_number(fail, "lora_alpha", values.get("lora_alpha")),
        rank_stabilised=_flag(fail, "use_rslora", values.get("use_rslora")),
        ranks={
            key: _whole(fail, f"rank_pattern[{key!r}]", value, _MOST_RANK)
            for key, value in _pattern(fail, values, "rank_pattern").items()
        },
        alphas={
            key: _number(fail, f"alpha_pattern[{key!r}]", value)
            for key, value in _pattern(fail, values, "alpha_pattern").items()
        },
    )
    return scaling, base if isinstance(base, str) else ""


_Fail = Callable[[str], AdapterError]


def _same(value: object, allowed: object) -> bool:
    return type(value) is type(allowed) and value == allowed


def _whole(fail: _Fail, name: str, value: object, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise fail(f"{name} is {str(value)[:80]}, but must be a whole number from 1 to {most}")
    return value


def _number(fail: _Fail, name: str, value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(float(str(value))) <= 1e9:
        raise fail(f"{name} is {str(value)[:80]}, but must be a number")
    return float(str(value))


def _flag(fail: _Fail, name: str, value: object) -> bool:
    if value not in (True, False, None):
        raise fail(f"{name} is {str(value)[:80]}, but must be true or false")
    return bool(value)


def _pattern(fail: _Fail, values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    pattern = values.get(name) or {}
    if not isinstance(pattern, dict):
        raise fail(f"{name} is not an object")
    for key in pattern:
        if not re.fullmatch(r"[A-Za-z0-9_.]{1,200}", key):
            raise fail(f"{name} has the pattern {key[:80]!r}; only plain module names are read")
    return pattern


def _ends_in(pattern: str, module: str) -> bool:
    return module == pattern or module.endswith(f".{pattern}")


# --- the tensors ----------------------------------------------------------------------------------


def _check_base(folder: Path, stored: SafetensorsFiles, fingerprint: str | None) -> None:
    _, header = stored.headers[0]
    metadata = parse_json_object(folder / WEIGHTS_FILE, header.tobytes()).get("__metadata__")
    named = metadata.get(FINGERPRINT_KEY) if isinstance(metadata, dict) else None
    if named and fingerprint and named != fingerprint:
        raise AdapterError(
            f"{folder / WEIGHTS_FILE}: made for the base {str(named)[:12]}, but the model that is "
            f"served is {fingerprint[:12]}"
        )


def _pairs(path: Path, tensors: Mapping[str, SafeTensor], config: ModelConfig) -> Iterator[_Pair]:
    modules: dict[tuple[int, str], dict[str, SafeTensor]] = {}
    for name, tensor in tensors.items():
        match = _LAYER.fullmatch(name)
        if match is None:
            raise AdapterError(f"{path}: tensor {name[:200]} is not served; {_SERVED}")
        if tensor.dtype not in _DTYPES:
            raise AdapterError(f"{path}: tensor {name} is {tensor.dtype}; F32, BF16 or F16 is read")
        if len(tensor.shape) != 2:
            raise AdapterError(f"{path}: tensor {name} has {len(tensor.shape)} dimensions, not 2")
        modules.setdefault((int(match[1]), match[2]), {})[match[3]] = tensor
    if not modules:
        raise AdapterError(f"{path}: there are no factors in it")
    seen: set[Place] = set()
    for (layer, module), both in modules.items():
        name = f"model.layers.{layer}.{module}"
        if layer >= config.layers:
            raise AdapterError(f"{path}: {name}: the model has {config.layers} layers")
        if len(both) != 2:
            raise AdapterError(f"{path}: {name} has only lora_{next(iter(both))}")
        pair = _pair(path, layer, module, both, config)
        for expert in range(max(1, pair.experts)):
            place = replace(pair.place, expert=pair.place.expert + expert)
            if place in seen:
                raise AdapterError(f"{path}: {name} stands there twice")
            seen.add(place)
        yield pair


_SERVED = "LoRA on q_proj, k_proj, v_proj, o_proj and on the experts' gate_up_proj, down_proj is"


def _pair(
    path: Path, layer: int, module: str, both: Mapping[str, SafeTensor], config: ModelConfig
) -> _Pair:
    a, b = both["A"], both["B"]
    base = f"model.layers.{layer}."
    if module in _FUSED:
        return _fused_pair(path, layer, a, b, config)
    attention, expert = _ATTENTION.fullmatch(module), _ONE_EXPERT.fullmatch(module)
    if attention:
        place = Place(layer, Target(attention[1]))
    elif expert:
        place = Place(
            layer, Target(expert["part"] or expert["parts"]), int(expert["n"] or expert["m"])
        )
        if place.expert >= config.experts:
            raise AdapterError(f"{path}: {base}{module}: the model has {config.experts} experts")
    else:
        raise AdapterError(f"{path}: {base}{module} is not served; {_SERVED}")
    rows, columns = place.target.size(config)
    rank = a.shape[0]
    _check_shapes(path, a, (rank, columns), b, (rows, rank))
    return _Pair(place, base + module, a, b, rank)


def _fused_pair(path: Path, layer: int, a: SafeTensor, b: SafeTensor, config: ModelConfig) -> _Pair:
    """All experts of a layer in one module. Names do not tell gate_up from down (that depends on
    what else was trained), but shapes do: both would need I = d and 2I = d."""
    for target in (Target.GATE_UP, Target.DOWN):
        rows, columns = target.size(config)
        if (b.shape[0], a.shape[1]) == (rows, columns):
            break
    rank, left = divmod(a.shape[0], config.experts)
    if left:
        raise AdapterError(
            f"{path}: tensor {a.name} has {a.shape[0]} rows, which is no multiple of the model's "
            f"{config.experts} experts"
        )
    both = rank * config.experts
    _check_shapes(path, a, (both, columns), b, (rows, both))
    module = f"model.layers.{layer}.mlp.experts.{target}"
    return _Pair(Place(layer, target), module, a, b, rank, config.experts)


def _check_shapes(
    path: Path,
    a: SafeTensor,
    a_shape: Sequence[int],
    b: SafeTensor,
    b_shape: Sequence[int],
) -> None:
    for tensor, needed in ((a, tuple(a_shape)), (b, tuple(b_shape))):
        if tensor.shape != needed or 0 in needed:
            raise AdapterError(
                f"{path}: tensor {tensor.name} is {list(tensor.shape)}, but must be {list(needed)} "
                "for this model"
            )
