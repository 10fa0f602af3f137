"""`POST /v1/chat/completions`: a thin adapter over `Turn`. It has no generation logic."""

from __future__ import annotations

import secrets
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from osslo.api.auth import Caller, WithCaller
from osslo.api.body import read_json
from osslo.api.chat_completions.reply import (
    Answer,
    ReplyHead,
    streamed_reply,
    whole_answer,
)
from osslo.api.chat_completions.reply_schema import ChatCompletion, ChatCompletionChunk
from osslo.api.chat_completions.request import to_chat_request
from osslo.api.chat_completions.schema import ChatCompletionRequest
from osslo.api.chat_completions.stored import completion_store, stored_messages
from osslo.api.guided import blaming_guided
from osslo.api.headers import turn_headers
from osslo.api.idempotency import IdempotentRoute
from osslo.api.openai_replies import Keep, failure_event
from osslo.api.openapi import GENERATION_ERRORS, operation
from osslo.api.services import Services, WithServices
from osslo.api.sse import EventStreamResponse, unless_disconnected
from osslo.api.turns import served_model, start_turns
from osslo.chat.choices import IndexedEvents
from osslo.chat.models import ServedModel
from osslo.chat.request import ChatRequest
from osslo.chat.turn import PreparedTurn

router = APIRouter(tags=["chat"], route_class=IdempotentRoute)

_EXAMPLE = {
    "model": "gpt-oss-20b",
    "messages": [
        {"role": "system", "content": "Reasoning: high"},
        {"role": "user", "content": "What is the capital of Norway?"},
    ],
    "max_tokens": 2048,
    "temperature": 0,
}


@router.post(
    "/v1/chat/completions",
    summary="Chat completion",
    openapi_extra=operation(
        body=ChatCompletionRequest,
        reply=ChatCompletion,
        stream=ChatCompletionChunk,
        description="The answer, or with `stream` its events, ended by `[DONE]`.",
        errors=GENERATION_ERRORS,
        example=_EXAMPLE,
        idempotent=True,
    ),
)
async def create_chat_completion(
    request: Request, services: WithServices, caller: WithCaller
) -> Response:
    """Answer a conversation, whole or as a stream of server-sent events."""
    services.lifecycle.check()
    body = await read_json(
        request, ChatCompletionRequest, limit_bytes=services.limits.max_body_bytes
    )
    model = served_model(services, caller, body.model)
    asked = _to_request(body, model, caller, services)
    with blaming_guided(body):
        running = await start_turns(
            services, caller, model, asked, protocol="chat.completions", choices=body.n or 1
        )
    head = _head(body, model, asked, running.prepared, services)
    keep = _keeper(body, head, caller, services)
    if body.stream:
        return _streamed(head, running.events, keep, services)
    return await _whole(request, head, running.events, keep)


def _to_request(
    body: ChatCompletionRequest, model: ServedModel, caller: Caller, services: Services
) -> ChatRequest:
    return to_chat_request(
        body,
        model,
        request_id="chatcmpl-" + secrets.token_hex(12),
        tenant=caller.tenant,
        limits=services.limits,
    )


def _head(
    body: ChatCompletionRequest,
    model: ServedModel,
    asked: ChatRequest,
    turn: PreparedTurn,
    services: Services,
) -> ReplyHead:
    excluded = body.reasoning is not None and bool(body.reasoning.exclude)
    options = body.stream_options
    return ReplyHead(
        completion_id=asked.request_id,
        created=int(services.clock()),
        model=model.id,
        effort=turn.effort.value if asked.reasoning else "none",
        choices=body.n or 1,
        logprobs=bool(body.logprobs),
        show_reasoning=body.include_reasoning is not False and not excluded,
        include_usage=options is not None and bool(options.include_usage),
        obfuscate=options is not None and bool(options.include_obfuscation),
        metadata=body.metadata,
        warnings=turn.warnings,
    )


def _keeper(
    body: ChatCompletionRequest, head: ReplyHead, caller: Caller, services: Services
) -> Keep | None:
    """What keeps the answer, if the caller asked for that."""
    if not body.store:
        return None
    return partial(_keep, caller.tenant, stored_messages(body, head.completion_id), services)


async def _keep(
    tenant: str, messages: list[dict[str, Any]], services: Services, answer: dict[str, Any]
) -> None:
    await completion_store(services).add(tenant, answer, messages)


def _streamed(
    head: ReplyHead, events: IndexedEvents, keep: Keep | None, services: Services
) -> Response:
    return EventStreamResponse(
        streamed_reply(head, events, keep=keep),
        failure=failure_event,
        heartbeat_s=services.heartbeat_s,
        grace_s=services.start_grace_s,
        headers=turn_headers(head.model, warnings=head.warnings),
    )


async def _whole(
    request: Request, head: ReplyHead, events: IndexedEvents, keep: Keep | None
) -> Response:
    answer: Answer | None = await unless_disconnected(request.receive, whole_answer(head, events))
    if answer is None:
        return Response(status_code=499)
    reply = answer.body()
    if keep is not None:
        await keep(reply)
    headers = turn_headers(head.model, warnings=head.warnings, timings=answer.timings())
    return JSONResponse(reply, headers=headers)
