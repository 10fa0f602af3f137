"""Fine-tuning jobs: what was asked for, how far it is, and what happened on the way.

Owners' queries are limited to their `tenant`. What the worker changes it changes under its claim on
the job in the queue; owners cancel, pause and resume by the status, which the worker obeys.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from osslo.errors import ConflictError, NotFoundError, RateLimitError
from osslo.store.files import Clock, FileStore, NewFile, utc_now
from osslo.store.job_tables import JobRow
from osslo.store.jobs import Job, JobQueue
from osslo.store.paging import Page, page_of
from osslo.store.tuning_tables import FineTuningEventRow, FineTuningRow

TUNING_KIND = "fine_tuning"
TUNING_ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class NewFineTuning:
    """What a caller asks for; `epochs` and `rate_factor` None leave the choice to the worker."""

    tenant: str
    model: str
    adapter: str
    training_file: str
    validation_file: str | None
    epochs: int | None
    rate_factor: float | None
    seed: int
    metadata: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class FineTuning:
    """A job as it is now. `metrics` are those of its end."""

    id: str
    tenant: str
    model: str
    adapter: str
    training_file: str
    validation_file: str | None
    status: str
    epochs: int | None
    rate_factor: float | None
    seed: int
    labels: Mapping[str, str] | None
    error: Mapping[str, Any] | None
    result_files: Sequence[str]
    step: int
    trained_tokens: int
    metrics: Mapping[str, Any] | None
    created_at: datetime
    finished_at: datetime | None
    estimated_finish: datetime | None

    @property
    def ended(self) -> bool:
        return self.status in TUNING_ENDED


@dataclass(frozen=True, slots=True)
class TuningEvent:
    """What happened. `data` are a step's metrics, None for a plain message."""

    id: str
    level: str
    message: str
    data: Mapping[str, Any] | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class TuningStep:
    """The metrics of one step, counted from 1; `left_s` is how long the rest may take."""

    number: int
    tokens: int
    message: str
    metrics: Mapping[str, Any]
    left_s: float


