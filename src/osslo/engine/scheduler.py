"""The scheduler: who runs in the next step, and with how many rows.

It owns the waiting queues and the running list. Every step serves all decoding sequences first,
then gives what is left of the row budget to prefills: fair between tenants by service received
(`fairness`), in rounds within a tenant, so that neither a crowd of requests nor one long prompt
keeps others out. When pages run out, the youngest running sequence is preempted: it gives its pages
back and waits at the head of its queue, to be computed again (or found in the prefix cache). The
oldest one is never preempted for others, so something always gets done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import count

import numpy as np

from osslo.engine.batch import Chunk
from osslo.engine.drafts import Pace
from osslo.engine.fairness import TenantClock
from osslo.engine.kv_memory import KvMemory
from osslo.engine.limits import EngineLimits
from osslo.engine.sequence import Sequence
from osslo.model.forward import PAGE_TOKENS

SCORED_ROWS = 64
"""Rows of a scored text in one step: each brings a row of logits (0.8 MB at 201,088 tokens)."""


class Scheduler:
    """Waiting and running sequences over one `KvMemory`."""

    def __init__(self, memory: KvMemory, limits: EngineLimits) -> None:
        self.running: list[Sequence] = []  # by arrival, oldest first
        self.preemptions = 0
        self.pace = Pace()
        self._memory = memory
        self._limits = limits
        self._waiting: dict[str, deque[Sequence]] = {}
        self._clock = TenantClock()
        self._turns = count(1)
        self._stuck: tuple[Sequence, int] | None = None

    @property
    def has_work(self) -> bool:
        return bool(self.running or self._waiting)

    def sequences(self) -> Iterator[Sequence]:
        """All that are alive, running first."""
        yield from self.running
        for queue in self._waiting.values():
            yield from queue

    def add(self, seq: Sequence) -> None:
        """Queue a new sequence; `seq.arrival` tells its age."""
        self._clock.enter(seq.tenant)
        self._waiting.setdefault(seq.tenant, deque()).append(seq)

    def remove(self, seq: Sequence, *, publish: bool) -> None:
        """Forget a sequence that ended, wherever it stands; the cache may keep its pages."""
        if seq in self.running:
            self.running.remove(seq)
            self._memory.release(seq, publish=publish)
        else:
            self._take_waiting(seq)
        self._clock.leave(seq.tenant)

    def schedule(self) -> list[Chunk]:
        """Admit what fits, make room, and choose the rows of the next step."""
        self._admit()
        budget = self._limits.step_tokens
        chunks: list[Chunk] = []
        decoding = [seq for seq in self.running if not seq.is_prefilling]
        guesses = self._limits.draft_tokens if self._may_draft(decoding) else 0
        for place, seq in enumerate(decoding):
            if not seq.page_count:  # preempted by an older one in this very loop
                continue
            wanted = min(seq.pending, budget - (len(decoding) - place - 1))
            rows = self._grow(seq, wanted)
            if rows:
                room = budget - rows - (len(decoding) - place - 1)
                drafts = self._draft(seq, rows, min(room, guesses))
                chunks.append(Chunk(seq, rows + drafts, drafts))
                budget, guesses = budget - rows - drafts, guesses - drafts
                self.charge(seq, rows)
        if chunks:
            budget = min(budget, self._limits.mixed_prefill_tokens)
        chunks += self._prefills(budget)
        return chunks or self._force_prefill()

    def charge(self, seq: Sequence, output_tokens: int) -> None:
        """A sequence was served so many tokens of its answer."""
        self._clock.charge(seq.tenant, output_tokens=output_tokens)

    def _may_draft(self, decoding: list[Sequence]) -> bool:
        """Drafts are for steps that only decode, where guessing has been paying."""
        if not self._limits.draft_tokens or len(decoding) < len(self.running):
            return False
        return bool(decoding) and self.pace.wants_drafts(len(decoding))

    def _draft(self, seq: Sequence, rows: int, most: int) -> int:
        """Up to `most` guesses for a sequence, as far as the pages reach that it has anyway."""
        slots = seq.page_count * PAGE_TOKENS - seq.computed - rows
        most = min(most, slots)
        return seq.draft(most) if most > 0 and rows == seq.pending else 0

    # --- admission -------------------------------------------------------------------------------

    def _admit(self) -> None:
        passed_over: set[str] = set()
        while self._waiting and len(self.running) < self._limits.max_running:
            tenant = self._clock.neediest(t for t in self._waiting if t not in passed_over)
            if tenant is None:
                return
            seq = self._waiting[tenant][0]
            if self._stuck == (seq, self._memory.releases):
                return
            if self._is_being_computed(seq):
                passed_over.add(tenant)
                continue
            if not self._memory.attach_prefix(seq, self.running):
                self._stuck = (seq, self._memory.releases)
                return
            self._take_waiting(seq)
            self._start(seq)

    def _start(self, seq: Sequence) -> None:
        if seq.clocks.started < 0:
            seq.cached_tokens = min(seq.computed, seq.prompt_tokens)
        seq.prefill_target = seq.length
        seq.turn, seq.turn_tokens = next(self._turns), 0
        self.running.append(seq)
        self.running.sort(key=lambda s: s.arrival)

    def _is_being_computed(self, seq: Sequence) -> bool:
        """Whether a running prefill computes the same beginning: then waiting for it is cheaper."""
        if not (self._limits.prefix_cache and seq.uses_cache):
            return False
        for other in self.running:
            if not (other.is_prefilling and other.uses_cache and other.scope == seq.scope):
                continue
            size = min(seq.length - 1, other.length)
            differing = np.flatnonzero(seq.tokens[:size] != other.tokens[:size])
            common = int(differing[0]) if differing.size else size
            ahead = min(common, other.prefill_target) // PAGE_TOKENS * PAGE_TOKENS
            if ahead > other.computed and ahead > self._memory.cached_tokens(seq):
                return True
        return False

    def _take_waiting(self, seq: Sequence) -> None:
        queue = self._waiting[seq.tenant]
        queue.remove(seq)
        if not queue:
            del self._waiting[seq.tenant]

    # --- rows ------------------------------------------------------------------------------------

    def _prefills(self, budget: int) -> list[Chunk]:
        """Chunks of prefills: the tenant served least first, in turns within a tenant."""
        waiting = [seq for seq in self.running if seq.is_prefilling]
        waiting.sort(key=lambda seq: (self._clock.served(seq.tenant), seq.turn))
        chunks = []
        for seq in waiting:
            wanted = min(seq.pending, budget, self._limits.prefill_turn_tokens)
            if seq.wants_all_rows:
                wanted = min(wanted, SCORED_ROWS)
            rows = self._memory.grow(seq, wanted) if wanted else 0
            if rows:
                chunks.append(self._prefill_chunk(seq, rows))
                budget -= rows
        return chunks

    def _prefill_chunk(self, seq: Sequence, rows: int) -> Chunk:
        self._clock.charge(seq.tenant, input_tokens=rows)
        seq.turn_tokens += rows
        if seq.turn_tokens >= self._limits.prefill_turn_tokens:
            seq.turn, seq.turn_tokens = next(self._turns), 0
        return Chunk(seq, rows)

    def _force_prefill(self) -> list[Chunk]:
        """All prefills are short of pages: the oldest goes on at the cost of the youngest."""
        if not self.running:
            return []
        seq = self.running[0]
        rows = self._grow(seq, min(seq.pending, PAGE_TOKENS))
        return [self._prefill_chunk(seq, rows)] if rows else []

    def _grow(self, seq: Sequence, wanted: int) -> int:
        """Room for up to `wanted` rows, preempting the youngest until there is some. 0 if `seq`
        itself was the youngest."""
        while not (rows := self._memory.grow(seq, wanted)):
            victim = self.running[-1]
            self._preempt(victim)
            if victim is seq:
                return 0
        return rows

    def _preempt(self, seq: Sequence) -> None:
        self.running.remove(seq)
        self._memory.release(seq, publish=True)
        self._waiting.setdefault(seq.tenant, deque()).appendleft(seq)
        self.preemptions += 1
