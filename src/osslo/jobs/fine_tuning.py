"""What a worker does for a fine-tuning job: a process of its own that trains, and its progress.

The process (`python -m osslo.tuning`) has its own memory and is the only one that imports torch. It
tells what it does in lines of JSON, ends when its input closes, and goes on from its checkpoint
when it is started again: so does the job after a crash, a restart of the server, or a pause.
"""

from __future__ import annotations

import asyncio
import csv
import json
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osslo.store.files import NewFile
from osslo.store.fine_tuning import FineTuning, FineTuningStore, TuningStep
from osslo.store.jobs import Job

RESULTS_PURPOSE = "fine-tune-results"
_EPOCHS = 3
_RATE = 5e-4
_END_S = 5.0
_LINE_BYTES = 1 << 20
_COLUMNS = ("step", "train_loss", "valid_loss", "tokens", "learning_rate", "seconds")


@dataclass(frozen=True, slots=True)
class TunableModel:
    """A served model that may be fine-tuned: its checkpoint, and whether prompts show a date."""

    checkpoint: str
    show_date: bool = True


@dataclass(frozen=True, slots=True)
class TuningOrder:
    """Where jobs run and results go, and the models by id."""

    jobs_folder: str
    adapters_folder: str
    models: Mapping[str, TunableModel]

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> TuningOrder:
        """From plain values, as JSON keeps them."""
        models = {name: TunableModel(**model) for name, model in fields["models"].items()}
        return cls(fields["jobs_folder"], fields["adapters_folder"], models)


