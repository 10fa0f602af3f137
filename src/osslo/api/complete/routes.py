"""`POST /v1/complete`: Anthropic's old text completions over `Turn`."""

from __future__ import annotations

import secrets

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from osslo.api.auth import WithCaller
from osslo.api.body import read_json
from osslo.api.complete.reply import CompletionHead, streamed_reply, whole_reply
from osslo.api.complete.request import to_chat_request
from osslo.api.complete.schema import CompleteRequest, CompletionReply, CompletionStreamEvent
from osslo.api.headers import turn_headers
from osslo.api.idempotency import IdempotentRoute
from osslo.api.messages.errors import MessagesErrorReply
from osslo.api.messages.reply import PING, failure_event
from osslo.api.messages.routes import GENERATION_ERRORS
from osslo.api.openapi import operation
from osslo.api.services import WithServices
from osslo.api.sse import EventStreamResponse, unless_disconnected
from osslo.api.turns import served_model, start_turns
from osslo.telemetry import REQUEST_ID

router = APIRouter(tags=["messages"], route_class=IdempotentRoute)

_EXAMPLE = {
    "model": "gpt-oss-20b",
    "prompt": "\n\nHuman: What is the capital of Norway?\n\nAssistant:",
    "max_tokens_to_sample": 256,
}


@router.post(
    "/v1/complete",
    summary="Complete a prompt (Anthropic's old API)",
    openapi_extra=operation(
        body=CompleteRequest,
        reply=CompletionReply,
        stream=CompletionStreamEvent,
        description="The completion, or with `stream` its events.",
        errors=GENERATION_ERRORS,
        error=MessagesErrorReply,
        example=_EXAMPLE,
        idempotent=True,
    ),
)
async def create_complete(request: Request, services: WithServices, caller: WithCaller) -> Response:
    """Complete a prompt of `Human` and `Assistant` turns, or answer a plain one."""
    services.lifecycle.check()
    body = await read_json(request, CompleteRequest, limit_bytes=services.limits.max_body_bytes)
    model = served_model(services, caller, body.model)
    asked = to_chat_request(
        body,
        request_id="compl_" + secrets.token_hex(12),
        tenant=caller.tenant,
        limits=services.limits,
    )
    running = await start_turns(services, caller, model, asked, protocol="complete")
    head = CompletionHead(running.prepared.generation.request_id, model.id, REQUEST_ID.get())
    if body.stream:
        return EventStreamResponse(
            streamed_reply(head, running.events),
            failure=failure_event,
            heartbeat_s=services.heartbeat_s,
            grace_s=services.start_grace_s,
            headers=turn_headers(model.id),
            heartbeat=PING,
        )
    answer = await unless_disconnected(request.receive, whole_reply(head, running.events))
    if answer is None:
        return Response(status_code=499)
    completion, ended = answer
    return JSONResponse(completion, headers=turn_headers(model.id, timings=[ended.timings]))