class FineTuningStore:
    """The fine-tuning jobs of every owner; the files of `files`."""

    def __init__(
        self, files: FileStore, queue: JobQueue | None = None, clock: Clock = utc_now
    ) -> None:
        self.files = files
        self.queue = queue or JobQueue(files.database)
        self._database = files.database
        self._clock = clock

    # --- owners ---------------------------------------------------------------------------------

    async def create(self, new: NewFineTuning, *, most_active: int) -> FineTuning:
        """Take a job on and queue it. Raises `RateLimitError` if `most_active` of the owner's have
        not ended."""
        row = FineTuningRow(
            id="ftjob-" + secrets.token_hex(12),
            tenant=new.tenant,
            model=new.model,
            adapter=new.adapter,
            training_file=new.training_file,
            validation_file=new.validation_file,
            status="queued",
            epochs=new.epochs,
            rate_factor=new.rate_factor,
            seed=new.seed,
            labels=None if new.metadata is None else dict(new.metadata),
            result_files=[],
            step=0,
            trained_tokens=0,
            created_at=self._clock(),
        )
        async with self._database.write() as session:
            active = await session.scalar(
                select(func.count())
                .select_from(FineTuningRow)
                .where(
                    FineTuningRow.tenant == new.tenant, FineTuningRow.status.not_in(TUNING_ENDED)
                )
            )
            if (active or 0) >= most_active:
                raise RateLimitError(
                    f"You have {active} unfinished fine-tuning jobs; the most is {most_active}. "
                    "Wait for one to end, or cancel one.",
                    code="too_many_jobs",
                    retry_after_s=60,
                )
            session.add(row)
            await session.flush()
            await self._note(session, row, "The files are good; the job is queued.")
            await self.queue.add(session, TUNING_KIND, row.id)
            return _job(row)

    async def get(self, tenant: str, job_id: str) -> FineTuning:
        """Raises `NotFoundError`, also for another owner's job."""
        found = await self.find(job_id)
        if found is None or found.tenant != tenant:
            raise _no_such_job(job_id)
        return found

    async def page(self, tenant: str, *, after: str | None, limit: int) -> Page[FineTuning]:
        """A part of the owner's jobs, the newest first. Raises `NotFoundError`."""
        async with self._database.read() as session:
            place = None
            if after is not None:
                row = await self._owned(session, tenant, after)
                place = (row.created_at, row.id)
            rows = await page_of(
                session,
                select(FineTuningRow).where(FineTuningRow.tenant == tenant),
                (FineTuningRow.created_at, FineTuningRow.id),
                after=place,
                limit=limit,
                descending=True,
            )
        return Page(tuple(_job(row) for row in rows.items), rows.has_more)

    async def events(
        self, tenant: str, job_id: str, *, after: str | None, limit: int
    ) -> Page[TuningEvent]:
        """A part of a job's events, the newest first. Raises `NotFoundError`."""
        async with self._database.read() as session:
            await self._owned(session, tenant, job_id)
            place = None
            if after is not None:
                event = await session.get(FineTuningEventRow, after)
                if event is None or event.job_id != job_id:
                    raise NotFoundError(f"There is no event {after[:64]!r}.", param="after")
                place = (event.number,)
            rows = await page_of(
                session,
                select(FineTuningEventRow).where(FineTuningEventRow.job_id == job_id),
                (FineTuningEventRow.number,),
                after=place,
                limit=limit,
                descending=True,
            )
        return Page(tuple(_event(row) for row in rows.items), rows.has_more)

    async def cancel(self, tenant: str, job_id: str) -> FineTuning:
        """End a job for good. Raises `NotFoundError`, `ConflictError` if it has ended."""
        return await self._steer(
            tenant, job_id, ("queued", "running", "paused"), "cancelled", "The job was cancelled."
        )

    async def pause(self, tenant: str, job_id: str) -> FineTuning:
        """Stop a job until it is resumed. Raises `NotFoundError`, `ConflictError`."""
        return await self._steer(
            tenant, job_id, ("queued", "running"), "paused", "The job was paused."
        )

    async def resume(self, tenant: str, job_id: str) -> FineTuning:
        """Let a paused job go on. Raises `NotFoundError`, `ConflictError`."""
        return await self._steer(tenant, job_id, ("paused",), "queued", "The job goes on.")

    async def _steer(
        self, tenant: str, job_id: str, allowed: Sequence[str], status: str, message: str
    ) -> FineTuning:
        async with self._database.write() as session:
            row = await self._owned(session, tenant, job_id, lock=True)
            if row.status not in allowed:
                raise ConflictError(
                    f"The job {job_id} is {row.status}; only one that is "
                    f"{' or '.join(allowed)} can become {status}.",
                    code="wrong_job_state",
                )
            queued = await session.scalar(select(JobRow.id).where(JobRow.subject == job_id))
            if status == "queued" and queued is not None:
                raise ConflictError(
                    "The worker has not let go of this job yet; try again in a few seconds.",
                    code="wrong_job_state",
                    retry_after_s=5,
                )
            row.status, row.estimated_finish = status, None
            await self._note(session, row, message)
            if status == "cancelled":
                row.finished_at = self._clock()
            if status == "queued":
                await self.queue.add(session, TUNING_KIND, row.id)
            return _job(row)

    async def _owned(
        self, session: AsyncSession, tenant: str, job_id: str, *, lock: bool = False
    ) -> FineTuningRow:
        row = await session.get(FineTuningRow, job_id, with_for_update=lock)
        if row is None or row.tenant != tenant:
            raise _no_such_job(job_id)
        return row

    # --- the worker -----------------------------------------------------------------------------

    async def find(self, job_id: str) -> FineTuning | None:
        """The job, whoever owns it."""
        async with self._database.read() as session:
            row = await session.get(FineTuningRow, job_id)
        return None if row is None else _job(row)

    async def begin(self, job: Job) -> FineTuning:
        """From queued to running; a job that was steered elsewhere stays there."""
        async with self._database.write() as session:
            row = await self._held(session, job)
            if row.status == "queued":
                row.status = "running"
                await self._note(session, row, "Training goes on." if row.step else "Training.")
            return _job(row)

    async def tell(self, job: Job, message: str) -> None:
        """Note something on the job."""
        async with self._database.write() as session:
            await self._note(session, await self._held(session, job), message)

    async def record(self, job: Job, step: TuningStep) -> None:
        """Keep a step's metrics, once: what is done again after a crash is known already."""
        async with self._database.write() as session:
            row = await self._held(session, job)
            if step.number <= row.step:
                return
            row.step = step.number
            row.trained_tokens += step.tokens
            if row.status == "running":
                row.estimated_finish = self._clock() + timedelta(seconds=step.left_s)
            await self._note(session, row, step.message, dict(step.metrics))

    async def succeed(
        self, job: Job, files: Sequence[NewFile], metrics: Mapping[str, Any]
    ) -> FineTuning:
        """The end, in one transaction: the files appear, the claim goes. A job that was cancelled
        meanwhile stays so."""
        async with self._database.write() as session:
            row = await self._held(session, job)
            placed = [await self.files.place(session, new) for new in files]
            row.result_files = [file.id for file in placed]
            if row.status == "running":
                row.metrics = dict(metrics)
                await self._end(session, row, "succeeded", f"{row.model}:{row.adapter} is ready.")
            await self.queue.finish(session, job)
            return _job(row)

    async def fail(self, job: Job, code: str, message: str, param: str | None = None) -> None:
        """The job cannot be done."""
        async with self._database.write() as session:
            row = await self._held(session, job)
            if row.status not in TUNING_ENDED:
                row.error = {"code": code, "message": message, "param": param}
                await self._end(session, row, "failed", message, level="error")
            await self.queue.finish(session, job)

    async def drop(self, job: Job) -> None:
        """Let go of a job that is not to run now."""
        async with self._database.write() as session:
            await self.queue.finish(session, job)

    async def _held(self, session: AsyncSession, job: Job) -> FineTuningRow:
        await self.queue.hold(session, job)
        row = await session.get(FineTuningRow, job.subject, with_for_update=True)
        if row is None:
            raise _no_such_job(job.subject)
        return row

    async def _end(
        self,
        session: AsyncSession,
        row: FineTuningRow,
        status: str,
        message: str,
        *,
        level: str = "info",
    ) -> None:
        row.status, row.finished_at, row.estimated_finish = status, self._clock(), None
        await self._note(session, row, message, level=level)

    async def _note(
        self,
        session: AsyncSession,
        row: FineTuningRow,
        message: str,
        data: dict[str, Any] | None = None,
        *,
        level: str = "info",
    ) -> None:
        last = await session.scalar(
            select(func.max(FineTuningEventRow.number)).where(FineTuningEventRow.job_id == row.id)
        )
        session.add(
            FineTuningEventRow(
                id="ftevent-" + secrets.token_hex(12),
                job_id=row.id,
                number=(last or 0) + 1,
                level=level,
                message=message,
                data=data,
                created_at=self._clock(),
            )
        )
        await session.flush()


def _job(row: FineTuningRow) -> FineTuning:
    return FineTuning(**{name: getattr(row, name) for name in FineTuning.__slots__})


def _event(row: FineTuningEventRow) -> TuningEvent:
    return TuningEvent(**{name: getattr(row, name) for name in TuningEvent.__slots__})


def _no_such_job(job_id: str) -> NotFoundError:
    return NotFoundError(
        f"There is no fine-tuning job {job_id[:64]!r}.", code="fine_tuning_job_not_found"
    )
