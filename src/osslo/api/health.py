"""`/health` (alive), `/ready` (takes requests), `/metrics` (Prometheus) and `/` (where things are).

None of them needs a key, and none shows text of a request.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

import osslo
from osslo.api.services import WithServices
from osslo.telemetry import METRICS_CONTENT_TYPE

router = APIRouter(tags=["server"])


@router.get("/", summary="Where things are")
async def root(services: WithServices) -> JSONResponse:
    """A pointer for whoever opens the address in a browser."""
    return JSONResponse(
        {
            "name": "osslo",
            "version": osslo.__version__,
            "models": [model.id for model in services.registry],
            "api": "/v1/chat/completions",
            "docs": "/docs",
            "health": "/health",
        }
    )


@router.get("/health", summary="Liveness")
async def health() -> JSONResponse:
    """200 as long as the process answers."""
    return JSONResponse({"status": "ok"})


@router.get("/ready", summary="Readiness", responses={503: {}})
async def ready(services: WithServices) -> JSONResponse:
    """200 if requests are taken; 503 while loading or shutting down."""
    if services.lifecycle.draining:
        status = "draining"
    else:
        status = "ready" if services.registry.ready else "loading"
    if status == "ready":
        return JSONResponse({"status": status})
    return JSONResponse({"status": status}, status_code=503, headers={"retry-after": "1"})


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(services: WithServices) -> Response:
    """Counters and gauges in Prometheus' text format."""
    return Response(services.metrics.exposition(), media_type=METRICS_CONTENT_TYPE)
