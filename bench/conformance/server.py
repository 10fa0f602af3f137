"""The application in a process of its own, for rows that measure: `python -m … MODE [CORE]`.

Prints `{"url": …, "key": …}` when it listens, and ends when its standard input does. MODE names
what is behind it:

`paced`     an engine's thread that takes 30 ms to a first token and gives one every 50 ms. The text
            begins with the nanoseconds that passed until the first token was ready, so that a
            client can tell what the server added.
`flood`     tokens without end, as fast as they are taken.
`engine`    the real engine over a model of noise, `RUNNING` at a time and as many waiting.
`tiny`      the real engine over a model that computes almost nothing, `CALLERS` at a time.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from pathlib import Path

from uvicorn.loops.auto import auto_loop_factory

from bench.conformance.random_model import RandomModel
from bench.conformance.stage import make_world
from bench.conformance.tiny_model import tiny_engine
from osslo.engine.backend import Backend
from osslo.engine.engine import Engine
from osslo.engine.limits import EngineLimits
from osslo.harmony.vocabulary import Vocabulary
from osslo.serve import freeze_heap, http_config
from osslo.settings import load_settings
from osslo.types import (
    BackendStats,
    FinishReason,
    GenerationRequest,
    PrefillProgress,
    Timings,
    TokenDelta,
    Usage,
)
from tests.scripted import ByteVocabulary, _Server

FIRST_S, EACH_S = 0.030, 0.050
RUNNING = 4
CALLERS = 32
"""Of the rows that measure."""

HEADER = "<|channel|>final<|message|>"
VOCABULARY = ByteVocabulary()


@dataclass(frozen=True, slots=True)
class Running:
    """A server process."""

    url: str
    key: str
    pid: int


@contextmanager
def server(mode: str, core: int | None = None) -> Iterator[Running]:
    """Start one, bound to a core if given; ends it."""
    command = [sys.executable, "-m", "bench.conformance.server", mode]
    if core is not None:
        command.append(str(core))
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True
    )
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        yield Running(told["url"], told["key"], process.pid)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


class _Idle:
    """What the two synthetic backends share."""

    max_context_tokens = 100_000
    ready = True

    def abort(self, request_id: str) -> None:
        pass

    def stats(self) -> BackendStats:
        return BackendStats(running=0, waiting=0, max_waiting=8, pages_used=0, pages_total=1)

    async def drain(self, timeout_s: float) -> None:
        pass

    async def close(self) -> None:
        pass


def _last(request: GenerationRequest, given: int) -> TokenDelta:
    return TokenDelta(
        request.request_id,
        finish_reason=FinishReason.LENGTH,
        usage=Usage(len(request.prompt), given),
        timings=Timings(0.0, FIRST_S, given * EACH_S),
    )


class PacedBackend(_Idle):
    """Tokens come from a thread of their own, each at its time, as an engine's do."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, asyncio.Queue[int], asyncio.AbstractEventLoop]] = []
        self._numbers = count()
        threading.Thread(target=self._work, daemon=True).start()

    async def generate(
        self, request: GenerationRequest
    ) -> AsyncGenerator[TokenDelta | PrefillProgress, None]:
        began = time.monotonic_ns()
        ready: asyncio.Queue[int] = asyncio.Queue()
        wanted = request.sampling.max_tokens
        loop = asyncio.get_running_loop()
        self._ask(FIRST_S, ready, loop)
        at = await ready.get()
        opening = VOCABULARY.tokens(f"{HEADER}{at - began}\n")
        yield TokenDelta(request.request_id, opening)
        given = len(opening)
        while given < wanted:
            self._ask(EACH_S, ready, loop)
            await ready.get()
            given += 1
            yield TokenDelta(request.request_id, VOCABULARY.tokens("x"))
        yield _last(request, given)

    def _ask(
        self, after_s: float, ready: asyncio.Queue[int], loop: asyncio.AbstractEventLoop
    ) -> None:
        with self._changed:
            due = (time.monotonic() + after_s, next(self._numbers), ready, loop)
            heappush(self._due, due)
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > time.monotonic():
                    wait = self._due[0][0] - time.monotonic() if self._due else None
                    self._changed.wait(wait)
                _, _, ready, loop = heappop(self._due)
            loop.call_soon_threadsafe(ready.put_nowait, time.monotonic_ns())


class FloodBackend(_Idle):
    """One token after the other, with a turn of the loop between them."""

    async def generate(
        self, request: GenerationRequest
    ) -> AsyncGenerator[TokenDelta | PrefillProgress, None]:
        yield TokenDelta(request.request_id, VOCABULARY.tokens(HEADER))
        letter = VOCABULARY.tokens("x")
        for _ in range(request.sampling.max_tokens):
            await asyncio.sleep(0)
            yield TokenDelta(request.request_id, letter)
        yield _last(request, request.sampling.max_tokens)


def noise_engine() -> Engine:
    """The real engine over noise, with little room."""
    table = [VOCABULARY.token_bytes(token) for token in range(VOCABULARY.vocab_size)]
    limits = EngineLimits(
        context_tokens=8192,
        full_pages=8192 // 32 * RUNNING,
        window_pages=0,
        max_running=RUNNING,
        max_waiting=RUNNING,
    )
    return Engine(RandomModel(table, 1), limits)


def main() -> None:
    mode, *core = sys.argv[1:]
    if core:
        os.sched_setaffinity(0, {int(core[0])})
    with (
        tempfile.TemporaryDirectory(prefix="osslo-conformance-") as name,
        asyncio.Runner(loop_factory=auto_loop_factory()) as runner,  # as uvicorn itself
    ):
        backend, vocabulary = behind(mode, Path(name))
        runner.run(serve(backend, vocabulary, Path(name)))


def behind(mode: str, folder: Path) -> tuple[Backend, Vocabulary]:
    """What a mode serves; files that it needs are made in `folder`."""
    match mode:
        case "paced":
            return PacedBackend(), VOCABULARY
        case "flood":
            return FloodBackend(), VOCABULARY
        case "engine":
            return noise_engine(), VOCABULARY
        case "tiny":
            return tiny_engine(folder, running=CALLERS)
        case _:
            raise SystemExit(f"there is no mode {mode!r}")


async def serve(backend: Backend, vocabulary: Vocabulary, folder: Path) -> None:
    """Serve until standard input ends."""
    made = await make_world(backend, vocabulary, folder)
    settings = load_settings(
        environment={"HOME": str(folder), "OSSLO_HOME": str(folder)},
        overrides={"port": 0, "drain_s": 2.0},
    )
    running = _Server(http_config(made.app, settings))
    task = asyncio.create_task(running.serve())
    await asyncio.to_thread(running.listening.wait, 30)
    freeze_heap()
    port = running.servers[0].sockets[0].getsockname()[1]
    sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{port}", "key": made.key}) + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    running.should_exit = True
    await task
    await backend.close()


if __name__ == "__main__":
    main()
