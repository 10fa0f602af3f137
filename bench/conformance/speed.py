"""`added_ttft_p50_ms` and `events_per_second`: what the server costs beside the model.

Both with accounts, keys, the ledger, rate limits and metrics on, over a real socket. The client
speaks plain HTTP/1.1 and does little, so that it does not measure itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median, quantiles

from bench.conformance.gateway import litellm
from bench.conformance.rows import Row
from bench.conformance.server import Running, server
from bench.conformance.stage import MODEL

STREAMS = 32
TOKENS = 40
FLOOD_TOKENS = 400
TARGET_TTFT_MS = 3.0
TARGET_EVENTS = 1500.0


def ttft(samples: int, seed: int, litellm_program: Path | None = None) -> Row:
    """Streams start at random moments while `STREAMS` of them run. Of each: the time from sending
    the request to its first text, less the time that the engine took for it. Beside it what
    LiteLLM's proxy adds, if its program is given."""
    with server("paced") as running:
        added = asyncio.run(_measure_ttft(running, samples, seed))
    cut = quantiles(added, n=20)
    remarks = {
        "p95_ms": round(cut[18], 2),
        "p5_ms": round(cut[0], 2),
        "streams": STREAMS,
        "tokens_per_second_each": 20,
    }
    if litellm_program is not None:
        with litellm(litellm_program) as running:
            theirs = asyncio.run(_measure_ttft(running, samples, seed))
        remarks["litellm_p50_ms"] = round(median(theirs), 2)
        remarks["litellm_p95_ms"] = round(quantiles(theirs, n=20)[18], 2)
    return Row("added_ttft_p50_ms", round(median(added), 3), TARGET_TTFT_MS, len(added),
               remarks=remarks)  # fmt: skip


def events(rounds: int) -> Row:
    """Events a second of `STREAMS` streams at once, the server bound to one core, the client to
    another: the median of `rounds`."""
    cores = sorted(os.sched_getaffinity(0))
    with server("flood", cores[0]) as running:
        os.sched_setaffinity(0, cores[1:] or cores)
        try:
            rates = [asyncio.run(_measure_events(running)) for _ in range(rounds)]
        finally:
            os.sched_setaffinity(0, cores)
    remarks = {"rounds": [round(rate) for rate in rates], "streams": STREAMS}
    return Row("events_per_second", round(median(rates)), TARGET_EVENTS, rounds, "higher", remarks)


async def _measure_ttft(running: Running, samples: int, seed: int) -> list[float]:
    source = random.Random(seed)
    added: list[float] = []
    warm = 2 * STREAMS
    left = samples + warm

    async def client(delay_s: float) -> None:
        nonlocal left
        await asyncio.sleep(delay_s)
        while left > 0:
            left -= 1
            added.append(await _added_ms(running))
            await asyncio.sleep(source.random() * 0.2)

    await asyncio.gather(*(client(source.random() * 2) for _ in range(STREAMS)))
    return added[warm:]


async def _added_ms(running: Running) -> float:
    text, first = "", 0
    async with _streaming(running, TOKENS) as (began, lines):
        async for line in lines:
            if "\n" in text or not line.startswith(b"data: {"):
                continue
            choices = json.loads(line[6:])["choices"]
            text += choices[0]["delta"].get("content") or "" if choices else ""
            if text and not first:
                first = time.monotonic_ns()
    return (first - began - int(text.partition("\n")[0])) / 1e6


async def _measure_events(running: Running) -> float:
    async def client() -> int:
        async with _streaming(running, FLOOD_TOKENS) as (_, lines):
            return sum([line.startswith(b"data: {") async for line in lines])

    began = time.perf_counter()
    counts = await asyncio.gather(*(client() for _ in range(STREAMS)))
    return sum(counts) / (time.perf_counter() - began)


@asynccontextmanager
async def _streaming(
    running: Running, max_tokens: int
) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
    """When one chat completion was sent (`time.monotonic_ns`), and the lines of its stream. It has
    a connection of its own that is made first, as clients keep theirs."""
    host, port = running.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps(
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": "What is the capital of Norway?"}],
            "max_tokens": max_tokens,
            "stream": True,
        }
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
        f"Authorization: Bearer {running.key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    sent = time.monotonic_ns()
    writer.write(head.encode() + body)
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
