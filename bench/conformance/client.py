"""The client of the rows that measure: plain HTTP/1.1 that does little, so that it does not measure
itself, and the steady load of callers that ask again and again.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from bench.conformance.server import Running

PAUSE_S = 0.2
"""The longest that a caller waits between the end of an answer and its next question."""

Sample = Callable[[], Awaitable[float]]


async def steadily(ask: Sample, samples: int, seed: int, *, callers: int) -> list[float]:
    """What `ask` gives while `callers` ask again and again; the first two of each are not
    counted."""
    source = random.Random(seed)
    found: list[float] = []
    warm = 2 * callers
    left = samples + warm

    async def caller(delay_s: float) -> None:
        nonlocal left
        await asyncio.sleep(delay_s)
        while left > 0:
            left -= 1
            found.append(await ask())
            await asyncio.sleep(source.random() * PAUSE_S)

    await asyncio.gather(*(caller(source.random() * 2) for _ in range(callers)))
    return found[warm:]


@asynccontextmanager
async def streaming(
    running: Running, path: str, body: dict[str, Any]
) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
    """When a request was sent (`time.monotonic_ns`), and the lines of its stream. It has a
    connection of its own that is made first, as clients keep theirs."""
    host, port = running.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    content = json.dumps(body | {"stream": True}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
        f"Authorization: Bearer {running.key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    sent = time.monotonic_ns()
    writer.write(head.encode() + content)
    try:
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"{status!r} {(await reader.read())[:2000]!r}")
        yield sent, _lines(reader)
    finally:
        writer.close()


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while line := await reader.readline():
        yield line
