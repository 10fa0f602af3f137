"""The step: schedule, run, sample, publish. No threads here; `engine` owns the one that steps.

The runner owns scheduler, KV memory and the model's forward. It answers every step with the events
that came out of it and makes sure that each sequence ends in exactly one terminal `TokenDelta`,
whatever failed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from osslo.engine.batch import Chunk, build_batch
from osslo.engine.kv_memory import KvMemory
from osslo.engine.limits import EngineLimits
from osslo.engine.prefix_disk import PrefixDisk
from osslo.engine.scheduler import Scheduler
from osslo.engine.sequence import RowsSink, Sequence
from osslo.errors import EngineError, OssloError
from osslo.model.forward import ForwardInput, ForwardModel
from osslo.types import FinishReason, PrefillProgress, TokenDelta

Event = TokenDelta | PrefillProgress
Emission = tuple[Sequence, Event]

MAX_FAILED_STEPS = 3
"""Forward steps that may fail in a row before the engine gives up on its model."""

MAX_EMPTY_STEPS = 100
"""Steps without a row although there is work: more than any preemption explains."""


@dataclass(slots=True)
class Counters:
    """Totals since the start, for `stats`."""

    steps: int = 0
    rows: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    forced_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0


class Runner:
    """Runs sequences over one model, one step at a time."""

    def __init__(
        self,
        model: ForwardModel,
        limits: EngineLimits,
        *,
        clock: Callable[[], float],
        disk: PrefixDisk | None = None,
    ) -> None:
        self.memory = KvMemory(
            model,
            full_pages=limits.full_pages,
            window_pages=limits.window_pages,
            prefix_cache=limits.prefix_cache,
            disk=disk,
        )
        self.scheduler = Scheduler(self.memory, limits)
        self.counters = Counters()
        self.broken: EngineError | None = None
        self._model = model
        self._clock = clock
        self._arrivals = count()
        self._failed_steps = 0
        self._empty_steps = 0

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    @property
    def has_pages_to_keep(self) -> bool:
        """Whether `keep_some` would do anything."""
        return self.memory.spill is not None and self.memory.spill.is_due

    def keep_some(self) -> None:
        """Copy a few pages of texts that ended, for the disk; a few milliseconds."""
        if self.memory.spill is not None:
            self.memory.spill.copy_some()

    def add(self, seq: Sequence) -> None:
        """Queue a sequence; it begins with the next step that has room for it."""
        seq.arrival = next(self._arrivals)
        self.scheduler.add(seq)

    def abort(self, seq: Sequence) -> Emission:
        """End a living sequence with ABORT; its pages are free when this returns."""
        return self._end(seq, FinishReason.ABORT)

    def step(self) -> list[Emission]:
        """One forward over everything that is due. Never raises for what the model does.

        A forward that fails ends all running sequences with ERROR; waiting ones are tried next.
        After `MAX_FAILED_STEPS` in a row `broken` is set.
        """
        chunks = self.scheduler.schedule()
        if not chunks:
            return self._empty_step()
        self._empty_steps = 0
        now = self._clock()
        for chunk in chunks:
            if chunk.sequence.clocks.started < 0:
                chunk.sequence.clocks.started = now
        try:
            logits = self._run(build_batch(chunks))
        except Exception as error:
            return self._failed_step(error)
        self._failed_steps = 0
        decoding = all(not chunk.sequence.is_prefilling for chunk in chunks)
        accepted = self.counters.accepted_tokens
        emissions = self._advance(chunks, logits)
        if decoding:
            self.scheduler.pace.note(
                len(chunks),
                drafted=any(chunk.drafts for chunk in chunks),
                tokens=len(chunks) + self.counters.accepted_tokens - accepted,
                seconds=self._clock() - now,
            )
        return emissions

    def check_integrity(self) -> None:
        """Page conservation over all living sequences; raises EngineError."""
        self.memory.check_integrity(self.scheduler.sequences())

    # --- run -------------------------------------------------------------------------------------

    def _run(self, batch: ForwardInput) -> NDArray[np.float32]:
        self.counters.steps += 1
        self.counters.rows += len(batch.token_ids)
        logits = self._model.forward(self.memory.kv, batch)
        expected = (len(batch.logit_rows), self._model.vocab_size)
        if logits.shape != expected:
            raise EngineError(f"the model gave logits of shape {logits.shape}, not {expected}")
        return logits

    def _failed_step(self, error: Exception) -> list[Emission]:
        self._failed_steps += 1
        failure = EngineError(f"the model failed in a forward step: {_describe(error)}")
        failure.__cause__ = error
        if self._failed_steps >= MAX_FAILED_STEPS:
            self.broken = failure
        return [self._fail(seq, failure) for seq in list(self.scheduler.running)]

    def _empty_step(self) -> list[Emission]:
        self._empty_steps += 1
        if self.has_work and self._empty_steps > MAX_EMPTY_STEPS:
            self.broken = EngineError("the scheduler found nothing to run although work is waiting")
        return []

    # --- sample and publish ----------------------------------------------------------------------

    def _advance(self, chunks: list[Chunk], logits: NDArray[np.float32]) -> list[Emission]:
        emissions: list[Emission] = []
        row = 0
        for chunk in chunks:
            seq, was_prefilling = chunk.sequence, chunk.sequence.is_prefilling
            own, row = logits[row : row + chunk.logit_count], row + chunk.logit_count
            seq.computed += chunk.rows - chunk.drafts
            self.memory.settle(seq)
            if seq.rows_sink is not None:
                emissions += self._hand_rows(seq, seq.rows_sink, own)
                continue
            if seq.wants_all_rows:
                emissions += self._score_prompt(seq, own)
            if was_prefilling:
                emissions += self._progress(seq)
            if not seq.pending:
                emissions.append(self._sample(seq, own[-1 - chunk.drafts :]))
        return emissions

    def _score_prompt(self, seq: Sequence, rows: NDArray[np.float32]) -> list[Emission]:
        logprobs = seq.score_prompt(seq.computed - len(rows), rows)
        return [(seq, TokenDelta(seq.request_id, prompt_logprobs=logprobs))] if logprobs else []

    def _hand_rows(
        self, seq: Sequence, sink: RowsSink, rows: NDArray[np.float32]
    ) -> list[Emission]:
        sink(seq.computed - len(rows), rows)
        return [] if seq.pending else [self._end(seq, FinishReason.STOP)]

    def _progress(self, seq: Sequence) -> list[Emission]:
        done = min(seq.computed, seq.prompt_tokens)
        if done <= seq.progress_tokens:
            return []
        seq.progress_tokens = done
        cached = seq.cached_tokens
        return [(seq, PrefillProgress(seq.request_id, done, seq.prompt_tokens, cached))]

    def _sample(self, seq: Sequence, rows: NDArray[np.float32]) -> Emission:
        """Choose the next token from the first of `rows`, and one from each further row whose draft
        was the token chosen before it."""
        drafts = len(rows) - 1
        guesses = seq.tokens[seq.length : seq.length + drafts].tolist()
        accepted = 0
        try:
            while seq.finish is None:  # a constraint may have forced all there is to say
                place = seq.length
                choice = seq.sampler.choose(rows[accepted], place, seq.constraint)
                if choice.logprob is not None:
                    seq.logprobs.append(choice.logprob)
                seq.append(choice.token)
                seq.append_forced()
                right = accepted < drafts and choice.token == guesses[accepted]
                if not right or seq.length > place + 1 or seq.finish is not None:
                    break
                accepted += 1
                seq.computed += 1
        except OssloError as error:
            return self._fail(seq, error)
        except Exception as error:
            failure = EngineError(f"sampling failed: {_describe(error)}")
            failure.__cause__ = error
            return self._fail(seq, failure)
        if drafts:
            self._note_drafts(seq, drafts, accepted)
        if seq.clocks.first_token < 0:
            seq.clocks.first_token = self._clock()
        if seq.finish is not None:
            return self._end(seq, seq.finish)
        tokens = seq.take_new_tokens()
        return seq, TokenDelta(seq.request_id, tokens, seq.take_logprobs())

    def _note_drafts(self, seq: Sequence, drafts: int, accepted: int) -> None:
        seq.learn(drafts, accepted)
        self.scheduler.charge(seq, accepted)
        self.counters.draft_tokens += drafts
        self.counters.accepted_tokens += accepted

    # --- ends ------------------------------------------------------------------------------------

    def _fail(self, seq: Sequence, error: OssloError) -> Emission:
        return self._end(seq, FinishReason.ERROR, error)

    def _end(
        self, seq: Sequence, reason: FinishReason, error: OssloError | None = None
    ) -> Emission:
        """The only place where a sequence ends."""
        self.scheduler.remove(seq, publish=error is None)
        usage = seq.usage()
        self.counters.prompt_tokens += usage.prompt_tokens
        self.counters.cached_tokens += usage.cached_tokens
        self.counters.generated_tokens += usage.completion_tokens
        self.counters.forced_tokens += seq.forced_tokens
        return seq, seq.terminal_delta(reason, self._clock(), error)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
