"""The queue of background jobs: who may work on what, under a lease.

A worker claims a job and renews its claim while it works; a claim that is not renewed in time is
anybody's again. Whatever a worker writes for a job it writes under `hold`, in the same transaction,
so that a worker that lost its claim changes nothing. Moments are the database's on PostgreSQL,
where several machines share it, and this machine's on SQLite.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

from sqlalchemy import CursorResult, Update, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from osslo.db.database import Database
from osslo.errors import OssloError
from osslo.store.files import Clock
from osslo.store.job_tables import JobRow

JOB_HEADER = "x-osslo-job"
"""The header in which a worker says to its server for whose job it asks: `SECRET SUBJECT`."""


class LeaseLostError(OssloError):
    """Another worker has the job now; this one stops without a trace."""

    code = "lease_lost"


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed job. `subject` is the id of what it is about; `attempts` counts the claims since
    it last got anywhere, this one included."""

    id: str
    kind: str
    subject: str
    lease: str
    attempts: int


class JobQueue:
    """The jobs in one database. `clock` None takes the database's time."""

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self.database = database
        self._clock = clock

    async def add(self, session: AsyncSession, kind: str, subject: str) -> None:
        """Queue a job in the caller's transaction."""
        now = await self._now(session)
        session.add(
            JobRow(
                id="job_" + secrets.token_hex(12),
                kind=kind,
                subject=subject,
                attempts=0,
                created_at=now,
                available_at=now,
            )
        )

    async def claim(self, worker: str, kinds: Sequence[str], *, lease_s: float) -> Job | None:
        """The longest waiting job of `kinds` that nobody works on, claimed for `worker`."""
        async with self.database.write() as session:
            now = await self._now(session)
            row = await session.scalar(
                select(JobRow)
                .where(JobRow.available_at <= now, JobRow.kind.in_(kinds))
                .order_by(JobRow.available_at, JobRow.id)
                .limit(1)
                .with_for_update(skip_locked=True)
            )
            if row is None:
                return None
            row.worker = worker
            row.lease = secrets.token_hex(16)
            row.available_at = now + timedelta(seconds=lease_s)
            row.attempts += 1
            return Job(row.id, row.kind, row.subject, row.lease, row.attempts)

    async def renew(self, job: Job, *, lease_s: float) -> None:
        """Keep the claim for `lease_s` more. Raises `LeaseLostError`."""
        async with self.database.write() as session:
            until = await self._now(session) + timedelta(seconds=lease_s)
            await self._change(session, job, update(JobRow).values(available_at=until))

    async def hold(self, session: AsyncSession, job: Job) -> None:
        """Make sure that the claim holds until the caller's transaction ends, and note that the
        job got somewhere. Raises `LeaseLostError`."""
        await self._change(session, job, update(JobRow).values(attempts=0))

    async def put_back(self, job: Job, *, delay_s: float = 0.0, forgive: bool = False) -> None:
        """Give the job up; another may claim it after `delay_s`. `forgive` does not count this
        attempt. Does nothing if the claim is lost."""
        async with self.database.write() as session:
            now = await self._now(session)
            await session.execute(
                self._mine(job, update(JobRow)).values(
                    worker=None,
                    lease=None,
                    available_at=now + timedelta(seconds=delay_s),
                    attempts=JobRow.attempts - (1 if forgive else 0),
                )
            )

    async def finish(self, session: AsyncSession, job: Job) -> None:
        """Remove the job, in the caller's transaction. Raises `LeaseLostError`."""
        done = await session.execute(
            delete(JobRow).where(JobRow.id == job.id, JobRow.lease == job.lease)
        )
        if cast("CursorResult[tuple[()]]", done).rowcount != 1:
            raise _lost(job)

    async def release_worker(self, worker: str) -> int:
        """Give back what a worker that is known to be dead had claimed; how many jobs."""
        async with self.database.write() as session:
            now = await self._now(session)
            done = await session.execute(
                update(JobRow)
                .where(JobRow.worker == worker)
                .values(worker=None, lease=None, available_at=now)
            )
            return cast("CursorResult[tuple[()]]", done).rowcount

    async def _change(self, session: AsyncSession, job: Job, change: Update) -> None:
        done = await session.execute(self._mine(job, change))
        if cast("CursorResult[tuple[()]]", done).rowcount != 1:
            raise _lost(job)

    def _mine(self, job: Job, change: Update) -> Update:
        return change.where(JobRow.id == job.id, JobRow.lease == job.lease)

    async def _now(self, session: AsyncSession) -> datetime:
        if self._clock is not None:
            return self._clock()
        if self.database.is_sqlite:
            return datetime.now(UTC)
        moment = await session.scalar(select(func.clock_timestamp()))
        return cast(datetime, moment)


def _lost(job: Job) -> LeaseLostError:
    return LeaseLostError(f"the claim on {job.id} ({job.kind} {job.subject}) is lost")
