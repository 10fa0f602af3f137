"""`added_ttft_p50_ms` and `events_per_second`: what the server costs beside the model.

Both with accounts, keys, the ledger, rate limits and metrics on, over a real socket.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from bench.conformance import llama_server
from bench.conformance.client import steadily, streaming
from bench.conformance.gateway import litellm
from bench.conformance.rows import Row
from bench.conformance.server import CALLERS, Running, server
from bench.conformance.stage import MODEL

PATH = "/v1/chat/completions"
TOKENS = 40
FLOOD_TOKENS = 400
TARGET_TTFT_MS = 3.0
TARGET_EVENTS = 1500.0


@dataclass(frozen=True, slots=True)
class Peers:
    """The programs of other projects to be measured beside ours, where given."""

    litellm: Path | None = None
    llama_server: Path | None = None


def ttft(samples: int, seed: int, peers: Peers) -> Row:
    """Streams start at random moments while `CALLERS` of them run. Of each: the time from sending
    the request to its first text, less the time that the engine took for it. Beside it what
    LiteLLM's proxy adds, and first texts of llama-server and ours over one tiny model."""
    with server("paced") as running:
        added = asyncio.run(_measure_ttft(running, samples, seed))
    cut = quantiles(added, n=20)
    remarks: dict[str, Any] = {
        "p95_ms": round(cut[18], 2),
        "p5_ms": round(cut[0], 2),
        "streams": CALLERS,
        "tokens_per_second_each": 20,
    }
    if peers.litellm is not None:
        with litellm(peers.litellm) as running:
            theirs = asyncio.run(_measure_ttft(running, samples, seed))
        remarks["litellm_p50_ms"] = round(median(theirs), 2)
        remarks["litellm_p95_ms"] = round(quantiles(theirs, n=20)[18], 2)
    if peers.llama_server is not None:
        remarks["tiny_model"] = llama_server.beside(peers.llama_server, samples, seed)
    return Row("added_ttft_p50_ms", round(median(added), 3), TARGET_TTFT_MS, len(added),
               remarks=remarks)  # fmt: skip


def events(rounds: int) -> Row:
    """Events a second of `CALLERS` streams at once, the server bound to one core, the client to
    another: the median of `rounds`."""
    cores = sorted(os.sched_getaffinity(0))
    with server("flood", cores[0]) as running:
        os.sched_setaffinity(0, cores[1:] or cores)
        try:
            rates = [asyncio.run(_measure_events(running)) for _ in range(rounds)]
        finally:
            os.sched_setaffinity(0, cores)
    remarks = {"rounds": [round(rate) for rate in rates], "streams": CALLERS}
    return Row("events_per_second", round(median(rates)), TARGET_EVENTS, rounds, "higher", remarks)


async def _measure_ttft(running: Running, samples: int, seed: int) -> list[float]:
    return await steadily(lambda: _added_ms(running), samples, seed, callers=CALLERS)


async def _added_ms(running: Running) -> float:
    text, first = "", 0
    async with streaming(running, PATH, _asked(TOKENS)) as (began, lines):
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
        async with streaming(running, PATH, _asked(FLOOD_TOKENS)) as (_, lines):
            return sum([line.startswith(b"data: {") async for line in lines])

    began = time.perf_counter()
    counts = await asyncio.gather(*(client() for _ in range(CALLERS)))
    return sum(counts) / (time.perf_counter() - began)


def _asked(max_tokens: int) -> dict[str, Any]:
    question = {"role": "user", "content": "What is the capital of Norway?"}
    return {"model": MODEL, "messages": [question], "max_tokens": max_tokens}
