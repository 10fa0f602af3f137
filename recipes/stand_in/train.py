"""Train the stand-in: LoRA on every matrix of the dense base, and the rows of harmony's markers.

Runs until its steps are done, or until it is told to stop (SIGTERM, SIGINT); the same command goes
on from the last checkpoint. `pid` in the folder is the process to pause (SIGSTOP, SIGCONT).

    python -m recipes.stand_in.train --folder build/tuning/stand-in --steps 2000
    python -m recipes.stand_in.train --from-delta src/osslo/model/standin/delta.npz
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

import torch

from osslo.errors import CheckpointError
from osslo.harmony.vocabulary import Markers
from osslo.model.checkpoints.gguf import GgufFile
from osslo.model.standin import fetch_base
from osslo.model.standin.convert import LlamaSizes
from osslo.model.standin.delta import read_delta
from osslo.model.standin.markers import Marked
from osslo.tuning.loop import Schedule, StepRecord, Trainer
from osslo.tuning.model import Trainable
from osslo.tuning.plan import fast_dtype
from recipes.stand_in import base_answers
from recipes.stand_in.mixture import Mixture, MixtureSource, Shares
from recipes.stand_in.model import build_trainable, load_delta, open_base

BASE_FOLDER = Path("build/test-cache")
PLAIN = Shares().plain


def build_source(
    marked: Marked, folder: Path, *, seed: int, step_tokens: int, plain: float = PLAIN
) -> MixtureSource:
    """The mixture over the answers that `base_answers` collected in `folder`, with a share of
    `plain` answers."""
    path = folder / "base_answers_train.jsonl"
    pairs = base_answers.read(path) if path.exists() else []
    held = pairs[: len(pairs) // 20]
    markers = Markers.of(marked.tokenizer)
    return MixtureSource(
        Mixture(pairs[len(held) :], "train", Shares().with_plain(plain)),
        Mixture(held, "train", Shares()),
        marked.tokenizer,
        closing=(markers.end, markers.return_, markers.call),
        seed=seed,
        step_tokens=step_tokens,
        pack_tokens=1024,
        validation_packs=10,
        group_size=6,
    )


def start_from(trainable: Trainable, delta: Path, base: Path) -> None:
    """Begin with the factors of a delta. A checkpoint in the run's folder goes before it."""
    found = read_delta(delta)
    if found is None:
        raise CheckpointError(f"{delta}: there is no such delta")
    load_delta(trainable, found, LlamaSizes.from_gguf(GgufFile(base).metadata))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--folder", type=Path, default=Path("build/tuning/stand-in"))
    options.add_argument("--answers", type=Path, default=Path("build/tuning"))
    options.add_argument("--steps", type=int, default=2000)
    options.add_argument("--rate", type=float, default=1e-3)
    options.add_argument("--decay", type=int, default=0)
    options.add_argument("--step-tokens", type=int, default=2400)
    options.add_argument("--plain", type=float, default=PLAIN, help="share of plain answers")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--from-delta", type=Path, help="start a new run from this delta")
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--compute", choices=("float32", "bfloat16"), help="default: the faster")
    given = options.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    (given.folder / "pid").write_text(str(os.getpid()))
    path = fetch_base(BASE_FOLDER)
    marked = open_base(path)
    compute = getattr(torch, given.compute or fast_dtype())
    trainable = build_trainable(path, marked, compute)
    if given.from_delta:
        start_from(trainable, given.from_delta, path)
    source = build_source(
        marked, given.answers, seed=given.seed, step_tokens=given.step_tokens, plain=given.plain
    )
    schedule = Schedule(
        given.steps,
        given.rate,
        decay_steps=given.decay,
        validate_every=40,
        checkpoint_every=10,
    )
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: stopping.append(received))
    trainer = Trainer(
        trainable,
        source,
        schedule,
        given.folder,
        workers=given.workers,
        report=_show,
        stop=lambda: bool(stopping),
    )
    outcome = trainer.run()
    print(f"{outcome.reason} after {outcome.steps} steps", flush=True)


def _show(record: StepRecord) -> None:
    held = "" if record.validation is None else f"  validation {record.validation:.4f}"
    print(
        f"step {record.step:5}  loss {record.loss:.4f}  {record.tokens / record.seconds:5.0f} tok/s"
        f"  {record.examples} examples  {record.learned} learned  |g| {record.gradient:.2f}{held}",
        flush=True,
    )


if __name__ == "__main__":
    main()
