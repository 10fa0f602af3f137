"""Deleting what has expired, every so often, while the server runs.

Each kind of stored thing brings a function that deletes a bounded number of its own; the sweep
repeats it until nothing is left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError

from osslo.db.database import Database
from osslo.store.items import moment
from osslo.telemetry import LOGGER_NAME

_log = logging.getLogger(LOGGER_NAME + ".store")

Sweep = Callable[[Database, datetime], Awaitable[int]]
"""Deletes some of what expired before a moment; how many."""


async def sweep_once(database: Database, sweeps: Sequence[Sweep], now: datetime) -> int:
    """Delete everything that expired before `now`; how many."""
    total = 0
    for sweep in sweeps:
        while deleted := await sweep(database, now):
            total += deleted
    return total


class Sweeper:
    """Sweeps every `interval_s` seconds between `start` and `stop`. A database that fails is
    tried again at the next turn."""

    def __init__(
        self,
        database: Database,
        sweeps: Sequence[Sweep],
        *,
        interval_s: float,
        clock: Callable[[], float],
    ) -> None:
        """`clock` gives Unix time in seconds."""
        self._database = database
        self._sweeps = tuple(sweeps)
        self._interval_s = interval_s
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End; a sweep that runs is cut short."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            try:
                deleted = await sweep_once(self._database, self._sweeps, moment(self._clock()))
                if deleted:
                    _log.info("swept", extra={"deleted": deleted})
            except (SQLAlchemyError, OSError) as error:
                _log.warning("sweep failed", extra={"error": type(error).__name__})
            await asyncio.sleep(self._interval_s)
