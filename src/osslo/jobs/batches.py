"""What a worker does for a batch: check the input, run the lines, write the files.

Every step can be cut off and done again: a line whose result is recorded is not run again, and the
files appear with the batch's end, in one transaction. A line that was cut off runs once more.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from osslo.jobs.calls import Answer, Api
from osslo.jobs.lines import BatchLine, InputRules, check_input, read_lines
from osslo.settings import JobSettings
from osslo.store.batches import Batch, BatchProblem, BatchStore, LineResult
from osslo.store.files import Clock, NewFile, StoredFile, utc_now
from osslo.store.jobs import Job

_WRITE_LINES = 200
_UNRUN = {
    "expired": (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    "cancelled": ("batch_cancelled", "This request was not executed: the batch was cancelled."),
}


class BatchHandler:
    """Runs batches. All batches of a worker share `batch_concurrency` requests at a time."""

    def __init__(
        self,
        store: BatchStore,
        api: Api,
        settings: JobSettings,
        *,
        max_line_bytes: int,
        poll_s: float = 1.0,
        clock: Clock = utc_now,
    ) -> None:
        """`poll_s` is how often a running batch is asked whether it was cancelled."""
        self._store = store
        self._api = api
        self._settings = settings
        self._max_line_bytes = max_line_bytes
        self._poll_s = poll_s
        self._clock = clock
        self._gate = asyncio.Semaphore(settings.batch_concurrency)

    async def run(self, job: Job) -> None:
        """Bring the batch to its end, from wherever it is. Raises `LeaseLostError`."""
        batch = await self._store.find(job.subject)
        if batch is None or batch.ended:
            await self._store.drop(job)
            return
        file = await self._store.files.find(batch.input_file_id)
        if file is None:
            gone = BatchProblem("input_file_not_found", "The input file is no longer there.")
            await self._store.fail(job, [gone])
            return
        source = _Source(batch, file, self._rules(batch))
        if not batch.total:
            checked = await self._begin(job, source)
            if checked is None:
                return
            batch = checked
        outcome = await self._run_lines(job, source)
        await self._store.finalize(job)
        await self._conclude(job, source, outcome)

    async def give_up(self, job: Job) -> None:
        """The batch failed too often."""
        problem = BatchProblem(
            "batch_failed", "The server failed to run this batch, and gave up after several tries."
        )
        await self._store.fail(job, [problem])

    def _rules(self, batch: Batch) -> InputRules:
        return InputRules(batch.endpoint, self._settings.batch_max_lines, self._max_line_bytes)

    async def _begin(self, job: Job, source: _Source) -> Batch | None:
        path = self._store.files.path(source.file)
        checked = await asyncio.to_thread(check_input, path, source.rules)
        if checked.problems:
            await self._store.fail(job, checked.problems)
            return None
        return await self._store.begin(job, total=checked.total, model=checked.model)

    # --- lines ----------------------------------------------------------------------------------

    async def _run_lines(self, job: Job, source: _Source) -> str:
        """Run what is not recorded; how the batch ends: completed, expired or cancelled."""
        lines = await self._remaining(source)
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                outcome = await self._outcome(source.batch.id)
                if outcome is not None:
                    return outcome
                while len(running) < self._settings.batch_concurrency:
                    line = next(lines, None)
                    if line is None:
                        break
                    running.add(asyncio.create_task(self._run_line(job, source.batch, line)))
                if not running:
                    return "completed"
                done, running = await asyncio.wait(
                    running, timeout=self._poll_s, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
        finally:
            await _cancel_all(running)

    async def _outcome(self, batch_id: str) -> str | None:
        """How the batch ends if it may not go on."""
        batch = await self._store.find(batch_id)
        if batch is None or batch.status == "cancelling":
            return "cancelled"
        return "expired" if self._clock() >= batch.expires_at else None

    async def _remaining(self, source: _Source) -> Iterator[BatchLine]:
        recorded = await self._store.recorded(source.batch.id)
        return read_lines(self._store.files.path(source.file), source.rules, skip=recorded)

    async def _run_line(self, job: Job, batch: Batch, line: BatchLine) -> None:
        async with self._gate:
            answer = await self._api.post(batch.endpoint, line.body, on_behalf_of=batch.id)
        result = _result_line(line, response=answer)
        await self._store.record(job, LineResult(line.number, answer.good, result, answer.usage()))

    # --- files ----------------------------------------------------------------------------------

    async def _conclude(self, job: Job, source: _Source, outcome: str) -> None:
        batch = source.batch
        unrun = await self._unrun(source, outcome)
        files = self._store.files
        output, errors = files.incoming(), files.incoming()
        try:
            good = _batches_of(self._store.results(batch.id, succeeded=True))
            bad = _batches_of(self._store.results(batch.id, succeeded=False))
            with await asyncio.to_thread(output.open, "wb") as target:
                output_bytes = await _write(target, good)
            with await asyncio.to_thread(errors.open, "wb") as target:
                error_bytes = await _write(target, bad)
                error_bytes += await asyncio.to_thread(_write_lines, target, unrun)
            await self._store.conclude(
                job,
                outcome,
                output=_new_file(batch, "output", output, output_bytes),
                errors=_new_file(batch, "error", errors, error_bytes),
                unrun=len(unrun),
            )
        finally:
            for path in (output, errors):
                path.unlink(missing_ok=True)

    async def _unrun(self, source: _Source, outcome: str) -> list[str]:
        if outcome not in _UNRUN:
            return []
        error = _UNRUN[outcome]
        return [_result_line(line, error=error) for line in await self._remaining(source)]


@dataclass(frozen=True, slots=True)
class _Source:
    """A batch and where its lines come from."""

    batch: Batch
    file: StoredFile
    rules: InputRules


def _result_line(
    line: BatchLine, *, response: Answer | None = None, error: tuple[str, str] | None = None
) -> str:
    """A line of the output or of the error file, as OpenAI writes it."""
    fields: dict[str, Any] = {
        "id": "batch_req_" + secrets.token_hex(12),
        "custom_id": line.custom_id,
        "response": None,
        "error": None,
    }
    if response is not None:
        fields["response"] = {
            "status_code": response.status,
            "request_id": response.request_id,
            "body": response.body,
        }
    if error is not None:
        fields["error"] = {"code": error[0], "message": error[1]}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _new_file(batch: Batch, kind: str, path: Any, size_bytes: int) -> NewFile | None:
    if not size_bytes:
        return None
    return NewFile(
        tenant=batch.tenant,
        filename=f"{batch.id}_{kind}.jsonl",
        purpose="batch_output",
        size_bytes=size_bytes,
        contents=path,
        ttl_s=batch.output_ttl_s,
    )


async def _batches_of(lines: AsyncIterator[str]) -> AsyncIterator[list[str]]:
    part: list[str] = []
    async for line in lines:
        part.append(line)
        if len(part) >= _WRITE_LINES:
            yield part
            part = []
    yield part


async def _write(target: BinaryIO, parts: AsyncIterator[list[str]]) -> int:
    """Write the lines; how many bytes."""
    return sum([await asyncio.to_thread(_write_lines, target, part) async for part in parts])


def _write_lines(target: BinaryIO, lines: Sequence[str]) -> int:
    return sum(target.write(line.encode("utf-8", "replace") + b"\n") for line in lines)


async def _cancel_all(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, Exception):
            await task
