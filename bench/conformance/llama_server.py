"""What llama-server and Osslo each take for a first text over the same model that computes almost
nothing.

While streams run, llama-server's own count of a prompt's time leaves out the wait for a place in a
batch, so what it adds to its model cannot be told from outside as it is told of the row's engine.
With a model of next to no arithmetic there is nothing to take off: all that a client waits for is
what a server does for a request, and how long others keep it from that. Both have one thread to
compute, a place for every caller, keys and metrics; Osslo has its accounts, ledger and limits too.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil

from bench.conformance.client import steadily, streaming
from bench.conformance.peer_process import peer_server
from bench.conformance.server import CALLERS, Running, server
from bench.conformance.stage import MODEL
from bench.conformance.tiny_model import CONTEXT_TOKENS, write_tiny

PATH = "/v1/completions"
TOKENS = 40
ASKED = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": TOKENS, "temperature": 0}
ROUNDS = 2


def beside(program: Path, samples: int, seed: int) -> dict[str, Any]:
    """Both servers in turn, `ROUNDS` times."""
    found: dict[str, list[dict[str, float]]] = {"osslo": [], "llama_server": []}
    for number in range(ROUNDS):
        with server("tiny") as running:
            found["osslo"].append(first_texts(running, samples, seed + number))
        with llama_server(program) as running:
            found["llama_server"].append(first_texts(running, samples, seed + number))
    return {"callers": CALLERS, "tokens": TOKENS, **found}


@contextmanager
def llama_server(program: Path) -> Iterator[Running]:
    """llama-server over the tiny model, with as many slots as there are callers."""
    key = "sk-" + secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="osslo-llama-server-") as name:
        folder = Path(name)
        model = write_tiny(folder / "tiny.gguf")
        options = {
            "--model": str(model),
            "--parallel": str(CALLERS),
            "--ctx-size": str(CALLERS * CONTEXT_TOKENS),
            "--threads": "1",
            "--api-key": key,
        }
        flags = [part for option in options.items() for part in option]
        flags += ["--metrics", "--log-disable"]
        with peer_server(program, flags, key=key, health="/health", folder=folder) as running:
            yield running


def first_texts(
    running: Running, samples: int, seed: int, *, callers: int = CALLERS
) -> dict[str, float]:
    """Milliseconds to the first text while `callers` ask and of one alone, and of the server's
    processor time for an answer while they ask."""
    asyncio.run(_check(running))
    answers = 0

    async def ask() -> float:
        nonlocal answers
        answers += 1
        return await _first_text_ms(running)

    before_s = _processor_s(running)
    crowded = asyncio.run(steadily(ask, samples, seed, callers=callers))
    used_s = (_processor_s(running) - before_s) / answers
    alone = asyncio.run(steadily(ask, max(2, samples // 4), seed, callers=1))
    return {
        "p50_ms": round(median(crowded), 2),
        "p95_ms": round(quantiles(crowded, n=20)[18], 2),
        "processor_ms": round(used_s * 1000, 2),
        "alone_p50_ms": round(median(alone), 2),
        "alone_p95_ms": round(quantiles(alone, n=20)[18], 2),
    }


def _processor_s(running: Running) -> float:
    used = psutil.Process(running.pid).cpu_times()
    return float(used.user + used.system)


async def _first_text_ms(running: Running) -> float:
    first = 0
    async with streaming(running, PATH, ASKED) as (sent, lines):
        async for line in lines:
            if not first and _text(line):
                first = time.monotonic_ns()
    if not first:
        raise RuntimeError("a stream ended without text")
    return (first - sent) / 1e6


async def _check(running: Running) -> None:
    """Raise RuntimeError unless an answer is as many characters as were asked for."""
    async with streaming(running, PATH, ASKED) as (_, lines):
        said = "".join([_text(line) async for line in lines])
    if len(said) != TOKENS:
        raise RuntimeError(f"the answer is {said!r}, not {TOKENS} characters")


def _text(line: bytes) -> str:
    if not line.startswith(b"data: {"):
        return ""
    choices = json.loads(line[6:])["choices"]
    return choices[0]["text"] or "" if choices else ""
