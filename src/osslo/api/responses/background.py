"""Background responses: run here whether or not anybody listens, each to exactly one end.

A response is kept before it runs and its charge is opened before its caller is answered, so that
what is refused is refused at once. It then waits for a place among those that run together, which
owners get in turn, and,
where the engine's queue is full, for room there, with its charge held. Its end is in the database
before anyone is told of it; the database takes the first end only. A process that dies leaves its
responses to whoever looks next: they have failed, and the ledger charges what was durable of them.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from sqlalchemy.exc import SQLAlchemyError

from osslo.api.responses.live import BackgroundJob, LiveResponse
from osslo.api.responses.log import Cut, Step
from osslo.api.responses.places import FairPlaces
from osslo.chat.events import TurnEnded, TurnStarted
from osslo.chat.metering import Bill, Charge, ForwardedCharge, Meter
from osslo.errors import EngineError, NotFoundError, OssloError, OverloadedError, ShuttingDownError
from osslo.store.responses import LEASE_S
from osslo.telemetry import LOGGER_NAME
from osslo.types import Usage

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 2.0
"""How often a full engine is asked again."""

_KEEP_TRIES_S = (0.25, 0.5, 1.0, 2.0, 4.0)
"""The waits between tries to keep an end while the database is away."""

_log = logging.getLogger(LOGGER_NAME + ".background")


class BackgroundResponses:
    """The background responses of this process: up to `running` together, `unfinished` in all."""

    def __init__(
        self, *, running: int = 8, unfinished: int = 256, renew_s: float = LEASE_S / 3
    ) -> None:
        self._places = FairPlaces(running)
        self._unfinished = unfinished
        self._renew_s = renew_s
        self._runs: dict[str, _Run] = {}
        self._renewing: asyncio.Task[None] | None = None

    async def start(self, job: BackgroundJob) -> LiveResponse:
        """Keep a response, open its charge and let it run. Raises what refuses it: too many of
        them, a rate limit, no money; then nothing of it is kept."""
        if len(self._runs) >= self._unfinished:
            raise OverloadedError(
                "This server has as many unfinished background responses as it holds.",
                retry_after_s=5,
            )
        run = self._runs[job.record.id] = _Run(LiveResponse(job), self._places)
        try:
            await job.store.queue(job.record)
            run.task = asyncio.create_task(self._whole(run), name=f"osslo-{job.record.id}")
            if self._renewing is None or self._renewing.done():
                self._renewing = asyncio.create_task(self._renew(), name="osslo-background")
            await asyncio.shield(run.live.admitted)
        except BaseException:
            if run.task is None or not run.live.admitted.done():
                await self._drop(run)
            raise
        return run.live

    def find(self, tenant: str, response_id: str) -> LiveResponse | None:
        """A response that runs here."""
        run = self._runs.get(response_id)
        if run is None or run.live.job.record.tenant != tenant or not run.admitted:
            return None
        return run.live

    async def cancel(self, tenant: str, response_id: str) -> None:
        """End a response that runs here, and wait until its end is kept. One that runs elsewhere,
        or has ended, is left alone."""
        if self.find(tenant, response_id) is not None:
            await self._runs[response_id].cut(None)

    async def drain(self, timeout_s: float) -> None:
        """Let what runs finish for so long; what has not begun by now, or not ended by then, fails.
        Nothing is left when this returns."""
        stopped = ShuttingDownError(
            "The server shut down before this response was done; send the request again."
        )
        waiting = [run for run in self._runs.values() if not run.live.begun]
        await asyncio.gather(*(run.cut(stopped) for run in waiting))
        running = [run.task for run in self._runs.values() if run.task is not None]
        if running:
            await asyncio.wait(running, timeout=timeout_s)
        await asyncio.gather(*(run.cut(stopped) for run in list(self._runs.values())))
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait({self._renewing})

    # --- one response ---------------------------------------------------------------------------

    async def _whole(self, run: _Run) -> None:
        try:
            last = await run.until_end()
            if not run.admitted:
                await self._refuse(run, last)
                return
            await _keep_end(run.live, last)
        finally:
            self._runs.pop(run.live.job.record.id, None)
            run.leave()

    async def _refuse(self, run: _Run, last: Step) -> None:
        """Nothing of a response that was not admitted is kept; whoever asked for it is told."""
        record = run.live.job.record
        try:
            await run.live.job.store.delete(record.tenant, record.id)
        except (NotFoundError, SQLAlchemyError, OSError):
            _log.warning("a refused response was left behind", extra={"response": record.id})
        error = last.error if isinstance(last, Cut | TurnEnded) else None
        if not run.live.admitted.done():
            run.live.admitted.set_exception(error or ShuttingDownError("The response was cut off."))
            run.live.admitted.exception()  # nobody may be there to hear of it

    async def _drop(self, run: _Run) -> None:
        """Whoever asked went away before the answer, or the response could not be kept."""
        if run.task is not None:
            await run.cut(None)
        self._runs.pop(run.live.job.record.id, None)

    # --- leases ---------------------------------------------------------------------------------

    async def _renew(self) -> None:
        """Keep the leases of what runs here, and end what was ended or deleted elsewhere."""
        while self._runs:
            await asyncio.sleep(self._renew_s)
            runs = {name: run for name, run in self._runs.items() if run.admitted}
            if not runs:
                continue
            store = next(iter(runs.values())).live.job.store
            try:
                going = await store.renew(runs)
            except (SQLAlchemyError, OSError) as error:
                _log.warning("leases were not renewed", extra={"error": type(error).__name__})
                continue
            for name, run in runs.items():
                if name not in going:
                    run.interrupt(None)


@dataclass(slots=True)
class _Run:
    """One response and the task that runs it."""

    live: LiveResponse
    places: FairPlaces
    task: asyncio.Task[None] | None = None
    has_place: bool = False
    interrupted: bool = False
    why: OssloError | None = None
    usage: Usage | None = None
    meter: _HeldMeter = field(init=False)

    def __post_init__(self) -> None:
        self.meter = _HeldMeter(self)

    @property
    def admitted(self) -> bool:
        admitted = self.live.admitted
        return admitted.done() and admitted.exception() is None

    async def until_end(self) -> Step:
        """Run the turn; its last step. Nothing but a foreign cancellation is raised."""
        try:
            last = await self._turn()
        except asyncio.CancelledError:
            if not self.interrupted:
                raise
            last = Cut(self.why, self.usage)
        except OssloError as error:
            last = Cut(error, self.usage)
        except Exception:
            _log.exception("a background response failed")
            last = Cut(EngineError("The server failed while running the response."), self.usage)
        self.live.ending = True
        return last

    def interrupt(self, why: OssloError | None) -> None:
        """Stop the turn: cancelled by its owner, or failed with `why`. Too late is no harm."""
        if self.task is not None and not (self.live.ending or self.interrupted):
            self.interrupted, self.why = True, why
            self.task.cancel()

    async def cut(self, why: OssloError | None) -> None:
        """`interrupt`, and wait until the end is kept."""
        self.interrupt(why)
        if self.task is not None:
            await asyncio.wait({self.task})

    async def take_place(self) -> None:
        if not self.has_place:
            await self.places.take(self.live.job.record.tenant)
            self.has_place = True

    def leave(self) -> None:
        if self.has_place:
            self.has_place = False
            self.places.give_back()

    def _ended(self, ended: TurnEnded) -> None:
        self.usage = ended.usage

    async def _turn(self) -> Step:
        wait_s = _FIRST_WAIT_S
        try:
            while True:
                last, full = await self._once()
                if last is not None:
                    return last
                if full is None or not self.admitted or isinstance(full, ShuttingDownError):
                    raise full or EngineError("The turn ended without an end.")
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        finally:
            self.meter.let_go()

    async def _once(self) -> tuple[Step | None, OverloadedError | None]:
        """One try: the turn's end, or why there was no room for it."""
        events = self.live.job.turns(self.meter, self._ended)
        try:
            async for _, event in events:
                if isinstance(event, TurnEnded):
                    return event, None
                self.live.publish(event)
                if isinstance(event, TurnStarted):
                    await _mark_running(self.live)
        except OverloadedError as error:
            return None, error
        finally:
            await events.aclose()
        return None, None


