"""What training with rounded experts saves: the loss of a merged MXFP4 model, with and without it.

A small gpt-oss model is trained on this project's documents and its experts are stored in MXFP4.
An adapter then learns this project's source code, once as usual and once with `--rounding`. Both
are merged and rounded to MXFP4, and measured on source files that neither has seen.

    python -m bench.rounding --folder build/rounding [--rate 2e-3 --steps 300]
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from osslo.model.adapters.peft import open_adapter
from osslo.model.checkpoints import open_checkpoint
from osslo.model.presets import preset
from osslo.model.synth import write_random
from osslo.tuning.dataset import DataOptions
from osslo.tuning.export import Merged, export_merged
from osslo.tuning.gpt_oss import Tensors, build_model
from osslo.tuning.learning import Learning, Method
from osslo.tuning.loop import StepRecord
from osslo.tuning.merged import Experts
from osslo.tuning.model import Trainable
from osslo.tuning.packing import Pack
from osslo.tuning.plan import TuneOptions, make_plan
from osslo.tuning.run import execute
from osslo.tuning.verify import InFloat32

SHAPE = replace(preset("tiny"), hidden=128, intermediate=128, heads=8, sliding_window=64)
ROOT = Path(__file__).parent.parent
DOCUMENTS = ("architecture.md", "api.md", "cli.md", "tuning.md", "model.md", "perf.md")
SOURCES = tuple(f"src/osslo/tuning/{name}.py" for name in ("loop", "packing", "plan", "gpt_oss"))
UNSEEN = tuple(f"src/osslo/tuning/{name}.py" for name in ("export", "experts"))


class Quiet:
    """Nobody watches, but for a line now and then."""

    def stage(self, what: str, done: int, total: int) -> None:
        """Said by the trainer; nothing to show."""

    def step(self, record: StepRecord, steps: int) -> None:
        """A line at each validation."""
        if record.validation is not None:
            print(f"  step {record.step + 1} of {steps}: {record.validation:.4f}", flush=True)


def options(model: Path, folder: Path, data: tuple[str, ...], **more: object) -> TuneOptions:
    """A run over text files of the project."""
    made = TuneOptions(
        model=model,
        base=model.name,
        data=tuple(ROOT / name for name in data),
        validation=tuple(ROOT / name for name in UNSEEN),
        folder=folder,
        out=folder.with_name(f"{folder.name}-result"),
        reading=DataOptions(max_tokens=512),
        step_tokens=1024,
        samples=0,
        patience=0,
        dtype="float32",
    )
    return replace(made, **more)  # type: ignore[arg-type]  # fields of it


def loss(tensors: Tensors, packs: tuple[Pack, ...]) -> float:
    """Nats a token."""
    model = build_model(tensors, Learning(), device=torch.device("cpu"), dtype=torch.float32)
    with torch.no_grad():
        total = sum(float(Trainable(model).loss(pack)) for pack in packs)
    return total / sum(len(pack.targets) for pack in packs)


def rounded(merged: Merged, out: Path) -> Path:
    """Export with experts in MXFP4, whatever is left of the delta."""
    export_merged(merged, out, gguf=False, experts=Experts.MXFP4, card="", least=-10.0)
    return out


def base(folder: Path, steps: int) -> Path:
    """The small model: its experts lie on MXFP4's grid, as gpt-oss's do."""
    random = write_random(SHAPE, folder / "random", seed=1)
    names = tuple(f"docs/{name}" for name in DOCUMENTS if (ROOT / "docs" / name).exists())
    full = Learning(Method.FULL, router=True)
    plan = make_plan(options(random, folder / "full", names, learning=full, steps=steps, rate=2e-3))
    result = execute(plan, Quiet())
    if result.out is None:
        raise SystemExit("the base was not trained to its end")
    return rounded(Merged(open_checkpoint(result.out), None), folder / "base")


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given.add_argument("--folder", type=Path, default=Path("build/rounding"))
    given.add_argument("--base-steps", type=int, default=150)
    given.add_argument("--steps", type=int, default=80)
    given.add_argument("--rate", type=float, default=1e-3)
    given.add_argument("--rank", type=int, default=8)
    chosen = given.parse_args()
    shutil.rmtree(chosen.folder, ignore_errors=True)
    model = base(chosen.folder, chosen.base_steps)
    rows: list[tuple[str, float]] = []
    for rounding in (False, True):
        name = "with --rounding" if rounding else "without"
        learning = Learning(rank=chosen.rank, alpha=2.0 * chosen.rank, rounding=rounding)
        folder = chosen.folder / ("rounding" if rounding else "plain")
        plan = make_plan(
            options(model, folder, SOURCES, learning=learning, steps=chosen.steps, rate=chosen.rate)
        )
        if not rounding:
            rows.append(("base", loss(open_checkpoint(model), plan.held)))
        execute(plan, Quiet())
        checkpoint = open_checkpoint(model)
        merged = Merged(checkpoint, open_adapter(plan.options.out, SHAPE).load())
        rows.append((f"{name}: adapter, not rounded", loss(InFloat32(merged), plan.held)))
        exported = rounded(merged, chosen.folder / f"{folder.name}-mxfp4")
        rows.append((f"{name}: merged, MXFP4", loss(open_checkpoint(exported), plan.held)))
    for name, value in rows:
        print(f"{name:40} {value:.4f}")


if __name__ == "__main__":
    main()
