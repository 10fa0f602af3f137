"""Batches: what was asked for, how far it is, and the results until they become files.

Owners' queries are limited to their `tenant`. Whatever the worker changes it changes under its
claim on the batch's job, so that a line is recorded once whatever crashes.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from osslo.db.database import Database
from osslo.errors import ConflictError, NotFoundError, RateLimitError
from osslo.store.files import ENDED, Clock, FileStore, NewFile, utc_now
from osslo.store.job_tables import BatchLineRow, BatchRow
from osslo.store.jobs import Job, JobQueue
from osslo.store.paging import Page, page_of
from osslo.store.sweep import Sweep
from osslo.types import Usage

JOB_KIND = "batch"
_RESULT_ROWS = 200
_KEEP_ENDED_FACTOR = 2
"""An ended batch is listed for this many times the life of its files."""


@dataclass(frozen=True, slots=True)
class NewBatch:
    """What a caller asks for; `window_s` is the completion window in seconds."""

    tenant: str
    user_id: str | None
    key_id: str | None
    endpoint: str
    input_file_id: str
    completion_window: str
    window_s: int
    metadata: Mapping[str, str] | None = None
    output_ttl_s: int | None = None


@dataclass(frozen=True, slots=True)
class BatchProblem:
    """Why a batch cannot run; `line` counts from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as it is now. `moments` maps each state that it reached to Unix seconds."""

    id: str
    tenant: str
    user_id: str | None
    key_id: str | None
    endpoint: str
    input_file_id: str
    completion_window: str
    status: str
    labels: Mapping[str, str] | None
    model: str | None
    errors: Sequence[Mapping[str, Any]] | None
    moments: Mapping[str, int]
    output_file_id: str | None
    error_file_id: str | None
    output_ttl_s: int | None
    total: int
    completed: int
    failed: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    created_at: datetime
    expires_at: datetime

    @property
    def ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True, slots=True)
class LineResult:
    """What one line gave: a whole line of the output file, or of the error file."""

    line: int
    succeeded: bool
    result: str
    usage: Usage | None = None


class BatchStore:
    """The batches of every owner; the files of `files`."""

    def __init__(
        self, files: FileStore, queue: JobQueue | None = None, clock: Clock = utc_now
    ) -> None:
        self.files = files
        self.queue = queue or JobQueue(files.database)
        self._database = files.database
        self._clock = clock

    # --- owners ---------------------------------------------------------------------------------

    async def create(self, new: NewBatch, *, most_active: int) -> Batch:
        """Take a batch on and queue it. Raises `RateLimitError` if `most_active` of the owner's
        batches have not ended."""
        now = self._clock()
        row = BatchRow(
            id="batch_" + secrets.token_hex(12),
            tenant=new.tenant,
            user_id=new.user_id,
            key_id=new.key_id,
            endpoint=new.endpoint,
            input_file_id=new.input_file_id,
            completion_window=new.completion_window,
            status="validating",
            labels=None if new.metadata is None else dict(new.metadata),
            moments={},
            output_ttl_s=new.output_ttl_s,
            created_at=now,
            expires_at=now + timedelta(seconds=new.window_s),
            **dict.fromkeys(_COUNTS, 0),
        )
        async with self._database.write() as session:
            active = await session.scalar(
                select(func.count())
                .select_from(BatchRow)
                .where(BatchRow.tenant == new.tenant, BatchRow.status.not_in(ENDED))
            )
            if (active or 0) >= most_active:
                raise RateLimitError(
                    f"You have {active} unfinished batches; the most is {most_active}. Wait for "
                    "one to end, or cancel one.",
                    code="too_many_batches",
                    retry_after_s=60,
                )
            session.add(row)
            await self.queue.add(session, JOB_KIND, row.id)
            await session.flush()
            return _batch(row)

    async def get(self, tenant: str, batch_id: str) -> Batch:
        """Raises `NotFoundError`, also for another owner's batch."""
        found = await self.find(batch_id)
        if found is None or found.tenant != tenant:
            raise _no_such_batch(batch_id)
        return found

    async def page(self, tenant: str, *, after: str | None, limit: int) -> Page[Batch]:
        """A part of the owner's batches, the newest first. Raises `NotFoundError`."""
        async with self._database.read() as session:
            place = None
            if after is not None:
                row = await session.get(BatchRow, after)
                if row is None or row.tenant != tenant:
                    raise _no_such_batch(after, param="after")
                place = (row.created_at, row.id)
            rows = await page_of(
                session,
                select(BatchRow).where(BatchRow.tenant == tenant),
                (BatchRow.created_at, BatchRow.id),
                after=place,
                limit=limit,
                descending=True,
            )
        return Page(tuple(_batch(row) for row in rows.items), rows.has_more)

    async def cancel(self, tenant: str, batch_id: str) -> Batch:
        """Ask for the end of a batch; the worker brings it about. Raises `NotFoundError`, or
        `ConflictError` if it has ended."""
        async with self._database.write() as session:
            row = await session.get(BatchRow, batch_id, with_for_update=True)
            if row is None or row.tenant != tenant:
                raise _no_such_batch(batch_id)
            if row.status in ENDED:
                raise ConflictError(
                    f"The batch {batch_id} cannot be cancelled: it is {row.status}.",
                    code="batch_ended",
                )
            if row.status != "cancelling":
                self._move(row, "cancelling")
            return _batch(row)

    # --- the worker -----------------------------------------------------------------------------

    async def find(self, batch_id: str) -> Batch | None:
        """The batch, whoever owns it."""
        async with self._database.read() as session:
            row = await session.get(BatchRow, batch_id)
        return None if row is None else _batch(row)

    async def begin(self, job: Job, *, total: int, model: str | None) -> Batch:
        """The input is good: from validating to in_progress, unless it is being cancelled."""
        async with self._database.write() as session:
            row = await self._held(session, job)
            row.total, row.model = total, model
            if row.status == "validating":
                self._move(row, "in_progress")
            return _batch(row)

    async def recorded(self, batch_id: str) -> set[int]:
        """The lines whose results are recorded."""
        async with self._database.read() as session:
            lines = await session.scalars(
                select(BatchLineRow.line).where(BatchLineRow.batch_id == batch_id)
            )
            return set(lines)

    async def record(self, job: Job, result: LineResult) -> None:
        """Keep the result of a line, once and for all; a line that is recorded stays as it is."""
        async with self._database.write() as session:
            row = await self._held(session, job)
            if await session.get(BatchLineRow, (row.id, result.line)) is not None:
                return
            session.add(
                BatchLineRow(
                    batch_id=row.id,
                    line=result.line,
                    succeeded=result.succeeded,
                    result=result.result,
                )
            )
            row.completed += int(result.succeeded)
            row.failed += int(not result.succeeded)
            usage = result.usage or Usage(0, 0)
            row.input_tokens += usage.prompt_tokens
            row.cached_tokens += usage.cached_tokens
            row.output_tokens += usage.completion_tokens
            row.reasoning_tokens += usage.reasoning_tokens

    async def finalize(self, job: Job) -> Batch:
        """Every line that will ever run has run. A batch that is being cancelled stays so."""
        async with self._database.write() as session:
            row = await self._held(session, job)
            if row.status == "in_progress":
                self._move(row, "finalizing")
            return _batch(row)

    async def results(self, batch_id: str, *, succeeded: bool) -> AsyncIterator[str]:
        """The recorded lines of one file, in the order of the input."""
        line = 0
        while True:
            async with self._database.read() as session:
                rows = (
                    await session.execute(
                        select(BatchLineRow.line, BatchLineRow.result)
                        .where(
                            BatchLineRow.batch_id == batch_id,
                            BatchLineRow.succeeded.is_(succeeded),
                            BatchLineRow.line > line,
                        )
                        .order_by(BatchLineRow.line)
                        .limit(_RESULT_ROWS)
                    )
                ).all()
            for row in rows:
                yield row.result
            if not rows:
                return
            line = rows[-1].line

    async def conclude(
        self, job: Job, status: str, *, output: NewFile | None, errors: NewFile | None, unrun: int
    ) -> Batch:
        """The end, in one transaction: the files appear, the recorded lines and the job go.
        `unrun` lines of the error file never ran and are counted as failed."""
        async with self._database.write() as session:
            row = await self._held(session, job)
            row.output_file_id = await self._placed(session, output)
            row.error_file_id = await self._placed(session, errors)
            row.failed += unrun
            await session.execute(delete(BatchLineRow).where(BatchLineRow.batch_id == row.id))
            return await self._end(session, job, row, status)

    async def fail(self, job: Job, problems: Sequence[BatchProblem]) -> Batch:
        """The batch cannot run, for `problems`."""
        async with self._database.write() as session:
            row = await self._held(session, job)
            row.errors = [
                {name: getattr(problem, name) for name in BatchProblem.__slots__}
                for problem in problems
            ]
            await session.execute(delete(BatchLineRow).where(BatchLineRow.batch_id == row.id))
            return await self._end(session, job, row, "failed")

    async def drop(self, job: Job) -> None:
        """Remove the job of a batch that is no longer there, or has ended."""
        async with self._database.write() as session:
            await self.queue.finish(session, job)

    async def sweep(self) -> int:
        """Forget batches that ended long ago; how many."""
        async with self._database.write() as session:
            old = list(
                await session.scalars(
                    select(BatchRow.id).where(BatchRow.forget_at <= self._clock()).limit(500)
                )
            )
            await session.execute(delete(BatchRow).where(BatchRow.id.in_(old)))
        return len(old)

    async def _held(self, session: AsyncSession, job: Job) -> BatchRow:
        await self.queue.hold(session, job)
        row = await session.get(BatchRow, job.subject, with_for_update=True)
        if row is None:
            raise _no_such_batch(job.subject)
        return row

    async def _placed(self, session: AsyncSession, new: NewFile | None) -> str | None:
        return None if new is None else (await self.files.place(session, new)).id

    async def _end(self, session: AsyncSession, job: Job, row: BatchRow, status: str) -> Batch:
        self._move(row, status)
        ttl_s = self.files.settings.file_ttl_s * _KEEP_ENDED_FACTOR
        row.forget_at = self._clock() + timedelta(seconds=ttl_s)
        await self.queue.finish(session, job)
        await session.flush()
        return _batch(row)

    def _move(self, row: BatchRow, status: str) -> None:
        row.status = status
        row.moments = {**row.moments, status: int(self._clock().timestamp())}


def file_sweeps(files: FileStore) -> tuple[Sweep, ...]:
    """What deletes expired files and forgets old batches, by the stores' own clock."""
    batches = BatchStore(files)

    async def sweep_batches(_: Database, __: datetime) -> int:
        return await batches.sweep()

    async def sweep_files(_: Database, __: datetime) -> int:
        return await files.sweep()

    return sweep_batches, sweep_files


_COUNTS = (
    "total",
    "completed",
    "failed",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "reasoning_tokens",
)


def _batch(row: BatchRow) -> Batch:
    return Batch(**{name: getattr(row, name) for name in Batch.__slots__})


def _no_such_batch(batch_id: str, param: str | None = None) -> NotFoundError:
    return NotFoundError(
        f"There is no batch {batch_id[:64]!r}.", param=param, code="batch_not_found"
    )
