"""`POST /v1/messages` and `/v1/messages/count_tokens`: Anthropic's API over `Turn`."""

from __future__ import annotations

import asyncio
import secrets

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from osslo.api.auth import Caller, WithCaller
from osslo.api.body import read_json
from osslo.api.headers import turn_headers
from osslo.api.idempotency import IdempotentRoute
from osslo.api.messages.errors import MessagesErrorReply
from osslo.api.messages.reply import PING, MessageHead, failure_event, streamed_reply, whole_reply
from osslo.api.messages.reply_schema import MessageReply, MessageStreamEvent, TokenCountReply
from osslo.api.messages.request import (
    Terms,
    thinking_plan,
    to_chat_request,
    to_counted_request,
)
from osslo.api.messages.schema import CountTokensRequest, MessagesRequest
from osslo.api.messages.thinking import ThinkingSeal
from osslo.api.openapi import operation
from osslo.api.services import Services, WithServices
from osslo.api.sse import EventStreamResponse, unless_disconnected
from osslo.api.turns import RunningTurns, served_model, start_turns
from osslo.chat.models import ServedModel
from osslo.chat.prompt import count_tokens

router = APIRouter(tags=["messages"], route_class=IdempotentRoute)

GENERATION_ERRORS = (400, 401, 402, 403, 404, 413, 422, 429, 500, 529)
"""What a generating route of Anthropic's may answer with."""

_EXAMPLE = {
    "model": "gpt-oss-20b",
    "max_tokens": 1024,
    "messages": [{"role": "user", "content": "What is the capital of Norway?"}],
}


@router.post(
    "/v1/messages",
    summary="Create a message",
    openapi_extra=operation(
        body=MessagesRequest,
        reply=MessageReply,
        stream=MessageStreamEvent,
        description="The message, or with `stream` its events.",
        errors=GENERATION_ERRORS,
        error=MessagesErrorReply,
        example=_EXAMPLE,
        idempotent=True,
    ),
)
async def create_message(request: Request, services: WithServices, caller: WithCaller) -> Response:
    """Answer a conversation in Anthropic's shapes, whole or as a stream of server-sent events."""
    services.lifecycle.check()
    body = await read_json(request, MessagesRequest, limit_bytes=services.limits.max_body_bytes)
    model = served_model(services, caller, body.model)
    terms = _terms("msg_" + secrets.token_hex(12), caller, services)
    asked = to_chat_request(body, terms)
    running = await start_turns(services, caller, model, asked, protocol="messages")
    head = _head(body, model, running, terms.seal)
    return await _respond(request, body, head, running, services)


@router.post(
    "/v1/messages/count_tokens",
    summary="Count a message's tokens",
    openapi_extra=operation(
        body=CountTokensRequest,
        reply=TokenCountReply,
        description="The tokens of the prompt that the request would have.",
        errors=(400, 401, 403, 404, 413, 429, 500),
        error=MessagesErrorReply,
        example={key: value for key, value in _EXAMPLE.items() if key != "max_tokens"},
    ),
)
async def count_message_tokens(
    request: Request, services: WithServices, caller: WithCaller
) -> Response:
    """How many tokens the prompt takes; nothing is generated."""
    body = await read_json(request, CountTokensRequest, limit_bytes=services.limits.max_body_bytes)
    model = served_model(services, caller, body.model)
    asked = to_counted_request(body, _terms("count", caller, services))
    tokens = await asyncio.to_thread(count_tokens, model, asked, today=services.today())
    return JSONResponse({"input_tokens": tokens})


def _terms(request_id: str, caller: Caller, services: Services) -> Terms:
    seal = ThinkingSeal(services.seal, caller.tenant)
    return Terms(request_id, caller.tenant, services.limits, seal)


def _head(
    body: MessagesRequest, model: ServedModel, running: RunningTurns, seal: ThinkingSeal
) -> MessageHead:
    generation = running.prepared.generation
    return MessageHead(
        message_id=generation.request_id,
        model=model.id,
        display=thinking_plan(body).display,
        seal=seal,
        fits=generation.sampling.max_tokens >= body.max_tokens,
        warnings=running.prepared.warnings,
    )


async def _respond(
    request: Request,
    body: MessagesRequest,
    head: MessageHead,
    running: RunningTurns,
    services: Services,
) -> Response:
    if body.stream:
        return EventStreamResponse(
            streamed_reply(head, running.events),
            failure=failure_event,
            heartbeat_s=services.heartbeat_s,
            grace_s=services.start_grace_s,
            headers=turn_headers(head.model, warnings=head.warnings),
            heartbeat=PING,
        )
    answer = await unless_disconnected(request.receive, whole_reply(head, running.events))
    if answer is None:
        return Response(status_code=499)
    message, ended = answer
    headers = turn_headers(head.model, warnings=head.warnings, timings=[ended.timings])
    return JSONResponse(message, headers=headers)
