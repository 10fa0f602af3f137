"""A planned run, carried out: load, sample, train, sample again, write adapter and report.

A run that ends before its time goes on where it was when it is carried out again.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch

from osslo.errors import ConfigurationError
from osslo.tuning.adapter import write_adapter
from osslo.tuning.checkpoint import load_best
from osslo.tuning.gpt_oss import build_model, learned_tensors
from osslo.tuning.loop import Outcome, Schedule, StepRecord, Trainer
from osslo.tuning.merged import Experts, write_model
from osslo.tuning.model import Trainable
from osslo.tuning.plan import RUN_NAME, Plan, identity
from osslo.tuning.report import CURVE_NAME, card, curve, report
from osslo.tuning.results import adapter_of
from osslo.tuning.sampling import Sample, answer

REPORT_NAME = "report.md"
_BEFORE_NAME = "samples-before.json"
_DECAY_SHARE = 4
_WAIT_S = 60.0


class Observer(Protocol):
    """Who watches a run."""

    def stage(self, what: str, done: int, total: int) -> None:
        """`done` of `total` of the stage `what`."""
        ...

    def step(self, record: StepRecord, steps: int) -> None:
        """A step of `steps` is done."""
        ...


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended. `out` is the adapter's or the model's folder, None while it can go on."""

    outcome: Outcome
    report: Path | None
    out: Path | None
    before: tuple[Sample, ...] = ()
    after: tuple[Sample, ...] = ()


def execute(plan: Plan, observer: Observer, *, stop: Callable[[], bool] = lambda: False) -> Result:
    """Carry `plan` out. When `stop` says so, the run is saved after the step that runs; executing
    the same plan again goes on, and ends with the same bits."""
    with _alone(plan.options.folder):
        return _execute(plan, observer, stop)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else trains in `folder` meanwhile: a process that still saves is waited for."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        deadline = time.monotonic() + _WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConfigurationError(
                        f"{folder}: another process trains here; wait for its end"
                    ) from None
                time.sleep(0.2)
        yield


def _execute(plan: Plan, observer: Observer, stop: Callable[[], bool]) -> Result:
    options = plan.options
    stored = json.dumps(identity(options, plan.checkpoint), indent=2)
    (options.folder / RUN_NAME).write_text(stored + "\n", encoding="utf-8")
    trainable = load(plan, observer)
    before = _before(plan, trainable, observer)
    trainer = Trainer(
        trainable,
        plan.source,
        schedule_of(plan),
        options.folder,
        workers=plan.workers,
        report=lambda record: observer.step(record, plan.steps),
        stop=stop,
        keep_best=bool(plan.held),
    )
    outcome = trainer.run()
    (options.folder / CURVE_NAME).write_text(curve(outcome.records), encoding="utf-8")
    if outcome.reason == "interrupted":
        return Result(outcome, None, None, before)
    best = load_best(options.folder)
    if best is not None:
        trainable.load_state(best)
    _write_result(plan, outcome, trainable)
    after = _answers(plan, trainable, observer, "answering after")
    path = options.folder / REPORT_NAME
    path.write_text(report(plan, outcome, before, after), encoding="utf-8")
    return Result(outcome, path, options.out, before, after)


def load(plan: Plan, observer: Observer) -> Trainable:
    """The plan's model, ready to learn."""
    options = plan.options
    device = choose_device(options.device)
    compute = compute_of(plan, device)
    model = build_model(
        plan.checkpoint,
        options.learning,
        device=device,
        dtype=compute if options.learning.lora else torch.float32,
        seed=options.seed,
        progress=lambda done, total: observer.stage("loading layers", done, total),
    )
    return Trainable(model, compute=compute)


def compute_of(plan: Plan, device: torch.device) -> torch.dtype:
    """What matrix products are computed in."""
    fast = device.type == "cuda" and plan.options.dtype == "auto"
    return torch.bfloat16 if fast or plan.compute == "bfloat16" else torch.float32


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one. Raises `ConfigurationError`."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("--device cuda: torch sees no CUDA device; use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def schedule_of(plan: Plan) -> Schedule:
    """A tenth of the steps to warm up (ten at most), the last quarter to cool down."""
    return Schedule(
        plan.steps,
        plan.options.rate,
        warmup_steps=min(10, max(1, plan.steps // 10)),
        decay_steps=plan.steps // _DECAY_SHARE,
        validate_every=plan.validate_every,
        checkpoint_every=plan.options.checkpoint_every,
        patience=plan.options.patience,
    )


def _before(plan: Plan, trainable: Trainable, observer: Observer) -> tuple[Sample, ...]:
    """Answers of the base; those of the first attempt where the run goes on."""
    path = plan.options.folder / _BEFORE_NAME
    if plan.resumes and path.exists():
        return tuple(Sample(**one) for one in json.loads(path.read_text("utf-8")))
    samples = _answers(plan, trainable, observer, "answering before")
    path.write_text(json.dumps([asdict(one) for one in samples], indent=2), encoding="utf-8")
    return samples


def _answers(plan: Plan, trainable: Trainable, observer: Observer, what: str) -> tuple[Sample, ...]:
    wanted = plan.samples()
    made: list[Sample] = []
    for place, example in enumerate(wanted, start=1):
        limit = plan.options.sample_tokens
        made += answer(
            trainable.model,
            plan.tokenizer,
            [example],
            max_tokens=limit,
            compute=compute_of(plan, choose_device(plan.options.device)),
        )
        observer.stage(what, place, len(wanted))
    return tuple(made)


def _write_result(plan: Plan, outcome: Outcome, trainable: Trainable) -> None:
    options = plan.options
    text = card(plan, outcome)
    if options.learning.lora:
        adapter = adapter_of(trainable.state(), options.learning, base=options.base)
        write_adapter(options.out, adapter, card=text)
        return
    tensors = dict(learned_tensors(trainable.model))
    write_model(
        options.out,
        plan.checkpoint.config,
        tensors.__getitem__,
        plan.tokenizer,
        experts=Experts.BF16,
        card=text,
    )
