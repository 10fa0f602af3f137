"""The training loop: steps over packs, checkpoints, validation, early stopping, a log.

Owns order and state; what a step costs is `model`'s subject, where packs come from is the source's.
A run that is killed goes on from its last checkpoint and gives the numbers it would have given:
packs depend on seed and step only, and gradients are summed in the order of the packs, whichever
worker computed them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from osslo.errors import ModelError
from osslo.tuning.checkpoint import load_checkpoint, save_best, save_checkpoint
from osslo.tuning.model import Trainable
from osslo.tuning.packing import Pack


class PackSource(Protocol):
    """Where packs come from. Asking again for the same step gives the same packs."""

    def step(self, index: int) -> Sequence[Pack]:
        """The packs of one optimizer step, counted from 0."""
        ...

    def validation(self) -> Sequence[Pack]:
        """Packs that are never trained on; none switches validation off."""
        ...


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to learn.

    The rate rises over `warmup_steps`, stays at `learning_rate`, and over the last
    `decay_steps` of `steps` falls to a tenth. `row_rate` is the factor for token rows. `patience`
    is the number of validations without a better one after which training stops; 0 never does.
    """

    steps: int
    learning_rate: float = 5e-4
    warmup_steps: int = 10
    decay_steps: int = 0
    weight_decay: float = 0.0
    clip: float = 1.0
    row_rate: float = 3.0
    validate_every: int = 20
    checkpoint_every: int = 10
    patience: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        left = self.steps - step
        fall = 1.0
        if self.decay_steps and left < self.decay_steps:
            fall = 0.1 + 0.9 * left / self.decay_steps
        return self.learning_rate * warm * fall


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One line of the log. Losses are nats a learned token; `validation` is None between
    validations; `tokens` and `learned` count what the step computed and learned."""

    step: int
    loss: float
    rate: float
    tokens: int
    learned: int
    examples: int
    seconds: float
    gradient: float
    validation: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: `steps` done, and why (`finished`, `stopped early`, `interrupted`)."""

    steps: int
    reason: str
    best_validation: float | None
    records: tuple[StepRecord, ...]


Report = Callable[[StepRecord], None]


