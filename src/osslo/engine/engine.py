"""The engine: a `Backend` over a `ForwardModel`, with one thread that does all the computing.

It owns that thread, the door (checks, overload, drain) and the way of events back to their readers.
The work itself is the `Runner`'s. Requests are checked and their grammars compiled before they are
accepted; from then on each ends in exactly one terminal `TokenDelta`.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from osslo.engine.adapters import AdapterPool, Lease
from osslo.engine.constraint import Constraint, ConstraintCompiler
from osslo.engine.delivery import AsyncMailbox, Mailbox, Parcel, ThreadMailbox, deliver
from osslo.engine.limits import EngineLimits
from osslo.engine.prefix_disk import DiskCounters, PrefixDisk
from osslo.engine.runner import Emission, Event, Runner
from osslo.engine.sampler import Sampler, Scratch, check_sampling
from osslo.engine.sequence import RowsSink, Sequence
from osslo.errors import (
    ContextLengthError,
    EngineError,
    OssloError,
    OverloadedError,
    RequestError,
    ShuttingDownError,
    UnsupportedError,
)
from osslo.model.forward import ForwardModel
from osslo.types import (
    BackendStats,
    FinishReason,
    GenerationRequest,
    Grammar,
    SamplingParams,
    TokenDelta,
    TokenId,
)

_FIRST_GUESS_S = 5.0  # duration of a request, before any has ended
_MAX_RETRY_AFTER_S = 60.0
_LAST_PAGES_S = 5.0  # for pages on their way to disk when the engine is closed
_SHORT_PROMPT_TOKENS = 4096  # checked and copied in well under a millisecond


@dataclass(frozen=True, slots=True)
class _Job:
    sequence: Sequence
    mailbox: Mailbox


class Engine:
    """Continuous batching over one model. Thread-safe; the thread starts with the engine.

    `constraints` is needed for requests that carry a grammar, `adapters` for those that name one.
    `disk` keeps prefixes over restarts; the engine closes it. `clock` gives seconds for timings.
    Close it with `await close()` or `close_blocking()`; as a context manager it closes itself.
    """

    def __init__(
        self,
        model: ForwardModel,
        limits: EngineLimits,
        *,
        constraints: ConstraintCompiler | None = None,
        adapters: AdapterPool | None = None,
        disk: PrefixDisk | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._context_tokens = limits.usable_context(model)
        self._model = model
        self._limits = limits
        self._constraints = constraints
        self._adapters = adapters
        self._clock = clock
        self._disk = disk
        self._runner = Runner(model, limits, clock=clock, disk=disk)
        self._scratch = Scratch()  # touched by the engine's thread only
        self._eos_ids = frozenset(limits.eos_token_ids)
        self._changed = threading.Condition()  # guards everything below
        self._jobs: dict[str, _Job] = {}
        self._per_tenant: Counter[str] = Counter()
        self._arrived: list[Sequence] = []
        self._to_abort: set[str] = set()
        self._draining = False
        self._closing = False
        self._broken: EngineError | None = None
        self._request_s = _FIRST_GUESS_S
        if disk is not None:
            disk.on_room(self._wake)
        self._thread = threading.Thread(target=self._work, name="osslo-engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_blocking()

    @property
    def max_context_tokens(self) -> int:
        return self._context_tokens

    @property
    def ready(self) -> bool:
        return not (self._draining or self._broken)

    # --- generating ------------------------------------------------------------------------------

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Event]:
        """See `Backend.generate`. Grammars, long prompts and adapters that are not loaded yet are
        prepared off the loop."""
        if self._is_prepared_at_once(request):
            sequence = self._prepare(request)
        else:
            sequence = await self._prepare_aside(request)
        mailbox = AsyncMailbox()
        self._accept(sequence, mailbox)
        ended = False
        try:
            while not ended:
                event = await mailbox.get()
                ended = _is_terminal(event)
                yield event
        finally:
            if not ended:
                self._abort_sequence(sequence)

    def generate_blocking(self, request: GenerationRequest) -> Iterator[Event]:
        """The same for scripts and tests without an event loop; closing it aborts, too. Like any
        generator it does nothing until the first event is asked for."""
        sequence = self._prepare(request)
        mailbox = ThreadMailbox()
        self._accept(sequence, mailbox)
        ended = False
        try:
            while not ended:
                event = mailbox.get()
                ended = _is_terminal(event)
                yield event
        finally:
            if not ended:
                self._abort_sequence(sequence)

    def score(self, ids: Items[TokenId]) -> NDArray[np.float32]:
        """Logits `[T, V]` float32 of every position of a text, by the same forward and scheduler
        that serve, without the prefix cache. Blocks.

        Raises RequestError, ContextLengthError, OverloadedError, or what ended the run.
        """
        name = f"score-{secrets.token_hex(8)}"
        request = GenerationRequest(name, tuple(ids), SamplingParams(max_tokens=1))
        self._check_tokens(request.prompt, room=0)
        logits = np.empty((len(request.prompt), self._model.vocab_size), dtype=np.float32)

        def take(start: int, rows: NDArray[np.float32]) -> None:
            logits[start : start + len(rows)] = rows

        mailbox = ThreadMailbox()
        sequence = self._sequence(request, rows_sink=take)
        self._accept(sequence, mailbox)
        try:
            event = mailbox.get()  # the only one: a scored text has no tokens and no progress
        except BaseException:
            self._abort_sequence(sequence)
            raise
        if isinstance(event, TokenDelta) and event.error is not None:
            raise event.error
        if sequence.finish is FinishReason.ABORT:
            raise ShuttingDownError("the engine closed before the text was scored")
        return logits

    def abort(self, request_id: str) -> None:
        """See `Backend.abort`."""
        with self._changed:
            if request_id in self._jobs:
                self._to_abort.add(request_id)
                self._changed.notify_all()

    def _abort_sequence(self, sequence: Sequence) -> None:
        """Abort this very sequence, not a later one that carries the same id."""
        with self._changed:
            job = self._jobs.get(sequence.request_id)
            if job is not None and job.sequence is sequence:
                self._to_abort.add(sequence.request_id)
                self._changed.notify_all()

    # --- the door --------------------------------------------------------------------------------

    def _prepare(self, request: GenerationRequest) -> Sequence:
        """Check a request and build its sequence. Raises RequestError or a child of it."""
        check_sampling(request.sampling, self._model.vocab_size)
        self._check_tokens(request.prompt, room=min(1, request.sampling.max_tokens))
        constraint = self._constraint(request.grammar)
        lease = self._lease(request)
        try:
            sequence = self._sequence(request, constraint, lease=lease)
            sequence.append_forced()
        except BaseException:
            self._release(lease)
            raise
        return sequence

    def _is_prepared_at_once(self, request: GenerationRequest) -> bool:
        if request.grammar is not None or len(request.prompt) > _SHORT_PROMPT_TOKENS:
            return False
        adapters = self._adapters
        return request.adapter is None or adapters is None or adapters.is_loaded(request.adapter)

    async def _prepare_aside(self, request: GenerationRequest) -> Sequence:
        """Prepare in another thread. If the caller goes away meanwhile, what was leased is given
        back as soon as that thread is done."""
        preparing = asyncio.ensure_future(asyncio.to_thread(self._prepare, request))
        try:
            return await asyncio.shield(preparing)
        except asyncio.CancelledError:
            preparing.add_done_callback(self._give_back)
            raise

    def _give_back(self, prepared: asyncio.Future[Sequence]) -> None:
        if not prepared.cancelled() and prepared.exception() is None:
            self._release(prepared.result().lease)

    def _lease(self, request: GenerationRequest) -> Lease | None:
        if request.adapter is None:
            return None
        if self._adapters is None:
            raise UnsupportedError(
                f"this engine serves no adapters, so not {request.adapter!r}; leave it out",
                param="adapter",
            )
        with self._changed:
            self._check_capacity(request)  # nothing is loaded for a request that is not let in
        return self._adapters.acquire(request.adapter)

    def _release(self, lease: Lease | None) -> None:
        if lease is not None and self._adapters is not None:
            self._adapters.release(lease)

    def _check_tokens(self, prompt: tuple[TokenId, ...], *, room: int) -> None:
        if not prompt:
            raise RequestError("the prompt is empty; send at least one token", param="prompt")
        if len(prompt) + room > self._context_tokens:
            raise ContextLengthError(
                f"the prompt has {len(prompt)} tokens, but the context holds "
                f"{self._context_tokens} tokens of prompt and answer together; shorten the prompt",
                param="prompt",
            )
        vocab_size = self._model.vocab_size
        if min(prompt) < 0 or max(prompt) >= vocab_size:
            raise RequestError(
                f"prompt token ids must be between 0 and {vocab_size - 1}", param="prompt"
            )

    def _constraint(self, grammar: Grammar | None) -> Constraint | None:
        if grammar is None:
            return None
        if self._constraints is None:
            raise UnsupportedError(
                "this engine was built without a tokenizer and cannot enforce a grammar",
                param="grammar",
            )
        constraint = self._constraints.compile(grammar)
        constraint.read(grammar.read)
        return constraint

    def _sequence(
        self,
        request: GenerationRequest,
        constraint: Constraint | None = None,
        rows_sink: RowsSink | None = None,
        lease: Lease | None = None,
    ) -> Sequence:
        params = request.sampling
        seed = secrets.randbits(64) if params.seed is None else params.seed
        eos_ids = frozenset[TokenId]() if params.ignore_eos else self._eos_ids
        return Sequence(
            request,
            context_tokens=self._context_tokens,
            stop_ids=eos_ids | frozenset(params.stop_token_ids),
            sampler=Sampler(params, request.prompt, seed, self._scratch),
            constraint=constraint,
            rows_sink=rows_sink,
            lease=lease,
            accepted=self._clock(),
        )

    def _accept(self, sequence: Sequence, mailbox: Mailbox) -> None:
        """Queue a prepared sequence; from here on it gets its terminal event."""
        with self._changed:
            try:
                self._check_capacity(sequence.request)
            except OssloError:
                self._release(sequence.lease)
                raise
            self._jobs[sequence.request_id] = _Job(sequence, mailbox)
            self._per_tenant[sequence.tenant] += 1
            self._arrived.append(sequence)
            self._changed.notify_all()

    def _check_capacity(self, request: GenerationRequest) -> None:
        if self._broken is not None:
            raise EngineError(f"the engine has stopped: {self._broken.message}")
        if self._draining:
            raise ShuttingDownError("the server is shutting down; send the request again later")
        if request.request_id in self._jobs:
            raise RequestError(f"a request with the id {request.request_id!r} is already running")
        limits = self._limits
        if self._full:
            raise OverloadedError(
                f"{len(self._jobs)} requests are running or waiting, which is the limit; "
                "try again later",
                retry_after_s=self._retry_after_s(),
            )
        mine = self._per_tenant[request.tenant]
        if limits.max_per_tenant is not None and mine >= limits.max_per_tenant:
            raise OverloadedError(
                f"{mine} requests of yours are running or waiting, which is the limit; "
                "try again when one has ended",
                retry_after_s=self._retry_after_s(),
            )

    @property
    def _full(self) -> bool:
        return len(self._jobs) >= self._limits.max_running + self._limits.max_waiting

    def _retry_after_s(self) -> float:
        """When about one place in the queue should be free: places turn over `max_running` at a
        time, each in the mean time of a request."""
        wait = self._request_s / self._limits.max_running
        return float(min(_MAX_RETRY_AFTER_S, max(1.0, round(wait))))

    # --- the thread ------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while self._wait_for_work():
                if self._runner.has_work:
                    self._publish(self._runner.step())
                if self._runner.broken is not None:
                    raise self._runner.broken
                self._runner.keep_some()
            self._keep_the_rest()
        except Exception as error:
            self._break_down(error)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _keep_the_rest(self) -> None:
        """At the end: what still waits to be kept on disk, as far as the time goes."""
        spill, deadline = self._runner.memory.spill, time.monotonic() + _LAST_PAGES_S
        while spill is not None and not spill.is_empty:
            with self._changed:
                left = deadline - time.monotonic()
                if not self._changed.wait_for(lambda: self._runner.has_pages_to_keep, left):
                    return
            self._runner.keep_some()

    def _wait_for_work(self) -> bool:
        """Take in what arrived and what is to be aborted. False when the engine is closed."""
        runner = self._runner
        with self._changed:
            while not (
                runner.has_work
                or self._arrived
                or self._to_abort
                or self._closing
                or runner.has_pages_to_keep
            ):
                self._changed.wait()
            arrived, self._arrived = self._arrived, []
            aborted = [self._jobs[i].sequence for i in self._to_abort if i in self._jobs]
            self._to_abort = set()
        for sequence in arrived:
            self._runner.add(sequence)
        if aborted:
            self._publish([self._runner.abort(sequence) for sequence in aborted])
        return self._runner.has_work or not self._closing

    def _publish(self, emissions: list[Emission]) -> None:
        parcels: list[Parcel] = []
        ended: list[Emission] = []
        for emission in emissions:
            sequence, event = emission
            parcels.append((self._jobs[sequence.request_id].mailbox, event))
            if _is_terminal(event):
                ended.append(emission)
        if ended:
            with self._changed:
                for sequence, _ in ended:
                    self._forget(sequence)
                self._changed.notify_all()
        deliver(parcels)

    def _forget(self, sequence: Sequence) -> None:
        del self._jobs[sequence.request_id]
        self._release(sequence.lease)
        self._to_abort.discard(sequence.request_id)
        self._per_tenant[sequence.tenant] -= 1
        if not self._per_tenant[sequence.tenant]:
            del self._per_tenant[sequence.tenant]
        taken = self._clock() - sequence.clocks.accepted
        self._request_s += 0.1 * (taken - self._request_s)

    def _break_down(self, error: Exception) -> None:
        """The thread cannot go on: everybody gets an ERROR, and nobody is let in any more.

        Asks nothing of the runner, whose state may be what broke.
        """
        failure = error
        if not isinstance(failure, EngineError):
            failure = EngineError(f"the engine broke down: {type(error).__name__}: {error}")
            failure.__cause__ = error
        with self._changed:
            self._broken = failure
            left = [job.sequence for job in self._jobs.values()]
        now = self._clock()
        self._publish([(s, s.terminal_delta(FinishReason.ERROR, now, failure)) for s in left])

    # --- stats and the end -----------------------------------------------------------------------

    def stats(self) -> BackendStats:
        """See `Backend.stats`. Pages of both kinds together; `extra` has them apart."""
        memory, counters = self._runner.memory, self._runner.counters
        kept = self._disk.counters if self._disk is not None else DiskCounters()
        running = len(self._runner.scheduler.running)
        loaded, adapter_bytes = self._adapters.totals() if self._adapters is not None else (0, 0)
        return BackendStats(
            running=running,
            waiting=max(0, len(self._jobs) - running),
            max_waiting=self._limits.max_waiting,
            pages_used=memory.full.held_count + memory.window.held_count,
            pages_total=memory.full.capacity + memory.window.capacity,
            prefix_hits_tokens=counters.cached_tokens,
            prompt_tokens=counters.prompt_tokens,
            generated_tokens=counters.generated_tokens,
            forced_tokens=counters.forced_tokens,
            full_for_s=self._retry_after_s() if self._full else None,
            extra={
                "full_pages_used": memory.full.held_count,
                "full_pages_cached": memory.full.idle_count,
                "window_pages_used": memory.window.held_count,
                "window_pages_cached": memory.window.idle_count,
                "preemptions": self._runner.scheduler.preemptions,
                "steps": counters.steps,
                "rows": counters.rows,
                "draft_tokens": counters.draft_tokens,
                "accepted_tokens": counters.accepted_tokens,
                "disk_pages_read": kept.read_pages,
                "disk_pages_written": kept.written_pages,
                "disk_files_evicted": kept.evicted_files,
                "disk_files_damaged": kept.damaged_files,
                "disk_writes_failed": kept.failed_writes,
                "adapters_loaded": loaded,
                "adapter_bytes": adapter_bytes,
            },
        )

    async def drain(self, timeout_s: float) -> None:
        """See `Backend.drain`. Waiting requests count as running: they were accepted."""
        await asyncio.to_thread(self.drain_blocking, timeout_s)

    async def close(self) -> None:
        """Abort what is left and end the thread."""
        await asyncio.to_thread(self.close_blocking)

    def drain_blocking(self, timeout_s: float) -> None:
        with self._changed:
            self._draining = True
            if self._changed.wait_for(lambda: not self._jobs, timeout_s):
                return
            self._to_abort.update(self._jobs)
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._jobs or self._broken is not None)

    def close_blocking(self) -> None:
        self.drain_blocking(0.0)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if self._disk is not None:
            self._disk.close()


def _is_terminal(event: Event) -> bool:
    return isinstance(event, TokenDelta) and event.finish_reason is not None
