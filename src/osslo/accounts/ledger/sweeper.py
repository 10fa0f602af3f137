"""Ends what dead processes left open, and keeps this one known to be alive.

Each process counts its `beat` up; another one holds it for dead when it has itself seen the same
beat, again and again, for `lease_s` of its own monotonic time. No wall clock is compared, so that
no jump of any clock makes a living process look dead. One that stood still (a suspended machine)
and is swept although it lives charges the rest when its requests end (`Book._charge_late`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select

from osslo.accounts.ledger.operations import Beat, Farewell, Sweep
from osslo.accounts.ledger.tables import ProcessRow, ReservationRow
from osslo.accounts.ledger.writer import LedgerWriter
from osslo.db.database import Database
from osslo.db.steps import is_transient
from osslo.telemetry import LOGGER_NAME

LEASE_S = 15.0
_SIGHTINGS = 4
_SWEPT_AT_ONCE = 100

_log = logging.getLogger(LOGGER_NAME + ".ledger")


@dataclass(slots=True)
class _Sighting:
    beat: int
    since: float
    times: int


class Watch:
    """Judges, from what one process sees and when, which others are dead. Pure."""

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._seen: dict[str, _Sighting] = {}
        self._last: float | None = None

    def see(self, beats: Mapping[str, int], now: float) -> list[str]:
        """The processes that are dead, given all beats as read at `now` (monotonic seconds).

        Where this process itself stood still since it last looked, it begins to watch anew.
        """
        stood_still = self._last is not None and now - self._last > self._lease_s
        self._last = now
        known = {} if stood_still else self._seen
        self._seen = {}
        for process_id, beat in beats.items():
            seen = known.get(process_id)
            if seen is None or seen.beat != beat:
                seen = _Sighting(beat, now, 0)
            seen.times += 1
            self._seen[process_id] = seen
        return [
            process_id
            for process_id, seen in self._seen.items()
            if now - seen.since >= self._lease_s and seen.times >= _SIGHTINGS
        ]


class Sweeper:
    """Runs beside a writer, from `start` to `close`."""

    def __init__(
        self,
        database: Database,
        writer: LedgerWriter,
        *,
        process_id: str,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._writer = writer
        self._process_id = process_id
        self._interval_s = lease_s / 5
        self._watch = Watch(lease_s)
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to beat and to watch."""
        self._task = asyncio.create_task(self._run(), name="osslo-ledger-sweeper")

    async def close(self) -> None:
        """Stop, and say farewell unless requests are still open."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if not await self._open_of(self._process_id):
            self._writer.put(Farewell(self._process_id))

    async def _run(self) -> None:
        while True:
            await self._writer.put(Beat(self._process_id))
            try:
                await self.look()
            except Exception as error:
                if not is_transient(error):
                    _log.exception("sweeping failed")
            await asyncio.sleep(self._interval_s)

    async def look(self) -> int:
        """Look at all processes once, and sweep what the dead ones left; how many requests."""
        beats = await self._beats()
        swept = 0
        for process_id in self._watch.see(beats, self._clock()):
            if process_id != self._process_id:
                swept += await self._sweep(process_id)
        return swept

    async def _sweep(self, process_id: str) -> int:
        total = 0
        while left := await self._open_of(process_id):
            total += await self._writer.sweep(left)
        await self._writer.put(Farewell(process_id))
        _log.warning("swept a process that had died", extra={"requests": total})
        return total

    async def _beats(self) -> dict[str, int]:
        """The beat of each process; also of those that have reservations but no row."""
        async with self._database.engine.connect() as connection:
            rows = await connection.execute(select(ProcessRow.id, ProcessRow.beat))
            beats = {row.id: row.beat for row in rows}
            owners = await connection.execute(select(ReservationRow.process_id).distinct())
            return dict.fromkeys(owners.scalars(), -1) | beats

    async def _open_of(self, process_id: str) -> list[Sweep]:
        def read(connection: Connection) -> list[Sweep]:
            query = (
                select(ReservationRow.id, ReservationRow.user_id)
                .where(ReservationRow.process_id == process_id)
                .order_by(ReservationRow.id)
                .limit(_SWEPT_AT_ONCE)
            )
            return [Sweep(row.id, row.user_id) for row in connection.execute(query)]

        async with self._database.engine.connect() as connection:
            return await connection.run_sync(read)
