"""Places for what runs together, given in turn to the owners who wait for one.

One owner's many requests do not hold up another's: each owner has a queue, and a place that comes
free goes to the first in the queue of the owner whose turn it is.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque


class FairPlaces:
    """So many places; whoever takes one gives it back."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def take(self, owner: str) -> None:
        """Wait for a place. Nothing is taken if the wait is cancelled."""
        if self._free and not self._waiting:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back()  # it was given in the same moment
            raise

    def give_back(self) -> None:
        """The place goes to whoever's turn it is, if anybody waits."""
        while self._waiting:
            owner, queue = self._waiting.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._waiting[owner] = queue  # at the end: the others come first
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
