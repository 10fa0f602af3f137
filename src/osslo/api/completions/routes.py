"""`POST /v1/completions`: a thin adapter over raw completions. It has no generation logic."""

from __future__ import annotations

import asyncio
import secrets
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from osslo.api.auth import WithCaller
from osslo.api.body import read_json
from osslo.api.completions.reply import (
    CompletionHead,
    WholeCompletion,
    streamed_completion,
    whole_completion,
)
from osslo.api.completions.request import Runs, to_runs
from osslo.api.completions.schema import Completion, CompletionChunk, CompletionRequest
from osslo.api.headers import turn_headers
from osslo.api.idempotency import IdempotentRoute
from osslo.api.openai_replies import failure_event
from osslo.api.openapi import GENERATION_ERRORS, operation
from osslo.api.services import Services, WithServices
from osslo.api.sse import EventStreamResponse, unless_disconnected
from osslo.api.turns import served_model, start_raw_turns
from osslo.chat.models import ServedModel

router = APIRouter(tags=["completions"], route_class=IdempotentRoute)

_EXAMPLE = {"model": "gpt-oss-20b", "prompt": "Once upon a time", "max_tokens": 32}


@router.post(
    "/v1/completions",
    summary="Completion of a raw prompt",
    openapi_extra=operation(
        body=CompletionRequest,
        reply=Completion,
        stream=CompletionChunk,
        description="The answer, or with `stream` its events, ended by `[DONE]`.",
        errors=GENERATION_ERRORS,
        example=_EXAMPLE,
        idempotent=True,
    ),
)
async def create_completion(
    request: Request, services: WithServices, caller: WithCaller
) -> Response:
    """Go on with a text or with token ids, as they are; text never becomes a special token."""
    services.lifecycle.check()
    body = await read_json(request, CompletionRequest, limit_bytes=services.limits.max_body_bytes)
    model = served_model(services, caller, body.model)
    completion_id = "cmpl-" + secrets.token_hex(12)
    runs = await asyncio.to_thread(
        partial(
            to_runs,
            body,
            model,
            request_id=completion_id,
            tenant=caller.tenant,
            limits=services.limits,
        )
    )
    head = _head(body, model, runs, completion_id, services)
    events = await start_raw_turns(services, caller, model, runs.requests, protocol="completions")
    if body.stream:
        return EventStreamResponse(
            streamed_completion(head, events),
            failure=failure_event,
            heartbeat_s=services.heartbeat_s,
            grace_s=services.start_grace_s,
            headers=turn_headers(head.model, warnings=head.warnings),
        )
    answer: WholeCompletion | None = await unless_disconnected(
        request.receive, whole_completion(head, events, echo=bool(body.echo))
    )
    if answer is None:
        return Response(status_code=499)
    headers = turn_headers(head.model, warnings=head.warnings, timings=answer.timings())
    return JSONResponse(answer.body(), headers=headers)


def _head(
    body: CompletionRequest,
    model: ServedModel,
    runs: Runs,
    completion_id: str,
    services: Services,
) -> CompletionHead:
    options = body.stream_options
    return CompletionHead(
        completion_id=completion_id,
        created=int(services.clock()),
        model=model.id,
        prompts=runs.prompts,
        candidates=runs.candidates,
        choices=runs.choices,
        logprobs=body.logprobs,
        include_usage=options is not None and bool(options.include_usage),
        obfuscate=options is not None and bool(options.include_obfuscation),
        warnings=runs.warnings,
    )
