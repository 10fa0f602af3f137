"""What leaves the house: an adapter folder, a merged Hugging Face folder, or a GGUF file.

Owns merging (float32, then rounded once), how much of a delta survives the rounding, and what is
written beside the weights: licence, notice, model card. Needs no torch; loading the result in
`transformers` is `verify`'s subject.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np

from osslo.errors import CheckpointError, ConfigurationError
from osslo.model.adapters.factors import Adapter, Place, Target
from osslo.model.adapters.peft import open_adapter
from osslo.model.checkpoints import Checkpoint, open_checkpoint
from osslo.model.checkpoints.tensors import parse_name
from osslo.tuning.merged import Experts, Float, Progress, rounded, write_gguf, write_model
from osslo.tuning.plan import tokenizer_of

LEAST_SURVIVING = 0.5
"""Below it the merged model is nearer to the base than to the tuned model, along the delta."""

_PARTS = {
    "q": Target.QUERY,
    "k": Target.KEY,
    "v": Target.VALUE,
    "o": Target.OUTPUT,
    "gate": Target.GATE_UP,
    "up": Target.GATE_UP,
    "down": Target.DOWN,
}
_LEGAL = ("LICENSE", "LICENSE.txt", "NOTICE", "NOTICE.txt", "USAGE_POLICY")


@dataclass(frozen=True, slots=True)
class Survival:
    """How much of the deltas is in the exported weights: the share of their length along their own
    direction, 1 where nothing was lost on average, 0 where all of it was. None where there are no
    such deltas."""

    attention: float | None
    experts: float | None


class Merged:
    """A checkpoint with an adapter added, in float32: a `TensorSource`."""

    def __init__(self, checkpoint: Checkpoint, adapter: Adapter | None) -> None:
        self.checkpoint = checkpoint
        self._adapter = adapter

    def __call__(self, name: str) -> Float:
        base = self.base(name)
        delta = self.delta(name)
        return base if delta is None else base + delta

    def base(self, name: str) -> Float:
        """The base's tensor."""
        found = parse_name(self.checkpoint.config, name)
        if found is None:
            raise AssertionError(f"{name} is no tensor of this model")
        is_vector = found.part.endswith(("norm", "_bias", "sinks"))
        if is_vector:
            return self.checkpoint.vector(name)
        return self.checkpoint.matrix(name).to_float32()

    def delta(self, name: str) -> Float | None:
        """What the adapter adds to it, None for nothing."""
        found = parse_name(self.checkpoint.config, name)
        target = None if found is None else _PARTS.get(found.part)
        if self._adapter is None or found is None or target is None or found.layer is None:
            return None
        factors = self._adapter.factors.get(Place(found.layer, target, found.expert or 0))
        if factors is None:
            return None
        a, b = factors.floats()
        if target is Target.GATE_UP:  # outputs take turns: gate, up
            b = b[0::2] if found.part == "gate" else b[1::2]
        product: Float = np.float32(factors.scale) * (b @ a)
        return product


def surviving(merged: Merged, exported: Checkpoint, experts: Experts) -> Survival:
    """Read every changed matrix back and compare it with the base, rounded alike."""
    sums = {"attention": [0.0, 0.0], "experts": [0.0, 0.0]}
    for name in exported.names():
        delta = merged.delta(name)
        if delta is None:
            continue
        kind = "experts" if ".experts." in name else "attention"
        before = rounded(merged.base(name), experts if kind == "experts" else None)
        change = exported.matrix(name).to_float32() - before
        sums[kind][0] += float(np.vdot(change, delta))
        sums[kind][1] += float(np.vdot(delta, delta))
    shares = {kind: part / whole if whole else None for kind, (part, whole) in sums.items()}
    return Survival(shares["attention"], shares["experts"])


def check_survival(survival: Survival, least: float) -> None:
    """Raises `CheckpointError` for a delta that vanished in the rounding."""
    for kind, share in (("attention", survival.attention), ("experts", survival.experts)):
        if share is not None and not share >= least:
            raise CheckpointError(
                f"of what was learned in the {kind} {share:.0%} are left after rounding, at least "
                f"{least:.0%} must be; nothing was exported. Use --experts bf16, train with "
                "--rounding, or serve the adapter unmerged"
            )