class _HeldMeter:
    """Opens a response's one charge, then waits for its place. The charge outlives a try that the
    engine has no room for. A `Meter` and, for whatever try runs, a `Charge`."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._charge: Charge | None = None
        self._refusal: OssloError | None = None

    async def open(
        self, bill: Bill, *, request_id: str, prompt_tokens: int, max_tokens: int
    ) -> Charge:
        live = self._run.live
        if self._charge is None:
            meter: Meter = live.job.meter
            self._charge = await meter.open(
                bill, request_id=request_id, prompt_tokens=prompt_tokens, max_tokens=max_tokens
            )
            if live.admitted.done():  # whoever asked went away
                raise ShuttingDownError("Nobody waits for this response.")
            live.admitted.set_result(None)
        await self._run.take_place()
        return _HeldCharge(self._charge, self)

    def settled(self) -> None:
        """The charge is closed."""
        self._charge = None

    def refused(self, error: OssloError) -> None:
        """The engine did not take a try."""
        self._refusal = error

    def let_go(self) -> None:
        """No more tries: release a charge that is still open."""
        if self._charge is not None:
            stopped = ShuttingDownError("The response ended before it began.", code="aborted")
            self._charge.release(self._refusal or stopped)
            self._charge = None


@dataclass(frozen=True, slots=True)
class _HeldCharge(ForwardedCharge):
    meter: _HeldMeter

    def settle(self, ended: TurnEnded) -> None:
        self.meter.settled()
        self.inner.settle(ended)

    def release(self, error: OssloError) -> None:
        self.meter.refused(error)


async def _mark_running(live: LiveResponse) -> None:
    """Let other processes know. It runs all the same where they cannot be told."""
    try:
        await live.job.store.mark_running(live.job.record.id, live.response())
    except (SQLAlchemyError, OSError) as error:
        _log.warning("a beginning was not kept", extra={"error": type(error).__name__})


async def _keep_end(live: LiveResponse, last: Step) -> None:
    """Keep how a response ended, then tell its followers. Where it was ended or deleted elsewhere,
    or the database stays away, that is what they are told."""
    record = await asyncio.to_thread(live.finished, last)
    store = live.job.store
    usage = last.usage if isinstance(last, Cut | TurnEnded) else None
    for wait_s in (*_KEEP_TRIES_S, None):
        try:
            live.end(last if await store.finish(record) else await _other_end(live, usage))
            return
        except (SQLAlchemyError, OSError) as error:
            _log.warning("an end was not kept", extra={"error": type(error).__name__})
            if wait_s is not None:
                await asyncio.sleep(wait_s)
    lost = "The response was made but could not be kept; the database failed."
    live.end(Cut(OssloError(lost), usage))


async def _other_end(live: LiveResponse, usage: Usage | None) -> Cut:
    """How a response ended that another process ended first."""
    record = live.job.record
    try:
        stored = await live.job.store.get(record.tenant, record.id)
    except NotFoundError:
        return Cut(usage=usage)
    error = stored.body.get("error")
    return Cut(OssloError(error["message"]) if error else None, usage)
