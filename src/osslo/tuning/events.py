"""What a run tells, as lines of JSON. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from osslo.tuning.plan import Plan

if TYPE_CHECKING:  # they bring torch
    from osslo.tuning.loop import StepRecord
    from osslo.tuning.run import Result


class EventLines:
    """Writes `plan`, `stage`, `step` and `result` events, one JSON object a line."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def plan(self, plan: Plan) -> None:
        """What will be done."""
        self._tell("plan", **dict(plan.rows()) | {"steps": plan.steps, "resumes": plan.resumes})

    def stage(self, what: str, done: int, total: int) -> None:
        """`done` of `total` of the stage `what`."""
        self._tell("stage", stage=what, done=done, total=total)

    def step(self, record: StepRecord, steps: int) -> None:
        """A step of `steps` is done."""
        self._tell("step", **asdict(record), steps=steps)

    def result(self, result: Result) -> None:
        """How it ended."""
        outcome = result.outcome
        self._tell(
            "result",
            reason=outcome.reason,
            steps=outcome.steps,
            best_validation=outcome.best_validation,
            out=None if result.out is None else str(result.out),
            report=None if result.report is None else str(result.report),
        )

    def _tell(self, event: str, **values: object) -> None:
        self._write(json.dumps({"event": event, **values}))
