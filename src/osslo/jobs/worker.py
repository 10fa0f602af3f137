"""The worker's loop: claim a job, keep the claim while a handler works, put back what fails.

Which kinds of jobs there are is the caller's choice: a handler for each. A job whose handler fails
is tried again, later each time, and given up after `MAX_ATTEMPTS` tries that got nowhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from osslo.store.jobs import Job, JobQueue, LeaseLostError
from osslo.telemetry import LOGGER_NAME

MAX_ATTEMPTS = 10
_MAX_DELAY_S = 60.0

_log = logging.getLogger(LOGGER_NAME + ".worker")


class Handler(Protocol):
    """Does the work of one kind of job."""

    async def run(self, job: Job) -> None:
        """Work until the job is done and removed. May be cancelled, and then run again from the
        start. Raises `LeaseLostError` if another worker has the job."""
        ...

    async def give_up(self, job: Job) -> None:
        """The job failed too often: say so where its owner looks, and remove it."""
        ...


class Worker:
    """Works on up to `slots` jobs at a time. `name` tells its claims from other workers'."""

    def __init__(
        self,
        queue: JobQueue,
        handlers: Mapping[str, Handler],
        *,
        name: str,
        lease_s: float,
        slots: int = 4,
        poll_s: float = 1.0,
    ) -> None:
        self._queue = queue
        self._handlers = dict(handlers)
        self._name = name
        self._lease_s = lease_s
        self._slots = slots
        self._poll_s = poll_s

    async def run(self, stop: asyncio.Event, *, until_idle: bool = False) -> None:
        """Work until `stop` is set (or, `until_idle`, until there is nothing to do). What runs then
        is cut off and put back."""
        running: set[asyncio.Task[None]] = set()
        try:
            while not stop.is_set():
                running = {task for task in running if not task.done()}
                job = await self._claim() if len(running) < self._slots else None
                if job is not None:
                    running.add(asyncio.create_task(self._work(job)))
                elif until_idle and not running:
                    return
                else:
                    await self._wait(stop, running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _wait(self, stop: asyncio.Event, running: set[asyncio.Task[None]]) -> None:
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait(
            {stopping, *running}, timeout=self._poll_s, return_when=asyncio.FIRST_COMPLETED
        )
        stopping.cancel()

    async def _claim(self) -> Job | None:
        try:
            return await self._queue.claim(self._name, tuple(self._handlers), lease_s=self._lease_s)
        except (SQLAlchemyError, OSError) as error:
            _log.warning("the queue cannot be read", extra={"error": type(error).__name__})
            return None

    async def _work(self, job: Job) -> None:
        working = asyncio.create_task(self._handlers[job.kind].run(job))
        keeping = asyncio.create_task(self._keep(job))
        try:
            await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                return  # the claim is lost
            working.result()
        except LeaseLostError:
            _log.warning("claim lost", extra={"job": job.id, "subject": job.subject})
        except asyncio.CancelledError:
            await _ended(working)
            await self._put_back(job, delay_s=0.0, forgive=True)
            raise
        except Exception:
            _log.exception("job failed", extra={"job": job.id, "subject": job.subject})
            await self._after_failure(job)
        finally:
            await _ended(keeping)
            await _ended(working)

    async def _keep(self, job: Job) -> None:
        """Renew the claim until it is lost."""
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                await self._queue.renew(job, lease_s=self._lease_s)
            except LeaseLostError:
                return
            except (SQLAlchemyError, OSError) as error:
                _log.warning("a claim was not renewed", extra={"error": type(error).__name__})

    async def _after_failure(self, job: Job) -> None:
        if job.attempts < MAX_ATTEMPTS:
            delay_s = min(_MAX_DELAY_S, 2.0 ** (job.attempts - 1))
            await self._put_back(job, delay_s=delay_s, forgive=False)
            return
        with suppress(LeaseLostError):
            await self._handlers[job.kind].give_up(job)

    async def _put_back(self, job: Job, *, delay_s: float, forgive: bool) -> None:
        """Where the database cannot be reached, the claim runs out by itself."""
        with suppress(SQLAlchemyError, OSError):
            await self._queue.put_back(job, delay_s=delay_s, forgive=forgive)


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancel `task` and wait until it has cleaned up."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
