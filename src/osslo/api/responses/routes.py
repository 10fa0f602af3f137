"""`/v1/responses`: create, retrieve, follow, cancel, delete, list inputs, count tokens."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from osslo.api.auth import WithCaller
from osslo.api.body import read_json
from osslo.api.headers import turn_headers
from osslo.api.idempotency import IdempotentRoute
from osslo.api.openai_replies import page_fields
from osslo.api.openapi import GENERATION_ERRORS, operation
from osslo.api.query import read_query
from osslo.api.responses.builder import Event, ResponseBuilder, error_event
from osslo.api.responses.live import LiveResponse
from osslo.api.responses.log import follow_stored
from osslo.api.responses.reply_schema import (
    DeletedResponse,
    InputItemsReply,
    InputTokensReply,
    ResponseEvent,
    ResponseReply,
)
from osslo.api.responses.request import refuse_context, to_chat_request
from osslo.api.responses.running import response_store, said_in, sent, start_response
from osslo.api.responses.schema import (
    InputTokensRequest,
    ItemsQuery,
    ResponseRequest,
    RetrieveQuery,
)
from osslo.api.services import Services, WithServices
from osslo.api.sse import Again, EventStreamResponse, named_event, unless_disconnected
from osslo.api.turns import served_model
from osslo.chat.prompt import count_tokens
from osslo.errors import OssloError, RequestError
from osslo.types import SamplingParams

router = APIRouter(tags=["responses"], route_class=IdempotentRoute)

_EXAMPLE = {
    "model": "gpt-oss-20b",
    "input": "What is the capital of Norway?",
    "reasoning": {"effort": "low"},
}


@router.post(
    "/v1/responses",
    summary="Create a response",
    openapi_extra=operation(
        body=ResponseRequest,
        reply=ResponseReply,
        stream=ResponseEvent,
        description="The response, or with `stream` its events.",
        errors=GENERATION_ERRORS,
        example=_EXAMPLE,
        idempotent=True,
    ),
)
async def create_response(request: Request, services: WithServices, caller: WithCaller) -> Response:
    """Answer an input, alone or after what was said before."""
    services.lifecycle.check()
    body = await read_json(request, ResponseRequest, limit_bytes=services.limits.max_body_bytes)
    running = await start_response(body, services, caller)
    headers = turn_headers(running.model, warnings=running.warnings)
    obfuscate = body.stream_options is not None and bool(body.stream_options.include_obfuscation)
    if running.head.background:
        live = await services.background.start(running.job())
        if body.stream:
            named = (services, caller.tenant, running.head.response_id)
            again = partial(_followed, *named, None, headers, obfuscate=obfuscate)
            return _stream(live.follow(None), services, headers, obfuscate=obfuscate, again=again)
        return JSONResponse(await _seen(live), headers=headers)
    if body.stream:
        return _stream(
            running.events(), services, headers, obfuscate=obfuscate, builder=running.builder
        )
    response = await unless_disconnected(request.receive, running.whole())
    if response is None:
        return Response(status_code=499)
    error = running.builder.error
    if error is not None:
        raise error
    headers |= turn_headers(running.model, timings=[running.builder.timings])
    return JSONResponse(response, headers=headers)


@router.get(
    "/v1/responses/{response_id}",
    summary="Retrieve a response",
    openapi_extra=operation(
        query=RetrieveQuery,
        reply=ResponseReply,
        stream=ResponseEvent,
        description="The response, or with `stream` the events of a background response.",
    ),
)
async def get_response(
    response_id: str, request: Request, services: WithServices, caller: WithCaller
) -> Response:
    """A response that was kept. With `stream` a background response's events, from behind
    `starting_after`, and further ones as they come."""
    query = read_query(request, RetrieveQuery)
    for name in ("starting_after", "include_obfuscation"):
        if getattr(query, name) is not None and not query.stream:
            raise RequestError(f"'{name}' needs 'stream=true'.", param=name)
    if query.stream:
        after, obfuscate = query.starting_after, bool(query.include_obfuscation)
        return await _followed(services, caller.tenant, response_id, after, obfuscate=obfuscate)
    live = services.background.find(caller.tenant, response_id)
    if live is not None:
        return JSONResponse(await _seen(live))
    stored = await response_store(services).get(caller.tenant, response_id)
    return JSONResponse(dict(stored.body))


@router.post(
    "/v1/responses/{response_id}/cancel",
    summary="Cancel a background response",
    openapi_extra=operation(reply=ResponseReply),
)
async def cancel_response(response_id: str, services: WithServices, caller: WithCaller) -> Response:
    """End a background response. One that has ended stays as it is."""
    await services.background.cancel(caller.tenant, response_id)
    stored = await response_store(services).cancel(caller.tenant, response_id)
    if not stored.background:
        raise RequestError(
            "Only responses that were created with 'background': true can be cancelled; to end "
            "another one, close its connection.",
            param="response_id",
        )
    return JSONResponse(dict(stored.body))


@router.delete(
    "/v1/responses/{response_id}",
    summary="Delete a response",
    openapi_extra=operation(reply=DeletedResponse),
)
async def delete_response(response_id: str, services: WithServices, caller: WithCaller) -> Response:
    """Delete a response with its items. One that runs is cancelled first."""
    await services.background.cancel(caller.tenant, response_id)
    await response_store(services).delete(caller.tenant, response_id)
    return JSONResponse({"id": response_id, "object": "response", "deleted": True})


@router.get(
    "/v1/responses/{response_id}/input_items",
    summary="List a response's input",
    openapi_extra=operation(query=ItemsQuery, reply=InputItemsReply),
)
async def list_input_items(
    response_id: str, request: Request, services: WithServices, caller: WithCaller
) -> Response:
    """What a response was given."""
    query = read_query(request, ItemsQuery)
    page = await response_store(services).input_items(
        caller.tenant, response_id, after=query.after, limit=query.limit, order=query.order
    )
    return JSONResponse(page_fields(page.items, has_more=page.has_more))


@router.post(
    "/v1/responses/input_tokens",
    summary="Count a response's input tokens",
    openapi_extra=operation(body=InputTokensRequest, reply=InputTokensReply, example=_EXAMPLE),
)
async def count_input_tokens(
    request: Request, services: WithServices, caller: WithCaller
) -> Response:
    """How many tokens the prompt of a response would have."""
    limits = services.limits
    body = await read_json(request, InputTokensRequest, limit_bytes=limits.max_body_bytes)
    if body.personality is not None:
        raise RequestError("'personality' is not supported.", param="personality")
    refuse_context(body)
    model = served_model(services, caller, body.model or next(iter(services.registry)).id)
    said = await said_in(body, services, caller)
    asked = to_chat_request(
        body,
        said.messages,
        request_id="count_" + secrets.token_hex(8),
        tenant=caller.tenant,
        sampling=SamplingParams(max_tokens=1),
        limits=limits,
    )
    tokens = await asyncio.to_thread(count_tokens, model, asked, today=services.today())
    return JSONResponse({"object": "response.input_tokens", "input_tokens": tokens})


async def _seen(live: LiveResponse) -> dict[str, Any]:
    """A background response as it is now: while its end is being kept, as the store has it."""
    if not live.ending:
        return live.response()
    record = live.job.record
    return dict((await live.job.store.get(record.tenant, record.id)).body)


async def _followed(
    services: Services,
    tenant: str,
    response_id: str,
    after: int | None,
    headers: Mapping[str, str] | None = None,
    *,
    obfuscate: bool,
) -> Response:
    """The events of a background response from behind `after` on, wherever it runs or ran."""
    live = services.background.find(tenant, response_id)
    if live is not None:
        return _stream(live.follow(after), services, headers, obfuscate=obfuscate)
    store = response_store(services)
    stored = await store.get(tenant, response_id)
    if not stored.background:
        raise RequestError(
            "Only responses that were created with 'background': true can be streamed again; "
            "leave 'stream' out.",
            param="stream",
        )
    events = follow_stored(store, stored, after)
    return _stream(events, services, headers, obfuscate=obfuscate)


def _stream(
    events: AsyncGenerator[Event, None],
    services: Services,
    headers: Mapping[str, str] | None = None,
    *,
    obfuscate: bool,
    builder: ResponseBuilder | None = None,
    again: Again | None = None,
) -> Response:
    def failure(error: OssloError) -> bytes:
        return named_event(
            "error", error_event(error, 0 if builder is None else builder.next_sequence)
        )

    return EventStreamResponse(
        sent(events, obfuscate=obfuscate),
        failure=failure,
        heartbeat_s=services.heartbeat_s,
        grace_s=services.start_grace_s,
        headers=headers,
        again=again,
    )