class TuningHandler:
    """Runs fine-tuning jobs, one at a time."""

    def __init__(self, store: FineTuningStore, order: TuningOrder, *, poll_s: float = 1.0) -> None:
        """`poll_s` is how often a running job is asked whether it was cancelled or paused."""
        self._store = store
        self._order = order
        self._poll_s = poll_s
        self._gate = asyncio.Lock()

    async def run(self, job: Job) -> None:
        """Bring the job to its end, from wherever it is. Raises `LeaseLostError`."""
        async with self._gate:
            found = await self._store.find(job.subject)
            if found is not None and found.status == "queued":
                found = await self._store.begin(job)
            if found is None or found.status != "running":
                await self._let_go(job, found)
                return
            await self._run(job, found)

    async def give_up(self, job: Job) -> None:
        """The job failed too often."""
        message = "The server failed to run this job, and gave up after several tries."
        await self._store.fail(job, "server_error", message)
        self._forget(job.subject)

    async def _run(self, job: Job, tuning: FineTuning) -> None:
        model = self._order.models.get(tuning.model)
        if model is None:
            message = f"The model {tuning.model} is not served any more."
            await self._store.fail(job, "model_not_found", message, "model")
            return
        folder = self._folder(tuning.id)
        missing = await self._fetch(tuning, folder)
        if missing is not None:
            message = f"The file {missing} is no longer there."
            await self._store.fail(job, "file_not_found", message, "training_file")
            return
        order = self._process_order(tuning, model, folder)
        last: dict[str, Any] = {}
        async for event in self._events(tuning.id, order, folder):
            last = event
            await self._note(job, event)
        await self._conclude(job, tuning, last, folder)

    async def _conclude(
        self, job: Job, tuning: FineTuning, last: Mapping[str, Any], folder: Path
    ) -> None:
        if last.get("event") == "result" and last.get("out"):
            files = await asyncio.to_thread(self._results, tuning, folder)
            metrics = {"step": last["steps"], "valid_loss": last["best_validation"]}
            await self._store.succeed(job, files, metrics)
        elif last.get("event") == "failed":
            await self._store.fail(job, last["code"], last["message"], last.get("param"))
        else:
            found = await self._store.find(tuning.id)
            if found is not None and found.status == "running":
                raise RuntimeError(f"the training process of {tuning.id} ended without a result")
            await self._let_go(job, found)
            return
        self._forget(tuning.id)

    async def _let_go(self, job: Job, found: FineTuning | None) -> None:
        await self._store.drop(job)
        if found is None or found.ended:
            self._forget(job.subject)

    async def _note(self, job: Job, event: Mapping[str, Any]) -> None:
        if event["event"] == "plan":
            await self._store.tell(job, f"{event['steps']} steps over {event['data']}.")
        if event["event"] != "step":
            return
        number, steps = event["step"] + 1, event["steps"]
        metrics = {
            "step": number,
            "train_loss": event["loss"],
            "valid_loss": event["validation"],
            "learning_rate": event["rate"],
            "total_steps": steps,
        }
        message = f"Step {number}/{steps}: training loss={event['loss']:.4f}"
        if event["validation"] is not None:
            message += f", validation loss={event['validation']:.4f}"
        left_s = (steps - number) * event["seconds"]
        await self._store.record(job, TuningStep(number, event["tokens"], message, metrics, left_s))

    # --- the process ----------------------------------------------------------------------------

    async def _events(
        self, job_id: str, order: Mapping[str, Any], folder: Path
    ) -> AsyncIterator[dict[str, Any]]:
        """Start the process and give what it tells, until it ends or is no longer wanted."""
        with (folder / "stderr.log").open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "osslo.tuning",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                limit=_LINE_BYTES,
                start_new_session=True,
            )
        if process.stdin is None or process.stdout is None:
            raise AssertionError("the process was started with pipes")
        watching = asyncio.create_task(self._unwanted(job_id, process))
        try:
            process.stdin.write(json.dumps(order).encode() + b"\n")
            await process.stdin.drain()
            async for line in process.stdout:
                yield json.loads(line)
        finally:
            watching.cancel()
            await _end(process)

    async def _unwanted(self, job_id: str, process: asyncio.subprocess.Process) -> None:
        """End the process once the job is cancelled or paused."""
        while True:
            await asyncio.sleep(self._poll_s)
            found = await self._store.find(job_id)
            if found is None or found.status != "running":
                await _end(process)
                return

    def _process_order(
        self, tuning: FineTuning, model: TunableModel, folder: Path
    ) -> dict[str, Any]:
        factor = 1.0 if tuning.rate_factor is None else tuning.rate_factor
        validation = folder / "validation.jsonl"
        return {
            "model": model.checkpoint,
            "base": tuning.model,
            "data": str(folder / "training.jsonl"),
            "validation": None if tuning.validation_file is None else str(validation),
            "folder": str(folder / "run"),
            "out": str(Path(self._order.adapters_folder) / tuning.adapter),
            "epochs": tuning.epochs or _EPOCHS,
            "rate": _RATE * factor,
            "seed": tuning.seed,
            "date": tuning.created_at.date().isoformat() if model.show_date else None,
        }

    # --- files ----------------------------------------------------------------------------------

    def _folder(self, job_id: str) -> Path:
        return Path(self._order.jobs_folder) / job_id

    async def _fetch(self, tuning: FineTuning, folder: Path) -> str | None:
        """Copy the data, so that its owner may delete it meanwhile; the id of a file that lacks."""
        await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        wanted = {"training": tuning.training_file, "validation": tuning.validation_file}
        for name, file_id in wanted.items():
            target = folder / f"{name}.jsonl"
            if file_id is None or await asyncio.to_thread(target.exists):
                continue
            file = await self._store.files.find(file_id)
            if file is None:
                return file_id
            partial = target.with_suffix(".partial")
            await asyncio.to_thread(shutil.copyfile, self._store.files.path(file), partial)
            await asyncio.to_thread(partial.rename, target)
        return None

    def _results(self, tuning: FineTuning, folder: Path) -> list[NewFile]:
        metrics = self._store.files.incoming()
        with metrics.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(_COLUMNS)
            for line in (folder / "run" / "log.jsonl").read_text("utf-8").splitlines():
                one = json.loads(line)
                losses = (one["loss"], one["validation"])
                rows.writerow(
                    (one["step"] + 1, *losses, one["tokens"], one["rate"], one["seconds"])
                )
        report = self._store.files.incoming()
        shutil.copyfile(folder / "run" / "report.md", report)
        return [
            NewFile(tuning.tenant, name, RESULTS_PURPOSE, path.stat().st_size, path)
            for name, path in (("step_metrics.csv", metrics), ("report.md", report))
        ]

    def _forget(self, job_id: str) -> None:
        """What was copied of the caller's data goes with the job's end."""
        shutil.rmtree(self._folder(job_id), ignore_errors=True)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Close the input, which lets the process save and end; kill it if it takes too long."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), _END_S)
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
