"""What a run will do, worked out and checked before any weight is loaded. Needs no torch.

Owns the options, the data as packs, the number of steps, and whether a folder holds the same run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from osslo.errors import ConfigurationError
from osslo.harmony.vocabulary import Markers
from osslo.model.available import available_memory
from osslo.model.checkpoints import Checkpoint, GgufVocabulary, TokenizerFile, open_checkpoint
from osslo.model.tokenizer import Tokenizer
from osslo.tuning.dataset import DataOptions, Dataset, read_dataset
from osslo.tuning.examples import Example, ExampleRenderer
from osslo.tuning.learning import Learning
from osslo.tuning.memory import MemoryEstimate, check_memory, estimate
from osslo.tuning.packing import Pack, pack
from osslo.tuning.source import EpochSource

RUN_NAME = "run.json"
_FEW_VALIDATIONS = 12


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """Everything a run is made of. `model` is the checkpoint and `base` its name; `folder` keeps
    the run (checkpoints, log, report), `out` is the adapter's or the model's folder.

    A step learns from about `step_tokens` tokens in packs of `pack_tokens`; `steps` None takes what
    `epochs` need. `patience` validations without a better one end the run, 0 never does. `samples`
    answers are shown before and after. `device` is `auto`, `cpu` or `cuda`. `dtype` is what
    matrix products are computed in: `float32`, `bfloat16`, or `auto`, which takes bfloat16 where
    the processor has instructions for it (`fast_dtype`).
    """

    model: Path
    base: str
    data: tuple[Path, ...]
    folder: Path
    out: Path
    validation: tuple[Path, ...] = ()
    learning: Learning = field(default_factory=Learning)
    reading: DataOptions = field(default_factory=DataOptions)
    epochs: int = 3
    steps: int | None = None
    rate: float = 5e-4
    step_tokens: int = 1024
    pack_tokens: int = 512
    patience: int = 3
    checkpoint_every: int = 10
    samples: int = 3
    sample_tokens: int = 64
    seed: int = 0
    workers: int | None = None
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that may begin. `resumes` says that its folder holds a part of it."""

    options: TuneOptions
    checkpoint: Checkpoint
    tokenizer: Tokenizer
    dataset: Dataset
    packs: tuple[Pack, ...]
    held: tuple[Pack, ...]
    per_step: int
    steps: int
    workers: int
    compute: str
    memory: MemoryEstimate
    resumes: bool

    @property
    def source(self) -> EpochSource:
        return EpochSource(self.packs, self.held, per_step=self.per_step, seed=self.options.seed)

    @property
    def validate_every(self) -> int:
        return max(1, self.steps // _FEW_VALIDATIONS)

    @property
    def pack_tokens(self) -> int:
        """Tokens of one epoch, shared beginnings counted once."""
        return sum(one.tokens for one in self.packs)

    def samples(self) -> tuple[Example, ...]:
        """Whose prompts are answered before and after: of the validation, where there is one."""
        documents = self.dataset.validation or self.dataset.training
        spoken = [d.examples[-1] for d in documents if d.conversation is not None]
        return tuple(spoken[: self.options.samples])

    def rows(self) -> tuple[tuple[str, str], ...]:
        """Names and values, for a table of two columns."""
        options, learned = self.options, self.dataset.learned_tokens
        held = len(self.dataset.validation)
        return (
            ("base", f"{options.base} ({options.model})"),
            ("method", _method(options.learning)),
            ("data", f"{len(self.dataset.training):,} documents, {learned:,} learned tokens"),
            ("validation", f"{held:,} documents" if held else "none (too little data)"),
            ("packs", f"{len(self.packs):,} of at most {options.pack_tokens:,} tokens"),
            ("steps", f"{self.steps:,} ({self.source.steps_per_epoch:,} an epoch)"),
            ("rate, seed", f"{options.rate:g}, {options.seed}"),
            ("products in", self.compute),
            *self.memory.rows(),
        )


def make_plan(options: TuneOptions) -> Plan:
    """Read the data, count the steps, estimate the memory.

    Raises `BadDataError` naming every line at fault, `ConfigurationError` for options that make no
    sense or another run in the folder, `MemoryPlanError` where it cannot fit.
    """
    _check_options(options)
    checkpoint = open_checkpoint(options.model)
    tokenizer = tokenizer_of(checkpoint)
    end = Markers.of(tokenizer).return_
    end = tokenizer.specials.get("<|endoftext|>", end)
    dataset = read_dataset(
        options.data,
        ExampleRenderer(tokenizer),
        end,
        options.reading,
        validation=options.validation,
    )
    packs = tuple(pack(dataset.examples(), options.pack_tokens, seed=options.seed))
    held = tuple(pack(dataset.held(), options.pack_tokens, seed=options.seed))
    per_step = max(1, options.step_tokens // options.pack_tokens)
    per_epoch = -(-len(packs) // per_step)
    workers = min(options.workers or _cpus(), per_step)
    compute = fast_dtype() if options.dtype == "auto" else options.dtype
    memory = estimate(
        checkpoint,
        options.learning,
        (*packs, *held),
        workers=workers,
        weight_bytes=2 if compute == "bfloat16" and options.learning.lora else 4,
    )
    if options.device != "cuda":
        check_memory(memory, available_memory(), options.learning)
    return Plan(
        options,
        checkpoint,
        tokenizer,
        dataset,
        packs,
        held,
        per_step,
        options.steps or per_epoch * options.epochs,
        workers,
        compute,
        memory,
        resumes=same_run(options, checkpoint),
    )


def tokenizer_of(checkpoint: Checkpoint) -> Tokenizer:
    """The checkpoint's own tokenizer. Raises `ConfigurationError` if it has none."""
    match checkpoint.tokenizer_source():
        case TokenizerFile(path):
            return Tokenizer.from_file(path)
        case GgufVocabulary() as vocabulary:
            return Tokenizer.from_gguf(vocabulary.metadata)
        case None:
            raise ConfigurationError(
                f"{checkpoint.path}: there is no tokenizer; put its tokenizer.json beside it"
            )


def fast_dtype() -> str:
    """What this processor multiplies fastest in: bfloat16 where it has instructions for that (AMX,
    or AVX-512's BF16), else float32, since emulated bfloat16 is slower."""
    try:
        flags = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return "float32"
    return "bfloat16" if "amx_bf16" in flags or "avx512_bf16" in flags else "float32"


# --- one folder, one run --------------------------------------------------------------------------


def same_run(options: TuneOptions, checkpoint: Checkpoint) -> bool:
    """Whether the folder holds this very run; False if it holds none. Raises `ConfigurationError`
    for another one, naming what differs."""
    path = options.folder / RUN_NAME
    if not path.exists():
        return False
    stored, ours = json.loads(path.read_text("utf-8")), identity(options, checkpoint)
    differing = sorted(name for name in ours if stored.get(name) != ours[name])
    if differing:
        raise ConfigurationError(
            f"{options.folder} holds a run that differs in {', '.join(differing)}; give the "
            "options it began with, another --name, or --fresh to throw it away"
        )
    return True


def identity(options: TuneOptions, checkpoint: Checkpoint) -> dict[str, Any]:
    """What decides a run's numbers, as plain values. Workers and folders do not."""
    values: Mapping[str, Any] = asdict(options)
    left_out = {"folder", "out", "workers", "device", "samples", "sample_tokens", "model"}
    kept = {name: value for name, value in values.items() if name not in left_out}
    kept["data"] = _hashes(options.data)
    kept["validation"] = _hashes(options.validation)
    kept["weights"] = checkpoint.fingerprint()
    plain: dict[str, Any] = json.loads(json.dumps(kept))
    return plain


def _hashes(paths: Iterable[Path]) -> list[str]:
    return [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths]


def _check_options(options: TuneOptions) -> None:
    learning = options.learning
    least = {
        "--epochs": options.epochs,
        "--steps": 1 if options.steps is None else options.steps,
        "--rank": learning.rank,
        "--pack-tokens": options.pack_tokens - 15,
        "--max-tokens": options.reading.max_tokens - 15,
    }
    for name, value in least.items():
        if value < 1:
            raise ConfigurationError(f"{name} is too small", param=name)
    if not 0 < options.rate < 1:
        raise ConfigurationError("--rate must lie between 0 and 1", param="rate")
    if not 0 <= options.reading.validation_share < 1:
        raise ConfigurationError("--validation-share must be at least 0 and below 1")
    if learning.lora and not (learning.attention or learning.experts):
        raise ConfigurationError("nothing would learn; leave out --no-attention or --no-experts")
    if learning.router and learning.lora:
        raise ConfigurationError("--router needs --method full: an adapter holds no router")


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _method(learning: Learning) -> str:
    if learning.lora is None:
        return "full" + (", router too" if learning.router else "")
    parts = [
        n for n, on in (("attention", learning.attention), ("experts", learning.experts)) if on
    ]
    rounding = ", experts rounded to MXFP4" if learning.rounding else ""
    return f"LoRA of rank {learning.rank} on {' and '.join(parts)}{rounding}"