class Trainer:
    """Runs a schedule in a folder, which holds checkpoints and `log.jsonl`."""

    def __init__(
        self,
        trainable: Trainable,
        source: PackSource,
        schedule: Schedule,
        folder: Path,
        *,
        workers: int = 1,
        report: Report | None = None,
        stop: Callable[[], bool] = lambda: False,
        keep_best: bool = False,
    ) -> None:
        """`workers` packs are computed side by side, each by one thread: how many threads share a
        sum decides its last bits, so a run must not depend on it. `stop` is asked after every
        step; when it says so the run is saved and ends. `keep_best` writes the parameters of the
        best validation (`checkpoint.load_best`)."""
        self._trainable = trainable
        self._source = source
        self._schedule = schedule
        self._folder = folder
        self._workers = workers
        self._report = report
        self._stop = stop
        self._keep_best = keep_best
        self._parameters = [parameter for _, parameter in trainable.parameters()]
        rows = {id(p) for name, p in trainable.parameters() if name.startswith("rows.")}
        groups = [
            {"params": [p for p in self._parameters if id(p) not in rows], "scale": 1.0},
            {"params": [p for p in self._parameters if id(p) in rows], "scale": schedule.row_rate},
        ]
        self._optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=schedule.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=schedule.weight_decay,
        )
        self._records: list[StepRecord] = []
        self._best: float | None = None
        self._worse = 0

    def run(self) -> Outcome:
        """Train from the last checkpoint of the folder, or from the start, to the end."""
        self._folder.mkdir(parents=True, exist_ok=True)
        step = self._resume()
        reason = "finished"
        with (
            _one_thread(),
            ThreadPoolExecutor(
                self._workers, initializer=torch.set_num_threads, initargs=(1,)
            ) as pool,
        ):
            while step < self._schedule.steps:
                record = self._step(step, pool)
                step += 1
                self._note(record)
                if self._gave_up():
                    reason = "stopped early"
                elif self._stop():
                    reason = "interrupted"
                if step % self._schedule.checkpoint_every == 0 or reason != "finished":
                    self._save(step)
                if reason != "finished":
                    break
            else:
                self._save(step)
        return Outcome(step, reason, self._best, tuple(self._records))

    def _step(self, step: int, pool: ThreadPoolExecutor) -> StepRecord:
        began = time.monotonic()
        packs = self._source.step(step)
        learned = sum(len(pack.targets) for pack in packs)
        total = 0.0
        sums: list[torch.Tensor] = []
        for loss, gradients in pool.map(self._gradients, packs):
            total += loss
            if sums:
                torch._foreach_add_(sums, gradients)
            else:
                sums = gradients
        for parameter, gradient in zip(self._parameters, sums, strict=True):
            parameter.grad = gradient.div_(learned)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._schedule.clip)
        rate = self._schedule.rate(step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        last = step + 1 == self._schedule.steps
        due = last or (step + 1) % self._schedule.validate_every == 0
        return StepRecord(
            step=step,
            loss=total / learned,
            rate=rate,
            tokens=sum(pack.tokens for pack in packs),
            learned=learned,
            examples=sum(pack.examples for pack in packs),
            seconds=time.monotonic() - began,
            gradient=float(norm),
            validation=self._validate(pool) if due else None,
        )

    def _gradients(self, pack: Pack) -> tuple[float, list[torch.Tensor]]:
        loss = self._trainable.loss(pack)
        return float(loss.detach()), list(torch.autograd.grad(loss, self._parameters))

    def _validate(self, pool: ThreadPoolExecutor) -> float | None:
        packs = self._source.validation()
        if not packs:
            return None
        losses = list(pool.map(self._loss, packs))
        return sum(losses) / sum(len(pack.targets) for pack in packs)

    def _loss(self, pack: Pack) -> float:
        with torch.no_grad():
            return float(self._trainable.loss(pack))

    def _note(self, record: StepRecord) -> None:
        if not math.isfinite(record.loss):
            raise ModelError(f"the loss of step {record.step} is {record.loss}; lower the rate")
        if record.validation is not None:
            better = self._best is None or record.validation < self._best
            self._best = record.validation if better else self._best
            self._worse = 0 if better else self._worse + 1
            if better and self._keep_best:
                save_best(self._folder, self._trainable.state())
        self._records.append(record)
        with (self._folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(asdict(record)) + "\n")
        if self._report is not None:
            self._report(record)

    def _gave_up(self) -> bool:
        return 0 < self._schedule.patience <= self._worse

    # --- checkpoints ------------------------------------------------------------------------------

    def _save(self, step: int) -> None:
        state = {
            "step": step,
            "parameters": self._trainable.state(),
            "optimizer": self._optimizer.state_dict(),
            "best": self._best,
            "worse": self._worse,
        }
        save_checkpoint(self._folder, step, state)

    def _resume(self) -> int:
        found = load_checkpoint(self._folder)
        if found is None:
            (self._folder / "log.jsonl").unlink(missing_ok=True)
            return 0
        state: Mapping[str, Any] = found
        self._trainable.load_state(state["parameters"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._best, self._worse = state["best"], state["worse"]
        self._records = [r for r in read_log(self._folder) if r.step < state["step"]]
        lines = "".join(json.dumps(asdict(record)) + "\n" for record in self._records)
        (self._folder / "log.jsonl").write_text(lines, encoding="utf-8")
        return int(state["step"])


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for each operation of torch, in the caller's thread, until the block ends."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def read_log(folder: Path) -> list[StepRecord]:
    """The records of a run, in order; a line that was cut off is left out."""
    path = folder / "log.jsonl"
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            records.append(StepRecord(**json.loads(line)))
        except (json.JSONDecodeError, TypeError):
            continue
    return records
