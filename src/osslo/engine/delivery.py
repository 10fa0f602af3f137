"""Carries events from the engine's thread to whoever waits for them, asyncio or not.

A mailbox belongs to one request. Events for one event loop are handed over together, with one
`call_soon_threadsafe` a step, because each such call wakes the loop through a system call.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterable
from typing import Protocol

from osslo.engine.runner import Event


class Mailbox(Protocol):
    """Where the events of one request go. `loop` is None if `put` may be called by any thread."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None: ...

    def put(self, event: Event) -> None: ...


class AsyncMailbox:
    """Read by a coroutine; written by callbacks of the same loop."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def put(self, event: Event) -> None:
        self._events.put_nowait(event)

    async def get(self) -> Event:
        return await self._events.get()


class ThreadMailbox:
    """Read by a thread that may block."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def put(self, event: Event) -> None:
        self._events.put(event)

    def get(self) -> Event:
        return self._events.get()


Parcel = tuple[Mailbox, Event]


def deliver(parcels: Iterable[Parcel]) -> None:
    """Hand events to their mailboxes, in order, from the engine's thread.

    Events for a loop that has been closed are dropped: nobody can read them any more.
    """
    by_loop: dict[asyncio.AbstractEventLoop, list[Parcel]] = {}
    for parcel in parcels:
        loop = parcel[0].loop
        if loop is None:
            parcel[0].put(parcel[1])
        else:
            by_loop.setdefault(loop, []).append(parcel)
    for loop, batch in by_loop.items():
        try:
            loop.call_soon_threadsafe(_put_all, batch)
        except RuntimeError:
            continue


def _put_all(batch: list[Parcel]) -> None:
    for mailbox, event in batch:
        mailbox.put(event)
