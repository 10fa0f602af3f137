"""`overload_errors`: fifty times as many callers as the server has room for, on every protocol.

Every reply has to be an answer (a stream with its end), a 429 or a 503 (529 where Anthropic's
clients ask), soon, and memory must not grow. The server runs in a process of its own, with the
real engine over a model of noise.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
import psutil

from bench.conformance.protocols import MESSAGES, PROTOCOLS, Protocol, Wish, read_events
from bench.conformance.rows import Failures, Row, progressing
from bench.conformance.server import RUNNING, Running, server

TIMES = 50
CAPACITY = 2 * RUNNING
"""The engine holds `RUNNING` requests and as many that wait."""

GIVES_UP_S = 60.0
GROWTH_BYTES = 32 << 20
"""Memory that may be more at the end than after the first third."""

_SETTLED = 1 / 3
_TIRED_S = 0.5
"""How long a caller waits after it was turned away, as clients do."""


@dataclass(slots=True)
class _Seen:
    """What came back."""

    statuses: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, int]] = field(default_factory=list)
    slowest_s: float = 0.0


def run(seconds: float, seed: int, failures: Failures, *, times: int = TIMES) -> Row:
    """Press for `seconds`, with `times` the callers that there is room for."""
    callers = times * CAPACITY
    seen = _Seen()
    with server("engine") as running:
        asyncio.run(_press(running, seconds, seed, seen, failures, callers=callers))
    grown = _grown(seen.memory, seconds)
    if grown > GROWTH_BYTES:
        failures.add(f"memory grew by {grown >> 20} MiB", memory=seen.memory)
    remarks = {
        **dict(sorted(seen.statuses.items())),
        "callers": callers,
        "capacity": CAPACITY,
        "seconds": seconds,
        "slowest_s": round(seen.slowest_s, 2),
        "memory_mib": [round(size / 2**20) for _, size in seen.memory[:: max(1, int(seconds / 6))]],
        "grown_mib": round(grown / 2**20, 1),
    }
    return Row("overload_errors", failures.count, 0, seen.statuses.total(), remarks=remarks)


async def _press(
    running: Running,
    seconds: float,
    seed: int,
    seen: _Seen,
    failures: Failures,
    *,
    callers: int,
) -> None:
    source = random.Random(seed)
    limits = httpx.Limits(max_connections=callers, max_keepalive_connections=callers)
    headers = {"authorization": f"Bearer {running.key}"}
    ends = time.monotonic() + seconds
    async with httpx.AsyncClient(
        base_url=running.url, headers=headers, limits=limits, timeout=GIVES_UP_S
    ) as client:

        async def caller() -> None:
            while time.monotonic() < ends:
                protocol, streamed = source.choice(PROTOCOLS), source.random() < 0.5
                if not await _ask(client, protocol, seen, failures, streamed=streamed):
                    await asyncio.sleep(_TIRED_S * source.random())

        tasks = [asyncio.create_task(caller()) for _ in range(callers)]
        process = psutil.Process(running.pid)
        shown = progressing("overload_errors", iter(int, 1), int(seconds), failures)
        while not all(task.done() for task in tasks):
            seen.memory.append((time.monotonic() - ends + seconds, process.memory_info().rss))
            next(shown)
            await asyncio.wait(tasks, timeout=1.0)
        await asyncio.gather(*tasks)


async def _ask(
    client: httpx.AsyncClient,
    protocol: Protocol,
    seen: _Seen,
    failures: Failures,
    *,
    streamed: bool,
) -> bool:
    """One request; whether it was answered."""
    body = protocol.ask(Wish(max_tokens=64)) | ({"stream": True} if streamed else {})
    began = time.monotonic()
    try:
        reply = await client.post(protocol.path, json=body)
    except httpx.HTTPError as error:
        seen.statuses["broken"] += 1
        failures.add(f"{protocol.name}: {type(error).__name__}: {error}")
        return False
    seen.slowest_s = max(seen.slowest_s, time.monotonic() - began)
    seen.statuses[f"status_{reply.status_code}"] += 1
    wrong = problem_of(reply, protocol, streamed=streamed)
    if wrong is not None:
        failures.add(f"{protocol.name}: {wrong}", answer=reply.text[:2000])
    return reply.status_code == 200


def problem_of(reply: httpx.Response, protocol: Protocol, *, streamed: bool) -> str | None:
    """What is wrong with a reply under load, if anything."""
    anthropic = protocol is MESSAGES or protocol.path == "/v1/complete"
    if reply.status_code in (429, 529 if anthropic else 503):
        told = "retry-after" in reply.headers
        return None if told else f"status {reply.status_code} without Retry-After"
    if reply.status_code != 200:
        return f"status {reply.status_code}"
    said = protocol.streamed(read_events(reply.text)) if streamed else protocol.whole(reply.json())
    if said.error is not None:
        return f"an error within the answer: {said.error}"
    return None if said.ended else "an answer without an end"


def _grown(memory: list[tuple[float, int]], seconds: float) -> int:
    """By how much the last quarter's largest size is above that of the time just before."""
    settled = [size for at, size in memory if seconds * _SETTLED <= at < seconds * 0.75]
    late = [size for at, size in memory if at >= seconds * 0.75]
    return max(late) - max(settled) if settled and late else 0
