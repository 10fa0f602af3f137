"""Kept chat completions over HTTP: keeping them (`store: true`), list, retrieve, update, delete."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from osslo.api.auth import WithCaller
from osslo.api.body import StrictSchema, read_json
from osslo.api.chat_completions.reply_schema import (
    ChatCompletion,
    StoredCompletionPage,
    StoredMessagePage,
)
from osslo.api.chat_completions.schema import ChatCompletionRequest, InputMessage
from osslo.api.openai_replies import page_fields
from osslo.api.openapi import operation
from osslo.api.query import PageQuery, read_query
from osslo.api.services import Services, WithServices
from osslo.api.shapes import DeletedReply, Metadata
from osslo.errors import NotFoundError
from osslo.store.completions import CompletionFilter, CompletionLimits, CompletionStore

router = APIRouter(tags=["chat"])

_PATH = "/v1/chat/completions/{completion_id}"


class OrderedPageQuery(PageQuery):
    order: Literal["asc", "desc"] = Field("asc", description="By age, oldest first.")


class StoredCompletionQuery(OrderedPageQuery):
    """Which kept answers."""

    model: str | None = Field(None, max_length=256, description="Only those of this model.")
    metadata: Metadata | None = Field(None, description="Only those with these pairs.")


class UpdateCompletionRequest(StrictSchema):
    """The metadata that replaces the old; null empties it."""

    metadata: Metadata | None


def completion_store(services: Services) -> CompletionStore:
    """The kept chat completions of `services`' database."""
    kept = services.store
    return CompletionStore(
        services.database,
        CompletionLimits(kept.store_ttl_s, kept.store_max_responses, kept.store_max_bytes),
        now=lambda: datetime.fromtimestamp(services.clock(), UTC),
    )


def stored_messages(body: ChatCompletionRequest, completion_id: str) -> list[dict[str, Any]]:
    """The messages of a request as they are kept, each with an id."""
    given = body.messages or [InputMessage.model_validate({"role": "user", "content": body.prompt})]
    return [
        _stored_message(message, f"{completion_id}-{index}") for index, message in enumerate(given)
    ]


@router.get(
    "/v1/chat/completions",
    summary="List kept chat completions",
    openapi_extra=operation(query=StoredCompletionQuery, reply=StoredCompletionPage),
)
async def list_chat_completions(
    request: Request, services: WithServices, caller: WithCaller
) -> Response:
    """The answers that were asked for with `store: true`, oldest first."""
    query = read_query(request, StoredCompletionQuery)
    page = await completion_store(services).list(
        caller.tenant,
        CompletionFilter(query.model, query.metadata),
        after=query.after,
        limit=query.limit,
        order=query.order,
    )
    bodies = [kept.body for kept in page.items]
    return JSONResponse(page_fields(bodies, has_more=page.has_more))


@router.get(
    _PATH, summary="Retrieve a kept chat completion", openapi_extra=operation(reply=ChatCompletion)
)
async def get_chat_completion(
    completion_id: str, services: WithServices, caller: WithCaller
) -> Response:
    """One kept answer."""
    kept = await completion_store(services).get(caller.tenant, completion_id)
    return JSONResponse(kept.body)


@router.post(
    _PATH,
    summary="Update a kept chat completion",
    openapi_extra=operation(
        body=UpdateCompletionRequest,
        reply=ChatCompletion,
        errors=(400, 401, 404, 413),
        example={"metadata": {"topic": "capitals"}},
    ),
)
async def update_chat_completion(
    completion_id: str, request: Request, services: WithServices, caller: WithCaller
) -> Response:
    """Replace a kept answer's metadata."""
    body = await read_json(
        request, UpdateCompletionRequest, limit_bytes=services.limits.max_body_bytes
    )
    store = completion_store(services)
    kept = await store.update(caller.tenant, completion_id, body.metadata or {})
    return JSONResponse(kept.body)


@router.delete(
    _PATH, summary="Delete a kept chat completion", openapi_extra=operation(reply=DeletedReply)
)
async def delete_chat_completion(
    completion_id: str, services: WithServices, caller: WithCaller
) -> Response:
    """Delete a kept answer and the messages that were kept with it."""
    await completion_store(services).delete(caller.tenant, completion_id)
    return JSONResponse({"id": completion_id, "object": "chat.completion.deleted", "deleted": True})


@router.get(
    _PATH + "/messages",
    summary="List a kept chat completion's messages",
    openapi_extra=operation(query=OrderedPageQuery, reply=StoredMessagePage),
)
async def list_chat_completion_messages(
    completion_id: str, request: Request, services: WithServices, caller: WithCaller
) -> Response:
    """The messages of the request that a kept answer answered."""
    query = read_query(request, OrderedPageQuery)
    kept = await completion_store(services).get(caller.tenant, completion_id)
    messages = list(kept.messages)
    if query.order == "desc":
        messages.reverse()
    start = _after(messages, query.after)
    page = messages[start : start + query.limit]
    return JSONResponse(page_fields(page, has_more=start + query.limit < len(messages)))


def _after(messages: Sequence[Any], after: str | None) -> int:
    if after is None:
        return 0
    for index, message in enumerate(messages):
        if message["id"] == after:
            return index + 1
    raise NotFoundError(f"There is no message {after!r} here.", param="after")


def _stored_message(message: InputMessage, message_id: str) -> dict[str, Any]:
    content = message.content
    parts: list[dict[str, str]] | None = None
    if not isinstance(content, str) and content is not None:
        texts = [part.text or part.refusal or "" for part in content]
        parts = [{"type": "text", "text": text} for text in texts]
        content = "".join(texts)
    kept: dict[str, Any] = {
        "id": message_id,
        "role": message.role,
        "content": content,
        "content_parts": parts,
    }
    for name in ("refusal", "name", "tool_call_id"):
        if getattr(message, name) is not None:
            kept[name] = getattr(message, name)
    if message.tool_calls:
        kept["tool_calls"] = [
            call.model_dump(exclude_none=True, exclude={"index"}) for call in message.tool_calls
        ]
    reasoning = message.reasoning_content or message.reasoning
    if reasoning:
        kept["reasoning_content"] = reasoning
    return kept
