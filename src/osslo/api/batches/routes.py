"""The routes of `/v1/batches`. They only take down what is wanted; the worker does it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from osslo.api.auth import Caller, WithCaller
from osslo.api.batches.schema import MAX_WINDOW_HOURS, BatchCreateRequest, BatchReply
from osslo.api.body import read_json
from osslo.api.files.routes import files_of
from osslo.api.openai_replies import page_fields
from osslo.api.openapi import operation
from osslo.api.query import PageQuery, read_query
from osslo.api.services import Services, WithServices
from osslo.api.shapes import Page
from osslo.errors import NotFoundError, RequestError
from osslo.store.batches import Batch, BatchStore, NewBatch

router = APIRouter(tags=["batches"])

_ERRORS = (400, 401, 404, 429, 500)
_MOMENTS = (
    "in_progress",
    "finalizing",
    "completed",
    "failed",
    "expired",
    "cancelling",
    "cancelled",
)
_EXAMPLE = {
    "input_file_id": "file-0123456789abcdef01234567",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
}


def batches_of(services: Services) -> BatchStore:
    """The server's batches. Raises `UnsupportedError` where it keeps no files."""
    return BatchStore(files_of(services))


@router.post(
    "/v1/batches",
    summary="Create a batch",
    openapi_extra=operation(
        body=BatchCreateRequest,
        reply=BatchReply,
        errors=(*_ERRORS, 413, 503),
        description="The batch, to be polled.",
        example=_EXAMPLE,
    ),
)
async def create_batch(request: Request, services: WithServices, caller: WithCaller) -> Response:
    """Run the requests of a file in the background, and write their answers into another."""
    services.lifecycle.check()
    body = await read_json(request, BatchCreateRequest, limit_bytes=services.limits.max_body_bytes)
    store = batches_of(services)
    await _check_input(store, caller, body.input_file_id)
    expiry = body.output_expires_after
    batch = await store.create(
        NewBatch(
            tenant=caller.tenant,
            user_id=caller.user_id,
            key_id=caller.key_id,
            endpoint=body.endpoint,
            input_file_id=body.input_file_id,
            completion_window=body.completion_window,
            window_s=_window_s(body.completion_window),
            metadata=body.metadata,
            output_ttl_s=None if expiry is None else expiry.seconds,
        ),
        most_active=services.jobs.batch_max_active,
    )
    return JSONResponse(batch_fields(batch))


@router.get(
    "/v1/batches",
    summary="List batches",
    openapi_extra=operation(
        query=PageQuery,
        reply=Page[BatchReply],
        errors=_ERRORS,
        description="A page of your batches, the newest first.",
    ),
)
async def list_batches(request: Request, services: WithServices, caller: WithCaller) -> Response:
    """Your batches."""
    query = read_query(request, PageQuery)
    page = await batches_of(services).page(caller.tenant, after=query.after, limit=query.limit)
    items = [batch_fields(batch) for batch in page.items]
    return JSONResponse(page_fields(items, has_more=page.has_more))


@router.get(
    "/v1/batches/{batch_id}",
    summary="One batch",
    openapi_extra=operation(
        reply=BatchReply, errors=_ERRORS, description="How far it is, and its files."
    ),
)
async def get_batch(batch_id: str, services: WithServices, caller: WithCaller) -> Response:
    """A batch as it is now."""
    return JSONResponse(batch_fields(await batches_of(services).get(caller.tenant, batch_id)))


@router.post(
    "/v1/batches/{batch_id}/cancel",
    summary="Cancel a batch",
    openapi_extra=operation(
        reply=BatchReply, errors=(*_ERRORS, 409), description="The batch, about to end."
    ),
)
async def cancel_batch(batch_id: str, services: WithServices, caller: WithCaller) -> Response:
    """End a batch. What was answered by then is in its files."""
    return JSONResponse(batch_fields(await batches_of(services).cancel(caller.tenant, batch_id)))


async def _check_input(store: BatchStore, caller: Caller, file_id: str) -> None:
    try:
        file = await store.files.get(caller.tenant, file_id)
    except NotFoundError as error:
        raise NotFoundError(error.message, param="input_file_id", code=error.code) from None
    if file.purpose != "batch":
        raise RequestError(
            f"The file {file_id} is of purpose {file.purpose!r}; upload it with purpose 'batch'.",
            param="input_file_id",
            code="invalid_purpose",
        )


def _window_s(window: str) -> int:
    hours = int(window.removesuffix("h"))
    if hours > MAX_WINDOW_HOURS:
        raise RequestError(
            f"'completion_window' can be {MAX_WINDOW_HOURS}h at most.", param="completion_window"
        )
    return hours * 3600


def batch_fields(batch: Batch) -> dict[str, Any]:
    """A batch as OpenAI's clients read it."""
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": None
        if batch.errors is None
        else {"object": "list", "data": [dict(error) for error in batch.errors]},
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": int(batch.created_at.timestamp()),
        "expires_at": int(batch.expires_at.timestamp()),
        **{f"{state}_at": batch.moments.get(state) for state in _MOMENTS},
        "request_counts": {
            "total": batch.total,
            "completed": batch.completed,
            "failed": batch.failed,
        },
        "usage": _usage(batch),
        "metadata": None if batch.labels is None else dict(batch.labels),
    }


def _usage(batch: Batch) -> dict[str, Any]:
    return {
        "input_tokens": batch.input_tokens,
        "input_tokens_details": {"cached_tokens": batch.cached_tokens},
        "output_tokens": batch.output_tokens,
        "output_tokens_details": {"reasoning_tokens": batch.reasoning_tokens},
        "total_tokens": batch.input_tokens + batch.output_tokens,
    }
