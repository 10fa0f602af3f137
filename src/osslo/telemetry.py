"""Telemetry: request ids, structured logs and Prometheus metrics.

Nothing here ever sees the text of a prompt or an answer. Metrics live in a registry object that
`Metrics` owns, so that two servers in one process do not share counters.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import time
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Protocol, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from osslo.types import BackendStats, Usage

LOGGER_NAME = "osslo"
METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

REQUEST_ID: ContextVar[str] = ContextVar("osslo_request_id", default="-")
"""The id of the HTTP request that the current task serves; logged with every line."""

_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}


def new_request_id() -> str:
    """An unguessable id, `req_` and 24 hexadecimal digits."""
    return "req_" + secrets.token_hex(12)


def accept_request_id(presented: str | None) -> str:
    """The caller's `x-request-id` if it is short and plain, else a new one."""
    if presented is not None and _ACCEPTED_ID.fullmatch(presented):
        return presented
    return new_request_id()


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, request id, and the record's extras."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": REQUEST_ID.get(),
        }
        line |= _extras(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """`time LEVEL logger [request id] message key=value …`"""

    def format(self, record: logging.LogRecord) -> str:
        request_id = REQUEST_ID.get()
        mark = "" if request_id == "-" else f" [{request_id}]"
        extras = "".join(f" {key}={value}" for key, value in _extras(record).items())
        line = f"{_utc(record.created)} {record.levelname:<7} {record.name}{mark} "
        line += record.getMessage() + extras
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


def configure_logging(level: str, style: str, stream: TextIO | None = None) -> None:
    """Send the `osslo` and `uvicorn` loggers to `stream` (stderr), as `text` or `json` lines.

    uvicorn's own notices about starting and stopping are left out, except at level `debug`.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    for name in (LOGGER_NAME, "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler] if name != "uvicorn.error" else []
        logger.propagate = name == "uvicorn.error"
        quiet = name != LOGGER_NAME and level == "info"
        logger.setLevel("WARNING" if quiet else level.upper())


class Metrics:
    """All counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._requests = Counter(
            "osslo_http_requests_total",
            "HTTP requests answered",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "osslo_http_request_seconds",
            "Time from the request's first byte to the answer's last",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._in_flight = Gauge(
            "osslo_http_in_flight", "HTTP requests being answered", registry=self.registry
        )
        self._turns = Counter(
            "osslo_turns_total", "Turns ended", ("model", "reason"), registry=self.registry
        )
        self._tokens = Counter(
            "osslo_tokens_total", "Tokens of ended turns", ("model", "kind"), registry=self.registry
        )
        self._first = Histogram(
            "osslo_first_output_seconds",
            "Time from acceptance of a turn to its first output",
            ("model",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._malformed = Counter(
            "osslo_malformed_output_total",
            "Deviations from the harmony format that the parser recovered from",
            ("kind",),
            registry=self.registry,
        )

    def request_started(self) -> None:
        self._in_flight.inc()

    def request_ended(self, *, method: str, route: str, status: int, seconds: float) -> None:
        self._in_flight.dec()
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def turn_ended(
        self, *, model: str, reason: str, usage: Usage, first_output_s: float | None
    ) -> None:
        """Count a turn that ended, whatever the reason, with the tokens it used."""
        self._turns.labels(model, reason).inc()
        self._tokens.labels(model, "prompt").inc(usage.prompt_tokens)
        self._tokens.labels(model, "cached").inc(usage.cached_tokens)
        self._tokens.labels(model, "completion").inc(usage.completion_tokens)
        self._tokens.labels(model, "reasoning").inc(usage.reasoning_tokens)
        if first_output_s is not None:
            self._first.labels(model).observe(first_output_s)

    def malformed_output(self, kind: str) -> None:
        self._malformed.labels(kind).inc()

    def watch(self, source: StatsSource) -> None:
        """Report the backends' load, read anew at every scrape."""
        self.registry.register(_BackendCollector(source))

    def exposition(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)


class StatsSource(Protocol):
    """Where `Metrics.watch` reads from."""

    def stats(self) -> Mapping[str, BackendStats]:
        """The load of each served model, by its id."""
        ...


class _BackendCollector(Collector):
    """Turns `BackendStats` into gauges and counters."""

    _GAUGES = ("running", "waiting", "max_waiting", "pages_used", "pages_total")
    _COUNTERS = ("prefix_hits_tokens", "prompt_tokens", "generated_tokens", "forced_tokens")

    def __init__(self, source: StatsSource) -> None:
        self._source = source

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        stats = self._source.stats()
        for name in self._GAUGES:
            gauge = GaugeMetricFamily(f"osslo_engine_{name}", f"Engine: {name}", labels=("model",))
            for model, record in stats.items():
                gauge.add_metric((model,), float(getattr(record, name)))
            yield gauge
        for name in self._COUNTERS:
            count = CounterMetricFamily(f"osslo_engine_{name}", f"Engine: {name}", labels=["model"])
            for model, record in stats.items():
                count.add_metric((model,), float(getattr(record, name)))
            yield count
        for name in sorted({name for record in stats.values() for name in record.extra}):
            gauge = GaugeMetricFamily(f"osslo_engine_{name}", f"Engine: {name}", labels=("model",))
            for model, record in stats.items():
                if name in record.extra:
                    gauge.add_metric((model,), record.extra[name])
            yield gauge


def _utc(created: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created))
    return f"{whole}.{int(created % 1 * 1000):03d}Z"


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD_FIELDS}
