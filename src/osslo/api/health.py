"""`/health` (alive), `/ready` (takes requests), `/metrics` (Prometheus) and `/` (where things are).

None of them needs a key, and none shows text of a request.
"""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

import osslo
from osslo.api.openapi import operation
from osslo.api.services import WithServices
from osslo.api.shapes import Reply
from osslo.telemetry import METRICS_CONTENT_TYPE

router = APIRouter(tags=["server"])

_BY_ACCEPT = {"vary": "accept"}


class PointerReply(Reply):
    """Where things are."""

    name: str
    version: str
    models: list[str]
    api: str
    docs: str
    health: str


class StatusReply(Reply):
    """How the server is."""

    status: Literal["ok", "ready", "loading", "draining"]


@router.get(
    "/",
    summary="Where things are",
    openapi_extra=operation(reply=PointerReply, public=True, errors=(), description="A pointer."),
)
async def root(request: Request, services: WithServices) -> Response:
    """A pointer for programs; browsers go on to the console, where there is one."""
    if hasattr(request.app.state, "console") and "text/html" in request.headers.get("accept", ""):
        return RedirectResponse("/console", status_code=303, headers=_BY_ACCEPT)
    return JSONResponse(
        {
            "name": "osslo",
            "version": osslo.__version__,
            "models": [model.id for model in services.registry],
            "api": "/v1/chat/completions",
            "docs": "/docs",
            "health": "/health",
        },
        headers=_BY_ACCEPT,
    )


@router.get(
    "/health",
    summary="Liveness",
    openapi_extra=operation(
        reply=StatusReply, public=True, errors=(), description="The process lives."
    ),
)
async def health() -> JSONResponse:
    """200 as long as the process answers."""
    return JSONResponse({"status": "ok"})


@router.get(
    "/ready",
    summary="Readiness",
    openapi_extra=operation(
        reply=StatusReply,
        public=True,
        errors=(503,),
        error=StatusReply,
        description="Requests are taken.",
    ),
)
async def ready(services: WithServices) -> JSONResponse:
    """200 if requests are taken; 503 while loading or shutting down."""
    if services.lifecycle.draining:
        status = "draining"
    else:
        status = "ready" if services.registry.ready else "loading"
    if status == "ready":
        return JSONResponse({"status": status})
    return JSONResponse({"status": status}, status_code=503, headers={"retry-after": "1"})


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    openapi_extra=operation(
        media={"text/plain": {"type": "string"}},
        public=True,
        errors=(),
        description="Prometheus' text format.",
    ),
)
async def metrics(services: WithServices) -> Response:
    """Counters and gauges in Prometheus' text format."""
    return Response(services.metrics.exposition(), media_type=METRICS_CONTENT_TYPE)
