"""Server-sent events: the writer, heartbeats, and noticing that the client went away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from osslo.api.body import compact_json
from osslo.api.errors import error_response
from osslo.errors import OssloError

T = TypeVar("T")

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
    of silence `heartbeat` is sent. When the client goes away the source is closed at once.
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
    ) -> None:
        super().__init__(headers={**_HEADERS, **(headers or {})})
        del self.headers["content-length"]
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
        pending = asyncio.create_task(_next(self._source))
        try:
            await asyncio.wait({pending}, timeout=self._grace_s)
            refusal = pending.exception() if pending.done() else None
            if isinstance(refusal, OssloError):
                await error_response(refusal, scope)(scope, receive, send)
                return
            if refusal is not None:
                raise refusal
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while True:
                await asyncio.wait({pending}, timeout=self._heartbeat_s)
                if not pending.done():
                    await _send_chunk(send, self._heartbeat)
                    continue
                chunk = self._result(pending)
                if chunk is None:
                    break
                await _send_chunk(send, chunk)
                pending = asyncio.create_task(_next(self._source))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await _cancel(pending)

    def _result(self, done: asyncio.Task[bytes | None]) -> bytes | None:
        try:
            return done.result()
        except OssloError as error:
            return self._failure(error)


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


async def _next(source: AsyncGenerator[bytes, None]) -> bytes | None:
    return await anext(source, None)


async def _send_chunk(send: Send, chunk: bytes) -> None:
    await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def _cancel(task: asyncio.Task[Any]) -> None:
    """Cancel `task` and wait until it has cleaned up; what it raises meanwhile is of no use."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
