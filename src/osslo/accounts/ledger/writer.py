"""The one that commits: every change of money in a process goes through its `LedgerWriter`.

Operations queue up; what waits is committed together in one transaction, so that many concurrent
requests share the price of making it durable. While the database is away the writer tries again
with a growing pause, for as long as the process lives: what ended is never lost. Reservations do
not wait that long (`RESERVE_WAIT_S`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

from osslo.accounts.ledger.journal import commit
from osslo.accounts.ledger.operations import (
    End,
    Operation,
    Post,
    Posted,
    Reserve,
    Result,
    Sweep,
)
from osslo.accounts.ledger.records import Counts, Outcome, Reservation, Status
from osslo.db.steps import Steps, is_transient
from osslo.errors import OssloError, OverloadedError
from osslo.telemetry import LOGGER_NAME

RESERVE_WAIT_S = 5.0
"""How long a request waits for a database that is away before it is told to come back."""

MAX_BATCH = 256
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 1.0

_log = logging.getLogger(LOGGER_NAME + ".ledger")

Observer = Callable[[Sequence[Operation], bool], None]
"""Told (operations, True) before a transaction begins and (operations, False) after it ended."""


@dataclass(slots=True, eq=False)
class _Item:
    operation: Operation
    done: asyncio.Future[Result]
    tried: bool = False


class LedgerWriter:
    """Queues operations and commits them in order. Lives in one event loop, from `start` on."""

    def __init__(
        self,
        steps: Steps,
        *,
        reserve_wait_s: float = RESERVE_WAIT_S,
        observer: Observer | None = None,
    ) -> None:
        self._steps = steps
        self._reserve_wait_s = reserve_wait_s
        self._observer = observer
        self._queue: deque[_Item] = deque()
        self._filled = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to commit."""
        self._task = asyncio.create_task(self._run(), name="osslo-ledger-writer")

    async def close(self, timeout_s: float = 10.0) -> None:
        """Commit what waits, for at most `timeout_s`, and stop. What could not be committed is
        left to the sweeper of another process."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            _log.error("stopped with %d ledger operations not committed", len(self._queue))
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._steps.close()

    # --- asking ----------------------------------------------------------------------------------

    def put(self, operation: Operation) -> asyncio.Future[Result]:
        """Queue an operation. The future gives its result, or an exception as a result: it need
        not be awaited."""
        return self._put(operation).done

    async def reserve(self, asked: Reserve) -> Reservation:
        """Reserve, and return what was granted. Raises `QuotaError`, or `OverloadedError` if the
        database stays away; then, and if the caller is cancelled, nothing stays reserved."""
        item = self._put(asked)
        try:
            done = asyncio.shield(item.done)
            return cast(Reservation, _raised(await asyncio.wait_for(done, self._reserve_wait_s)))
        except TimeoutError:
            self._withdraw(item, asked.reservation)
            raise OverloadedError(
                "The accounts' database does not answer; try again soon.",
                code="accounts_unavailable",
                retry_after_s=5,
            ) from None
        except asyncio.CancelledError:
            self._withdraw(item, asked.reservation)
            raise

    async def post(self, operation: Post) -> Posted:
        """Give or take money. Raises `RequestError` where that cannot be."""
        return cast(Posted, _raised(await asyncio.shield(self.put(operation))))

    async def end(self, operation: End) -> int:
        """End a request and wait until that is durable; the cost."""
        return cast(int, _raised(await asyncio.shield(self.put(operation))))

    async def sweep(self, operations: Sequence[Sweep]) -> int:
        """End what dead processes left open; how many there were."""
        results = await asyncio.gather(*(self.put(operation) for operation in operations))
        return sum(bool(_raised(result)) for result in results)

    def _put(self, operation: Operation) -> _Item:
        item = _Item(operation, asyncio.get_running_loop().create_future())
        self._queue.append(item)
        self._idle.clear()
        self._filled.set()
        return item

    def _withdraw(self, item: _Item, reservation: Reservation) -> None:
        """Nobody waits for a reservation any more: forget it, or undo what may be committed."""
        if not item.tried:
            self._queue.remove(item)
            return
        unused = Counts(reservation.counts.prompt_tokens)
        self.put(End(reservation, unused, Outcome(Status.REFUSED, error="not_started")))

    # --- committing ------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            while not self._queue:
                self._filled.clear()
                self._idle.set()
                await self._filled.wait()
            size = min(len(self._queue), MAX_BATCH)
            batch = [self._queue.popleft() for _ in range(size)]
            for item in batch:
                item.tried = True
            await self._commit(batch)

    async def _commit(self, batch: list[_Item]) -> None:
        """Commit a batch, however long it takes. Operations of a batch that fails for a reason
        that stays are committed one by one, so that only the one at fault fails."""
        pause_s, again = _FIRST_PAUSE_S, False
        while True:
            try:
                results = await self._once([item.operation for item in batch], again=again)
            except Exception as error:
                if is_transient(error):
                    _log.warning("the ledger's database is away, trying again: %s", _named(error))
                    await asyncio.sleep(pause_s)
                    pause_s, again = min(2 * pause_s, _LONGEST_PAUSE_S), True
                    continue
                if len(batch) == 1:
                    _log.exception("a ledger operation failed: %s", type(batch[0].operation))
                    results = [_failed(error)]
                else:
                    for item in batch:
                        await self._commit([item])
                    return
            for item, result in zip(batch, results, strict=True):
                if not item.done.done():
                    item.done.set_result(result)
            return

    async def _once(self, operations: list[Operation], *, again: bool) -> list[Result]:
        if self._observer is not None:
            self._observer(operations, True)
        try:
            return await self._steps.run(partial(commit, operations=operations, again=again))
        finally:
            if self._observer is not None:
                self._observer(operations, False)


def _raised(result: Result) -> Result:
    if isinstance(result, Exception):
        raise result
    return result


def _failed(error: Exception) -> OssloError:
    failure = OssloError("The accounts' database refused to record the request.")
    failure.__cause__ = error
    return failure


def _named(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return f"{type(cause).__name__}: {cause}".splitlines()[0]
