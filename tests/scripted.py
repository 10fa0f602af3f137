"""A `Backend` that says what a test tells it to, a byte vocabulary, and a real server around them.

Time is controlled by gates, never by sleeping.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from starlette.types import ASGIApp

from osslo.errors import OssloError
from osslo.types import (
    BackendStats,
    FinishReason,
    GenerationRequest,
    PrefillProgress,
    Timings,
    TokenDelta,
    TokenLogprob,
    Usage,
)

SPECIALS = (
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|channel|>",
    "<|constrain|>",
    "<|return|>",
    "<|call|>",
)
_SPECIAL_PATTERN = re.compile("(" + "|".join(re.escape(name) for name in SPECIALS) + ")")


class ByteVocabulary:
    """Every byte is a token; harmony's markers follow."""

    vocab_size = 256 + len(SPECIALS)
    specials: Mapping[str, int] = {name: 256 + index for index, name in enumerate(SPECIALS)}

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else SPECIALS[token - 256].encode()

    def tokens(self, markup: str) -> tuple[int, ...]:
        """Token ids of text in which harmony's markers are written out."""
        ids: list[int] = []
        for part in _SPECIAL_PATTERN.split(markup):
            ids += [self.specials[part]] if part in self.specials else self.encode(part)
        return tuple(ids)

    def text(self, tokens: tuple[int, ...]) -> str:
        return b"".join(self.token_bytes(token) for token in tokens).decode("utf-8", "replace")


class Gate:
    """Holds a script up until a test, in whatever thread, opens it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened = False
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self.reached = threading.Event()

    def open(self) -> None:
        with self._lock:
            self._opened = True
            for loop, event in self._waiters:
                loop.call_soon_threadsafe(event.set)

    async def wait(self) -> None:
        event = asyncio.Event()
        with self._lock:
            self._waiters.append((asyncio.get_running_loop(), event))
            if self._opened:
                event.set()
        self.reached.set()
        await event.wait()


@dataclass(frozen=True)
class Prefill:
    """Report that so many tokens of the prompt are processed."""

    done: int
    total: int
    cached: int | None = None


@dataclass(frozen=True)
class Fail:
    """Raise from within the stream, as no good backend does."""

    error: Exception


Step = tuple[int, ...] | Gate | Prefill | Fail


@dataclass(frozen=True)
class Script:
    """What the backend does with one request. Tokens are cut at the request's own stop tokens,
    as an engine does."""

    steps: tuple[Step, ...] = ()
    refusal: OssloError | None = None
    finish: FinishReason = FinishReason.STOP
    error: OssloError | None = None
    cached_tokens: int = 0
    chunk: int = 1
    vanishes: bool = False  # ends without a terminal delta
    logprob: float = -0.5  # of every token, where logprobs are asked for


@dataclass
class ScriptedBackend:
    """Implements `osslo.engine.backend.Backend`."""

    script: Script | Callable[[GenerationRequest], Script]
    max_context_tokens: int = 4096
    ready: bool = True
    requests: list[GenerationRequest] = field(default_factory=list)
    aborts: list[str] = field(default_factory=list)
    abandoned: threading.Event = field(default_factory=threading.Event)
    drained: threading.Event = field(default_factory=threading.Event)
    running: int = 0

    async def generate(
        self, request: GenerationRequest
    ) -> AsyncGenerator[TokenDelta | PrefillProgress, None]:
        script = self.script(request) if callable(self.script) else self.script
        self.requests.append(request)
        if script.refusal is not None:
            raise script.refusal
        ended = False
        self.running += 1
        try:
            async for item in self._run(request, script):
                ended = isinstance(item, TokenDelta) and item.finish_reason is not None
                yield item
        finally:
            self.running -= 1
            if not ended:
                self.abandoned.set()

    async def _run(
        self, request: GenerationRequest, script: Script
    ) -> AsyncGenerator[TokenDelta | PrefillProgress, None]:
        count = 0
        finish = script.finish
        for step in script.steps:
            match step:
                case Gate():
                    await step.wait()
                case Prefill(done, total, cached):
                    yield PrefillProgress(request.request_id, done, total, cached)
                case Fail(error):
                    raise error
                case _:
                    for start in range(0, len(step), script.chunk):
                        if request.request_id in self.aborts:
                            break
                        room = request.sampling.max_tokens - count
                        tokens = step[start : start + script.chunk][:room]
                        count += len(tokens)
                        yield self._delta(request, tokens, script.logprob)
                        if count >= request.sampling.max_tokens:
                            finish = FinishReason.LENGTH
                            break
        if script.vanishes:
            return
        if request.request_id in self.aborts:
            finish = FinishReason.ABORT
        usage = Usage(len(request.prompt), count, cached_tokens=script.cached_tokens)
        yield TokenDelta(
            request.request_id,
            finish_reason=finish,
            usage=usage,
            timings=Timings(0.1, 0.2, 0.3),
            error=script.error,
        )

    def _delta(
        self, request: GenerationRequest, tokens: tuple[int, ...], logprob: float
    ) -> TokenDelta:
        wanted = request.sampling.logprobs
        logprobs: tuple[TokenLogprob, ...] = ()
        if wanted is not None:
            logprobs = tuple(
                TokenLogprob(t, logprob, tuple((t, logprob - n) for n in range(wanted)))
                for t in tokens
            )
        return TokenDelta(request.request_id, tokens, logprobs)

    def abort(self, request_id: str) -> None:
        self.aborts.append(request_id)

    def stats(self) -> BackendStats:
        return BackendStats(
            running=self.running,
            waiting=0,
            max_waiting=8,
            pages_used=1,
            pages_total=10,
            extra={"disk_files_damaged": 2.0},
        )

    async def drain(self, timeout_s: float) -> None:
        self.drained.set()

    async def close(self) -> None:
        self.ready = False


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: list[object] | None = None) -> None:
        await super().startup(sockets)  # type: ignore[arg-type]  # uvicorn's own list type
        self.listening.set()


@contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """Run `app` in a real uvicorn on a free loopback port; the base URL without a path."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=2
    )
    server = _Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        if not server.listening.wait(20):
            raise RuntimeError("the test server did not start")
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
