"""Page pools: which KV page is free, held by sequences, or kept by the prefix cache.

A pool counts; it does not know what stands in a page (`kv_memory`) nor why one is kept
(`prefix_cache`). Each page is in exactly one of three states:

    free     no holder, not kept          -> `take` hands it out
    held     one or more sequences use it (kept or not)
    idle     no holder, kept              -> evictable: `forget` frees it
"""

from __future__ import annotations

from collections import Counter

from osslo.errors import EngineError
from osslo.model.forward import PAGE_TOKENS, PageKind


def pages_for(tokens: int) -> int:
    """Pages that hold `tokens` positions."""
    return -(-tokens // PAGE_TOKENS)


def window_span_pages(window_tokens: int) -> int:
    """Most pages that one decoding sequence needs for a window of `window_tokens` positions.

    The page being written, and those that hold the `window_tokens - 1` positions before it. Pages
    are given up only when a page is complete, so that this bound holds at any alignment.
    """
    return 0 if window_tokens == 0 else pages_for(window_tokens - 1) + 1


class PagePool:
    """The pages of one kind, with the number of sequences that hold each."""

    def __init__(self, kind: PageKind, capacity: int) -> None:
        self.kind = kind
        self.capacity = capacity
        self._free = list(range(capacity - 1, -1, -1))
        self._holders = [0] * capacity
        self._kept = bytearray(capacity)
        self._idle_count = 0

    @property
    def free_count(self) -> int:
        return len(self._free)

    @property
    def idle_count(self) -> int:
        return self._idle_count

    @property
    def available_count(self) -> int:
        """Pages that a sequence can still get: free ones, and idle ones after eviction."""
        return len(self._free) + self._idle_count

    @property
    def held_count(self) -> int:
        return self.capacity - len(self._free) - self._idle_count

    def take(self) -> int | None:
        """A free page with one holder, or None when only eviction could free one."""
        if not self._free:
            return None
        page = self._free.pop()
        self._holders[page] = 1
        return page

    def share(self, page: int) -> None:
        """One more holder of a held or idle page."""
        if self._holders[page] == 0:
            if not self._kept[page]:
                raise EngineError(f"{self.kind} page {page} is free and cannot be shared")
            self._idle_count -= 1
        self._holders[page] += 1

    def drop(self, page: int) -> bool:
        """One holder less. True if the page became idle; without a keeper it is freed."""
        if self._holders[page] == 0:
            raise EngineError(f"{self.kind} page {page} has no holder to drop")
        self._holders[page] -= 1
        if self._holders[page]:
            return False
        if self._kept[page]:
            self._idle_count += 1
            return True
        self._free.append(page)
        return False

    def keep(self, page: int) -> None:
        """The prefix cache takes an interest in a held page."""
        if self._holders[page] == 0 or self._kept[page]:
            raise EngineError(f"{self.kind} page {page} is free or already kept")
        self._kept[page] = 1

    def forget(self, page: int) -> None:
        """The prefix cache lets go of a page; an idle one becomes free."""
        if not self._kept[page]:
            raise EngineError(f"{self.kind} page {page} is not kept")
        self._kept[page] = 0
        if self._holders[page] == 0:
            self._idle_count -= 1
            self._free.append(page)

    def is_idle(self, page: int) -> bool:
        return self._holders[page] == 0 and bool(self._kept[page])

    def is_shared(self, page: int) -> bool:
        """Whether anybody but one holder could read the page."""
        return self._holders[page] > 1 or bool(self._kept[page])

    def check(self, held: Counter[int], kept: Counter[int]) -> None:
        """Page conservation: compare with what sequences hold and the cache keeps.

        Raises EngineError naming the first page that disagrees.
        """
        free = Counter(self._free)
        for page in range(self.capacity):
            state = (self._holders[page], int(self._kept[page]))
            owners = (held[page], kept[page])
            if state != owners:
                raise EngineError(
                    f"{self.kind} page {page}: the pool says (holders, kept) {state}, "
                    f"its owners say {owners}"
                )
            if free[page] != (state == (0, 0)):
                raise EngineError(f"{self.kind} page {page}: the free list is wrong")
        idle = sum(1 for page in range(self.capacity) if self.is_idle(page))
        if idle != self._idle_count:
            raise EngineError(f"{self.kind} pages: {idle} are idle, {self._idle_count} counted")
