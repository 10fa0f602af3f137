"""The outermost layer: request ids, metrics, the last catch for our own bugs, and the headers of
every answer (ids, timing, rate limits, what browsers may do with it).

Plain ASGI, so that streams pass through untouched.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from osslo.api.errors import error_response, internal_error
from osslo.api.messages.errors import speaks_anthropic
from osslo.api.rate_limits import RATE_HEADERS, RateHeaders, rate_headers
from osslo.telemetry import LOGGER_NAME, REQUEST_ID, Metrics, accept_request_id

_log = logging.getLogger(LOGGER_NAME + ".http")
_FOR_BROWSERS = (
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "same-origin"),  # with no-referrer, forms would send no Origin
    ("cross-origin-resource-policy", "same-origin"),
)
_KNOWN_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


class RequestGate:
    """Wraps the whole application; see the module's text."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        token = REQUEST_ID.set(exchange.request_id)
        rates = RATE_HEADERS.set(exchange.rates)
        self._metrics.request_started()
        try:
            await self._app(scope, receive, exchange.send)
        except Exception:
            _log.exception("request failed")
            if not exchange.status:
                await error_response(internal_error(), scope)(scope, receive, exchange.send)
        finally:
            self._end(exchange)
            REQUEST_ID.reset(token)
            RATE_HEADERS.reset(rates)

    def _end(self, exchange: _Exchange) -> None:
        seconds = time.perf_counter() - exchange.started
        route = exchange.route
        method = exchange.method if exchange.method in _KNOWN_METHODS else "other"
        self._metrics.request_ended(
            method=method, route=route, status=exchange.status or 499, seconds=seconds
        )
        _log.info(
            "request",
            extra={
                "method": method,
                "route": route,
                "status": exchange.status or 499,
                "duration_ms": round(seconds * 1000, 1),
            },
        )


class _Exchange:
    """One request and what is known of its answer."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self.method: str = scope["method"]
        self.started = time.perf_counter()
        self.status = 0
        self.rates = RateHeaders()
        self.request_id = accept_request_id(Headers(scope=scope).get("x-request-id"))

    @property
    def route(self) -> str:
        """The route's template, not the path, so that metrics have few labels."""
        return getattr(self._scope.get("route"), "path", "unknown")

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            headers["request-id"] = self.request_id  # Anthropic's spelling
            elapsed_ms = (time.perf_counter() - self.started) * 1000
            headers["openai-processing-ms"] = str(round(elapsed_ms))
            for name, value in _FOR_BROWSERS:
                headers.setdefault(name, value)
            self._tell_limits(headers)
        await self._send(message)

    def _tell_limits(self, headers: MutableHeaders) -> None:
        told = rate_headers(
            self.rates.standing, anthropic=speaks_anthropic(self._scope), now=datetime.now(UTC)
        )
        for name, value in told:
            headers[name] = value
