"""The one that commits: every change of money in a process goes through its `LedgerWriter`.

Operations queue up; what waits is committed together in one transaction, and while that goes on a
second task flushes what was committed before to the disk: many concurrent requests share the price
of both. A reservation is answered once it is committed, since until it is flushed its request has
generated next to nothing; all else is answered once it is flushed. Where nothing waits, and the
database can do it on the spot, a reservation does not queue. What is not known to be flushed
when the database is lost is committed again, in its order; each operation counts once. While the
database is away the writer tries again with a growing pause, for as long as the process lives: what
ended is never lost. Reservations do not wait that long (`RESERVE_WAIT_S`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import cast

from osslo.accounts.ledger.journal import commit, commit_at_once
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
SHORT_BATCH = 4
"""So many operations are committed on the spot where that can be, a third of a millisecond each;
more of them have a thread."""

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
    """It may have been committed."""
    result: Result = None


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
        self._unflushed: list[_Item] = []
        self._committing = False
        self._recalls = 0
        self._suspect = False
        self._filled = asyncio.Event()
        self._committed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to commit."""
        self._tasks = {
            asyncio.create_task(self._run(), name="osslo-ledger-writer"),
            asyncio.create_task(self._flush(), name="osslo-ledger-flusher"),
        }

    async def close(self, timeout_s: float = 10.0) -> None:
        """Commit what waits, for at most `timeout_s`, and stop. What could not be committed is
        left to the sweeper of another process."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            left = len(self._queue) + len(self._unflushed)
            _log.error("stopped with %d ledger operations not committed", left)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._steps.close()

    # --- asking ----------------------------------------------------------------------------------

    def put(self, operation: Operation) -> asyncio.Future[Result]:
        """Queue an operation. The future gives its result, or an exception as a result: it need
        not be awaited."""
        item = _Item(operation, asyncio.get_running_loop().create_future())
        self._queue_up(item)
        return item.done

    async def reserve(self, asked: Reserve) -> Reservation:
        """Reserve, and return what was granted. Raises `QuotaError`, or `OverloadedError` if the
        database stays away; then, and if the caller is cancelled, nothing stays reserved."""
        item = _Item(asked, asyncio.get_running_loop().create_future())
        if self._commit_now(item):
            return cast(Reservation, _raised(item.result))
        self._queue_up(item)
        try:
            async with asyncio.timeout(self._reserve_wait_s):
                result = await item.done
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
        return cast(Reservation, _raised(result))

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

    def _queue_up(self, item: _Item) -> None:
        self._queue.append(item)
        self._idle.clear()
        self._filled.set()

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
            while not self._queue and not self._suspect:
                self._filled.clear()
                self._committing = False
                self._note_idle()
                await self._filled.wait()
            self._committing = True
            recalled = self._recall() if self._suspect else []
            size = min(len(self._queue), MAX_BATCH)
            batch = recalled + [self._queue.popleft() for _ in range(size)]
            again = any(item.tried for item in batch)
            for item in batch:
                item.tried = True
            await self._commit(batch, again=again)

    def _commit_now(self, item: _Item) -> bool:
        """Commit one operation on the spot, where nothing was asked for before it. False where it
        has to queue."""
        if self._queue or self._committing or self._suspect or not self._tasks:
            return False
        item.tried = True
        try:
            results = self._now([item.operation])
        except Exception:  # the queue tries again, and tells what is wrong
            return False
        if results is None:
            item.tried = False
            return False
        self._idle.clear()
        self._note_committed([item], results)
        return True

    def _recall(self) -> list[_Item]:
        """What was committed and may be lost, to be committed again."""
        recalled, self._unflushed = self._unflushed, []
        self._recalls += 1
        self._suspect = False
        return recalled

    async def _commit(self, batch: list[_Item], *, again: bool = False) -> None:
        """Commit a batch, however long it takes. Operations of a batch that fails for a reason
        that stays are committed one by one, so that only the one at fault fails."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                results = await self._once([item.operation for item in batch], again=again)
            except Exception as error:
                if is_transient(error):
                    _log.warning("the ledger's database is away, trying again: %s", _named(error))
                    await asyncio.sleep(pause_s)
                    pause_s, again = min(2 * pause_s, _LONGEST_PAUSE_S), True
                    batch = self._recall() + batch
                    continue
                if len(batch) == 1:
                    _log.exception("a ledger operation failed: %s", type(batch[0].operation))
                    _answer(batch[0], _failed(error))
                    return
                for item in batch:
                    await self._commit([item], again=again)
                return
            self._note_committed(batch, results)
            return

    def _note_committed(self, batch: list[_Item], results: list[Result]) -> None:
        for item, result in zip(batch, results, strict=True):
            item.result = result
            if isinstance(item.operation, Reserve):
                _answer(item, result)
                if isinstance(result, Reservation):  # committed again, it is the one granted
                    item.operation = Reserve(result, may_lower=True)
        self._unflushed += batch
        self._committed.set()

    async def _flush(self) -> None:
        """Make what is committed durable, again and again."""
        pause_s = _FIRST_PAUSE_S
        while True:
            if not self._unflushed or self._suspect:
                self._committed.clear()
                self._note_idle()
                await self._committed.wait()
                continue
            recalls, flushed = self._recalls, len(self._unflushed)
            try:
                await self._steps.flush()
            except Exception as error:
                _log.warning("the ledger could not be flushed, trying again: %s", _named(error))
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                if recalls == self._recalls:
                    self._suspect = True
                    self._filled.set()
                continue
            pause_s = _FIRST_PAUSE_S
            if recalls == self._recalls:
                done, self._unflushed = self._unflushed[:flushed], self._unflushed[flushed:]
                for item in done:
                    _answer(item, item.result)

    def _note_idle(self) -> None:
        if not (self._queue or self._committing or self._unflushed or self._suspect):
            self._idle.set()

    async def _once(self, operations: list[Operation], *, again: bool) -> list[Result]:
        if len(operations) <= SHORT_BATCH and not again:
            results = self._now(operations)
            if results is not None:
                return results
        with self._observed(operations):
            step = partial(commit, operations=operations, again=again)
            at_once = None if again else partial(commit_at_once, operations=operations)
            return await self._steps.run(step, at_once)

    def _now(self, operations: list[Operation]) -> list[Result] | None:
        with self._observed(operations):
            return self._steps.now(partial(commit, operations=operations))

    @contextmanager
    def _observed(self, operations: list[Operation]) -> Iterator[None]:
        if self._observer is not None:
            self._observer(operations, True)
        try:
            yield
        finally:
            if self._observer is not None:
                self._observer(operations, False)


def _answer(item: _Item, result: Result) -> None:
    if not item.done.done():
        item.done.set_result(result)


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
