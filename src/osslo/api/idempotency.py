"""`Idempotency-Key`: a request that is sent again gets the answer that it got before.

Clients send a POST again when they lost the answer; with a key it is not generated, nor charged,
twice. Answers are kept in this process's memory only, for minutes and up to so many bytes: it is
the caller who asks for that by sending a key. Only good answers are kept, whole or streamed: an
error can be tried again under the same key. A second request that comes while the first runs waits
for it, and runs itself if the first one failed or went away.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Coroutine
from typing import Any, get_type_hints

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from osslo.api.auth import WithCaller, require_caller
from osslo.api.body import read_body
from osslo.api.openapi import shapes_of
from osslo.api.replays import Entry, Recording, Replays
from osslo.api.services import WithServices, services_of
from osslo.api.sse import EventStreamResponse, unless_disconnected
from osslo.errors import IdempotencyError, RequestError

HEADER = "Idempotency-Key"
REPLAYED_HEADER = (b"idempotency-replayed", b"true")

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


_DIRECT = {"request": Request, "services": WithServices, "caller": WithCaller, "return": Response}
"""What an endpoint is annotated with that can be called without FastAPI's solver."""


class IdempotentRoute(APIRoute):
    """A route that honours `Idempotency-Key` if its `operation` says that it is idempotent."""

    def get_route_handler(self) -> Handler:
        return self._replaying(super().get_route_handler())

    def direct_handler(self) -> Handler | None:
        """A handler that asks nothing of FastAPI; None for a route that is no POST, or whose
        endpoint needs more than the request, the services and the caller."""
        endpoint = self.endpoint
        if self.methods != {"POST"} or get_type_hints(endpoint, include_extras=True) != _DIRECT:
            return None

        async def handler(request: Request) -> Response:
            caller = await require_caller(request)
            response: Response = await endpoint(request, services_of(request), caller)
            return response

        return self._replaying(handler)

    def _replaying(self, handler: Handler) -> Handler:
        shapes = shapes_of(self)
        if shapes is None or not shapes.idempotent:
            return handler

        async def replaying(request: Request) -> Response:
            key = request.headers.get(HEADER)
            return await handler(request) if key is None else await _answer(request, key, handler)

        return replaying


async def _answer(request: Request, key: str, handler: Handler) -> Response:
    """The answer that the key already has, or a new one that is recorded as it is sent."""
    services = services_of(request)
    if not _KEY.fullmatch(key):
        raise RequestError(
            f"'{HEADER}' must be 1 to 255 visible ASCII characters.",
            param=HEADER,
            code="invalid_idempotency_key",
        )
    caller = await require_caller(request)
    body = await read_body(request, services.limits.max_body_bytes)
    name = _digest(caller.tenant.encode(), (caller.key_id or "").encode(), key.encode())
    fingerprint = _digest(request.method.encode(), request.url.path.encode(), body)
    replays = services.replays
    while (entry := replays.find(name)) is not None:
        if entry.fingerprint != fingerprint:
            raise IdempotencyError(
                f"This '{HEADER}' came before with another request. Use a new key for each "
                "request, and the same one only to send the same request again.",
                param=HEADER,
            )
        if entry.recording is not None:
            return _Replayed(entry.recording)
        if entry.again is not None:
            return _Recorded(_marked(await entry.again()), entry, replays)
        if await unless_disconnected(request.receive, entry.done.wait()) is None:
            return Response(status_code=499)
    entry = replays.claim(name, fingerprint)
    try:
        response = await handler(Request(request.scope, _again(body, request.receive)))
    except BaseException:
        replays.settle(entry, None)
        raise
    if isinstance(response, EventStreamResponse):
        entry.again = response.again
    return _Recorded(response, entry, replays)


def _marked(response: Response) -> Response:
    response.raw_headers.append(REPLAYED_HEADER)
    return response


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def _again(body: bytes, receive: Receive) -> Receive:
    """`receive`, with the body that was read from it once more."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return first.pop() if first else await receive()

    return receive_again


class _Recorded(Response):
    """Sends a response and records it."""

    def __init__(self, response: Response, entry: Entry, replays: Replays) -> None:
        super().__init__(status_code=response.status_code)
        self._response = response
        self._entry = entry
        self._replays = replays

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        recording: Recording | None = Recording()

        async def recorded(message: Message) -> None:
            nonlocal recording
            if recording is not None:
                recording.note(message)
                if recording.size_bytes > self._replays.largest_bytes:
                    recording = None
            await send(message)

        try:
            await self._response(scope, receive, recorded)
        finally:
            self._replays.settle(self._entry, recording)


class _Replayed(Response):
    """Sends a recording again."""

    def __init__(self, recording: Recording) -> None:
        super().__init__(status_code=recording.status)
        self._recording = recording

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's
        headers = [*self._recording.headers, REPLAYED_HEADER]
        status = self._recording.status
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for chunk in self._recording.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
