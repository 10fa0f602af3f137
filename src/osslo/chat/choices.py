"""Several turns of one request, run side by side and read as one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TypeVar

from osslo.chat.events import TurnEvent
from osslo.chat.metering import Meter
from osslo.chat.turn import OnEnded

T = TypeVar("T")

IndexedEvents = AsyncGenerator[tuple[int, TurnEvent], None]
"""The events of one or several turns, each with the index of its turn."""

BeginTurns = Callable[[Meter, OnEnded | None], IndexedEvents]
"""Sets turns up under a meter; they begin when the events are first read. What is given besides is
told of each turn's end, too."""

_AHEAD_EVENTS = 64
"""How far a stream may run ahead of the reader."""


async def interleave(
    streams: Sequence[AsyncGenerator[T, None]],
) -> AsyncGenerator[tuple[int, T], None]:
    """Each event of each stream, with the stream's index, in the order in which they come.

    The first exception of a stream is raised and ends all; closing this generator closes all.
    """
    if len(streams) == 1:
        try:
            async for event in streams[0]:
                yield 0, event
        finally:
            await streams[0].aclose()
        return
    queue: asyncio.Queue[tuple[int, T] | Exception | None] = asyncio.Queue(_AHEAD_EVENTS)
    tasks = [
        asyncio.create_task(_forward(index, stream, queue)) for index, stream in enumerate(streams)
    ]
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _forward(
    index: int,
    stream: AsyncGenerator[T, None],
    queue: asyncio.Queue[tuple[int, T] | Exception | None],
) -> None:
    try:
        async for event in stream:
            await queue.put((index, event))
        await queue.put(None)
    except Exception as error:  # passed on to the reader, who raises it
        await queue.put(error)
    finally:
        await stream.aclose()