def check_equal(merged: Merged, exported: Checkpoint, experts: Experts) -> None:
    """Raises `CheckpointError` unless every tensor was stored as it was to be: merged in float32
    and rounded once."""
    for name in exported.names():
        wanted = merged(name)
        if wanted.ndim == 1:
            found = exported.vector(name)
        else:
            found = exported.matrix(name).to_float32()
            keeps = name.endswith("router") and exported.format == "gguf"
            wanted = wanted if keeps else rounded(wanted, experts if ".experts." in name else None)
        if not np.array_equal(found, wanted):
            raise CheckpointError(f"{exported.path}: tensor {name} was not read back as written")


def export_merged(
    merged: Merged,
    out: Path,
    *,
    gguf: bool,
    experts: Experts,
    card: str,
    least: float = LEAST_SURVIVING,
    progress: Progress | None = None,
) -> Survival:
    """Write the merged model, read it back, and remove it again if its delta vanished or a tensor
    is not what it should be. Raises `CheckpointError`, `ConfigurationError`."""
    checkpoint = merged.checkpoint
    if out.exists():
        raise ConfigurationError(f"{out} exists already; remove it or choose another place")
    tokenizer = tokenizer_of(checkpoint)
    notices = legal_files(checkpoint.path)
    try:
        if gguf:
            metadata = {"general.name": out.stem, "general.license": "apache-2.0"}
            write_gguf(
                out,
                checkpoint.config,
                merged,
                tokenizer,
                experts=experts,
                metadata={**metadata},
                progress=progress,
            )
            for name, text in {**notices, "README.md": card}.items():
                (out.parent / f"{out.stem}.{name}").write_text(text, encoding="utf-8")
        else:
            write_model(
                out,
                checkpoint.config,
                merged,
                tokenizer,
                experts=experts,
                card=card,
                notices=notices,
                progress=progress,
            )
        exported = open_checkpoint(out)
        check_equal(merged, exported, experts)
        survival = surviving(merged, exported, experts)
        check_survival(survival, least)
    except BaseException:
        remove(out)
        raise
    return survival


def export_adapter(adapter: Path, base: Checkpoint, out: Path) -> None:
    """Copy an adapter with licence and notice beside it, and read it back. Raises `AdapterError`,
    `ConfigurationError`."""
    if out.exists():
        raise ConfigurationError(f"{out} exists already; remove it or choose another place")
    identity = open_adapter(adapter, base.config).identity()
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(adapter, partial)
    for name, text in legal_files(base.path).items():
        (partial / name).write_text(text, encoding="utf-8")
    if open_adapter(partial, base.config).identity() != identity:
        raise CheckpointError(f"{out}: was not copied whole; try again")
    partial.rename(out)


def remove(out: Path) -> None:
    """Remove what was exported."""
    if out.is_dir():
        shutil.rmtree(out)
        return
    out.unlink(missing_ok=True)
    for name in (*_LEGAL, "README.md"):
        (out.parent / f"{out.stem}.{name}").unlink(missing_ok=True)


def legal_files(base: Path) -> Mapping[str, str]:
    """Licence and notice: the base's own where it has them, else Apache-2.0's, which gpt-oss and
    the stand-in are under."""
    folder = base if base.is_dir() else base.parent
    found = {
        name: (folder / name).read_text(encoding="utf-8")
        for name in _LEGAL
        if (folder / name).is_file()
    }
    if not any(name.startswith("LICENSE") for name in found):
        found["LICENSE"] = _apache()
    if not any(name.startswith("NOTICE") for name in found):
        found["NOTICE"] = (
            f"Made with Osslo from {base.name}, under the licence in LICENSE.\n"
            "The weights were changed: see README.md.\n"
        )
    return found


def _apache() -> str:
    try:
        text = distribution("osslo").read_text("licenses/LICENSE")
    except PackageNotFoundError:
        text = None
    if text is None:
        raise ConfigurationError("Osslo's own LICENSE is not installed; install the package again")
    return text


def model_card(name: str, base: str, adapter: str | None, *, experts: Experts, form: str) -> str:
    """The card of an exported model."""
    made = f"with the adapter `{adapter}` merged into it" if adapter else "as it is"
    return "\n".join(
        [
            "---",
            f"base_model: {base}",
            "license: apache-2.0",
            "tags: [gpt-oss, osslo]",
            "---",
            "",
            f"# {name}",
            "",
            f"`{base}` {made}, exported by `osslo export` as {form}: merged in float32 and rounded",
            f"once, experts to {experts.value.upper()}, other matrices to BF16.",
            "",
            "## Licence",
            "",
            "See LICENSE and NOTICE. What the training data demands is for its maker to add.",
            "",
        ]
    )
