"""One request's state inside the engine: its tokens, its pages, and how far each has come.

    tokens      |<------- prompt ------->|<-- generated -->|
    computed    |xxxxxxxxxxxxxxx|                           K and V stand in pages
    pending                     |<------- length ---------->|  rows still to run

A sequence is sampled when nothing is pending any more. Forced tokens of a constraint are appended
unsampled and wait with the sampled one, so that they run in one step. After a preemption all
tokens wait again. Drafts stand in `tokens` behind `length` for one step; each that equals the token
then chosen for its place counts as computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from osslo.engine.adapters import Lease
from osslo.engine.constraint import Constraint
from osslo.engine.drafts import look_up
from osslo.engine.pages import pages_for
from osslo.engine.prefix_cache import PrefixNode, Scope
from osslo.engine.sampler import Sampler
from osslo.errors import OssloError
from osslo.model.forward import LoadedAdapter
from osslo.types import (
    FinishReason,
    GenerationRequest,
    Timings,
    TokenDelta,
    TokenId,
    TokenLogprob,
    Usage,
)

FIRST_DRAFTS = 2
"""Tokens guessed at first, and after a wrong guess."""

RowsSink = Callable[[int, NDArray[np.float32]], None]
"""Takes (first position, logits `[n, V]`) of a scored text."""


@dataclass(slots=True)
class Clocks:
    """Moments in seconds; negative until they happen."""

    accepted: float
    started: float = -1.0
    first_token: float = -1.0

    def timings(self, now: float) -> Timings:
        started = self.started if self.started >= 0 else now
        first = self.first_token if self.first_token >= 0 else now
        return Timings(
            queued_s=started - self.accepted, prefill_s=first - started, decode_s=now - first
        )


class Sequence:
    """Built by the caller's thread, then touched only by the engine's.

    `limit_tokens` is the length at which it ends with LENGTH. With a `rows_sink` the text is
    scored instead: every row's logits go to the sink, nothing is sampled or cached. `lease` is the
    adapter's, held until the sequence has ended.
    """

    def __init__(
        self,
        request: GenerationRequest,
        *,
        context_tokens: int,
        stop_ids: frozenset[TokenId],
        sampler: Sampler,
        constraint: Constraint | None = None,
        rows_sink: RowsSink | None = None,
        lease: Lease | None = None,
        accepted: float = 0.0,
    ) -> None:
        self.request = request
        self.request_id = request.request_id
        self.tenant = request.tenant
        self.lease = lease
        self.adapter: LoadedAdapter | None = None if lease is None else lease.adapter
        identity = None if self.adapter is None else self.adapter.identity
        self.scope: Scope = (request.tenant, identity)
        self.stop_ids = stop_ids
        self.sampler = sampler
        self.constraint = constraint
        self.rows_sink = rows_sink
        self.clocks = Clocks(accepted)
        self.arrival = -1

        prompt = len(request.prompt)
        self.prompt_tokens = prompt
        self.limit_tokens = min(prompt + request.sampling.max_tokens, context_tokens)
        self.tokens = np.empty(max(self.limit_tokens, prompt), dtype=np.int32)
        self.tokens[:prompt] = request.prompt
        self.length = prompt
        self.computed = 0
        self.prefill_target = prompt
        self.turn = 0  # place in the round of its tenant's prefills
        self.turn_tokens = 0  # prefilled in this turn
        self.draft_limit = FIRST_DRAFTS

        table = pages_for(len(self.tokens))
        self.full_pages = np.full(table, -1, dtype=np.int32)
        self.window_pages = np.full(table, -1, dtype=np.int32)
        self.page_count = 0  # pages [0, page_count) have been allocated
        self.window_first = 0  # window pages before this one have been given up
        self.settled_pages = 0  # complete pages that the prefix cache has seen
        self.cache_node: PrefixNode | None = None
        self.resume_points: tuple[int, ...] = (prompt,)
        self.cached_tokens = 0

        self.emitted = prompt  # tokens before this one have been sent
        self.logprobs: list[TokenLogprob] = []
        self.progress_tokens = 0
        self.forced_tokens = 0  # appended without being sampled
        self.scored_tokens = 1  # of the prompt: the first has nothing before it
        self.finish: FinishReason | None = None
        if rows_sink is None and not request.sampling.max_tokens:
            self.finish = FinishReason.LENGTH  # once the prompt is read

    @property
    def pending(self) -> int:
        return self.length - self.computed

    @property
    def is_prefilling(self) -> bool:
        return self.computed < self.prefill_target

    def draft(self, most: int) -> int:
        """Put up to `most` guessed tokens behind the text; returns how many."""
        most = min(most, self.draft_limit, self.limit_tokens - 1 - self.length)
        guess = look_up(self.tokens[: self.length], most)
        self.tokens[self.length : self.length + guess.size] = guess
        return int(guess.size)

    def learn(self, drafts: int, accepted: int) -> None:
        """Guess further after guesses that were right, and shorter after others."""
        if accepted < drafts:
            self.draft_limit = max(FIRST_DRAFTS, accepted + 1)
        else:
            self.draft_limit = max(self.draft_limit, 2 * drafts)

    @property
    def uses_cache(self) -> bool:
        return self.rows_sink is None and self.request.sampling.prompt_logprobs is None

    @property
    def wants_all_rows(self) -> bool:
        """Each row's logits are needed, not only the last one's."""
        if self.rows_sink is not None:
            return True
        scores = self.request.sampling.prompt_logprobs is not None
        return scores and self.scored_tokens < self.prompt_tokens

    def append(self, token: TokenId) -> bool:
        """Add a generated token; False if it ends the sequence (`finish` then says why)."""
        self.tokens[self.length] = token
        self.length += 1
        self.sampler.observe(token)
        if self.constraint is not None:
            self.constraint.advance(token)
        if token in self.stop_ids or (self.constraint is not None and self.constraint.finished):
            self.finish = FinishReason.STOP
        elif self.length >= self.limit_tokens:
            self.finish = FinishReason.LENGTH
        return self.finish is None

    def append_forced(self) -> None:
        """Append what the constraint leaves no choice about.

        Not where logprobs are wanted of all tokens: those need each token's own row first.
        """
        scored = self.request.sampling.logprobs is not None
        if self.constraint is None or (scored and self.request.sampling.score_forced):
            return
        before = self.length
        while self.finish is None and (forced := self.constraint.forced()):
            if not all(self.append(token) for token in forced):
                break
        self.forced_tokens += self.length - before
        if scored:
            skipped = self.tokens[before : self.length].tolist()
            self.logprobs += [TokenLogprob(token, 0.0) for token in skipped]

    def score_prompt(self, start: int, rows: NDArray[np.float32]) -> tuple[TokenLogprob, ...]:
        """Log-probabilities of the prompt's tokens that follow the positions from `start` on, whose
        logits are `rows` `[n, V]`; each token's once, also if a preemption repeats its row."""
        first, last = max(self.scored_tokens, start + 1), start + len(rows)
        end = min(last + 1, self.prompt_tokens)
        self.scored_tokens = max(self.scored_tokens, end)
        return tuple(
            self.sampler.prompt_logprob(rows[place - 1 - start], int(self.tokens[place]))
            for place in range(first, end)
        )

    def take_new_tokens(self) -> tuple[TokenId, ...]:
        """Generated tokens that have not been sent yet; they count as sent."""
        start, self.emitted = self.emitted, self.length
        return tuple(self.tokens[start : self.length].tolist())

    def take_logprobs(self) -> tuple[TokenLogprob, ...]:
        taken, self.logprobs = tuple(self.logprobs), []
        return taken

    def forget_pages(self) -> None:
        """Back to a state without pages, after they were released."""
        self.full_pages[: self.page_count] = -1
        self.window_pages[: self.page_count] = -1
        self.page_count = self.window_first = self.settled_pages = 0
        self.cache_node = None
        self.computed = 0

    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.length - self.prompt_tokens,
            cached_tokens=self.cached_tokens,
        )

    def terminal_delta(
        self, reason: FinishReason, now: float, error: OssloError | None = None
    ) -> TokenDelta:
        """The last event of the sequence, with whatever has not been sent yet."""
        self.finish = reason
        return TokenDelta(
            self.request_id,
            self.take_new_tokens(),
            self.take_logprobs(),
            finish_reason=reason,
            usage=self.usage(),
            timings=self.clocks.timings(now),
            error=error,
        )
