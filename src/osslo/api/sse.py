"""Server-sent events: the writer, heartbeats, and noticing that the client went away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from osslo.api.body import compact_json
from osslo.api.errors import error_response
from osslo.errors import OssloError

T = TypeVar("T")

Again = Callable[[], Coroutine[Any, Any, Response]]
"""Makes a response that tells the same once more."""

DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": heartbeat\n\n"
"""What a silent stream sends, unless its protocol has an event for it."""

_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx would hold the stream back
}


def data_event(value: Any) -> bytes:
    """One event with `value` as JSON."""
    return b"data: " + compact_json(value) + b"\n\n"


def named_event(name: str, value: Any) -> bytes:
    """One event called `name` with `value` as JSON."""
    return b"event: " + name.encode() + b"\n" + data_event(value)


def comment(text: str) -> bytes:
    """A line that clients ignore; it keeps proxies and timeouts quiet."""
    return f": {text}\n\n".encode()


class EventStreamResponse(Response):
    """Sends what `source` yields, each a whole event.

    Until the first event, or `grace_s`, nothing is sent, so that a refusal can still be an HTTP
    error; a later `OssloError` of the source is sent as `failure` makes of it. After `heartbeat_s`
    of silence `heartbeat` is sent. When the client goes away the source is closed at once; `again`
    is for a source that only follows what goes on by itself.
    """

    def __init__(
        self,
        source: AsyncGenerator[bytes, None],
        *,
        failure: Callable[[OssloError], bytes],
        heartbeat_s: float,
        grace_s: float,
        headers: Mapping[str, str] | None = None,
        heartbeat: bytes = HEARTBEAT,
        again: Again | None = None,
    ) -> None:
        super().__init__(headers={**_HEADERS, **(headers or {})})
        del self.headers["content-length"]
        self.again = again
        self._source = source
        self._failure = failure
        self._heartbeat = heartbeat
        self._heartbeat_s = heartbeat_s
        self._grace_s = grace_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_disconnected(receive, self._pump(scope, receive, send))
        finally:
            await self._source.aclose()

    async def _pump(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what comes. A second task looks at the clock, so that no event costs one."""
        stream = _EventStream(send, self.raw_headers)
        try:
            await self._copy(stream)
        except OssloError as error:
            if not stream.begun:
                await error_response(error, scope)(scope, receive, send)
                return
            await stream.write(self._failure(error))
        await stream.end()

    async def _copy(self, stream: _EventStream) -> None:
        ticking = asyncio.create_task(self._fill_silences(stream))
        try:
            async for chunk in self._source:
                await stream.write(chunk)
        finally:
            await _cancel(ticking)

    async def _fill_silences(self, stream: _EventStream) -> None:
        await asyncio.sleep(self._grace_s)
        await stream.begin()
        while True:
            rest_s = self._heartbeat_s - stream.silent_s()
            if rest_s <= 0:
                await stream.write(self._heartbeat)
                rest_s = self._heartbeat_s
            await asyncio.sleep(rest_s)


class _EventStream:
    """A body of events under way. Its writes come from two tasks and go out one by one."""

    def __init__(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        self._send = send
        self._headers = headers
        self._writing = asyncio.Lock()
        self._wrote_at = 0.0
        self.begun = False

    def silent_s(self) -> float:
        return time.monotonic() - self._wrote_at

    async def begin(self) -> None:
        """Commit to status 200, unless that was done."""
        async with self._writing:
            await self._begin()

    async def write(self, chunk: bytes) -> None:
        async with self._writing:
            await self._begin()
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
            self._wrote_at = time.monotonic()

    async def end(self) -> None:
        async with self._writing:
            await self._begin()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self) -> None:
        if self.begun:
            return
        self.begun = True
        start = {"type": "http.response.start", "status": 200, "headers": self._headers}
        await self._send(start)
        self._wrote_at = time.monotonic()


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """Run `work`; cancel it and give None if the client goes away first."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        await _cancel(watching)
        await _cancel(working)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(task: asyncio.Task[Any]) -> None:
    """Cancel `task` and wait until it has cleaned up; what it raises meanwhile is of no use."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
