"""`/v1/conversations`: create, retrieve, update and delete them and their items.

Responses read and add to a conversation where a request names it; that is `responses.running`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from osslo.api.auth import WithCaller
from osslo.api.body import read_json
from osslo.api.conversations.schema import (
    ConversationReply,
    ConversationRequest,
    ConversationUpdate,
    DeletedConversation,
    IncludeQuery,
    NewItems,
)
from osslo.api.openai_replies import page_fields
from osslo.api.openapi import operation
from osslo.api.query import read_query
from osslo.api.responses.item_schema import InputItem
from osslo.api.responses.items import kept_items, references
from osslo.api.responses.reply_schema import InputItemsReply
from osslo.api.responses.running import conversation_store, response_store
from osslo.api.responses.schema import ItemsQuery
from osslo.api.services import Services, WithServices
from osslo.store.conversations import Conversation
from osslo.store.items import Item

router = APIRouter(tags=["responses"])

_BODY_ERRORS = (400, 401, 403, 404, 413, 429, 500)
_ITEM = {"type": "object", "description": "The item."}
_EXAMPLE = {
    "items": [{"type": "message", "role": "user", "content": "My name is Ada."}],
    "metadata": {"topic": "names"},
}


@router.post(
    "/v1/conversations",
    summary="Create a conversation",
    openapi_extra=operation(
        body=ConversationRequest, reply=ConversationReply, errors=_BODY_ERRORS, example=_EXAMPLE
    ),
)
async def create_conversation(
    request: Request, services: WithServices, caller: WithCaller
) -> Response:
    """A new conversation, empty or with up to 20 items."""
    body = await read_json(request, ConversationRequest, limit_bytes=services.limits.max_body_bytes)
    items = await _new_items(body.items, services, caller.tenant)
    made = await conversation_store(services).create(caller.tenant, body.metadata or {}, items)
    return JSONResponse(_shown(made))


@router.get(
    "/v1/conversations/{conversation_id}",
    summary="Retrieve a conversation",
    openapi_extra=operation(reply=ConversationReply),
)
async def get_conversation(
    conversation_id: str, services: WithServices, caller: WithCaller
) -> Response:
    """A conversation, without its items."""
    found = await conversation_store(services).get(caller.tenant, conversation_id)
    return JSONResponse(_shown(found))


@router.post(
    "/v1/conversations/{conversation_id}",
    summary="Update a conversation",
    openapi_extra=operation(
        body=ConversationUpdate,
        reply=ConversationReply,
        errors=_BODY_ERRORS,
        example={"metadata": {"topic": "places"}},
    ),
)
async def update_conversation(
    conversation_id: str, request: Request, services: WithServices, caller: WithCaller
) -> Response:
    """Put other metadata in the place of a conversation's."""
    body = await read_json(request, ConversationUpdate, limit_bytes=services.limits.max_body_bytes)
    store = conversation_store(services)
    updated = await store.update(caller.tenant, conversation_id, body.metadata or {})
    return JSONResponse(_shown(updated))


@router.delete(
    "/v1/conversations/{conversation_id}",
    summary="Delete a conversation",
    openapi_extra=operation(reply=DeletedConversation),
)
async def delete_conversation(
    conversation_id: str, services: WithServices, caller: WithCaller
) -> Response:
    """Delete a conversation with its items. Responses that were kept by themselves stay."""
    await conversation_store(services).delete(caller.tenant, conversation_id)
    return JSONResponse({"id": conversation_id, "object": "conversation.deleted", "deleted": True})


# --- items --------------------------------------------------------------------------------------


@router.post(
    "/v1/conversations/{conversation_id}/items",
    summary="Add items to a conversation",
    openapi_extra=operation(
        body=NewItems,
        query=IncludeQuery,
        reply=InputItemsReply,
        errors=_BODY_ERRORS,
        example={"items": _EXAMPLE["items"]},
    ),
)
async def create_conversation_items(
    conversation_id: str, request: Request, services: WithServices, caller: WithCaller
) -> Response:
    """Add up to 20 items at the end, all or none."""
    read_query(request, IncludeQuery)
    body = await read_json(request, NewItems, limit_bytes=services.limits.max_body_bytes)
    items = await _new_items(body.items, services, caller.tenant)
    await conversation_store(services).add_items(caller.tenant, conversation_id, items)
    return JSONResponse(page_fields(items, has_more=False))


@router.get(
    "/v1/conversations/{conversation_id}/items",
    summary="List a conversation's items",
    openapi_extra=operation(query=ItemsQuery, reply=InputItemsReply),
)
async def list_conversation_items(
    conversation_id: str, request: Request, services: WithServices, caller: WithCaller
) -> Response:
    """A part of the items, newest first unless `order` says otherwise."""
    query = read_query(request, ItemsQuery)
    page = await conversation_store(services).items(
        caller.tenant, conversation_id, after=query.after, limit=query.limit, order=query.order
    )
    return JSONResponse(page_fields(page.items, has_more=page.has_more))


@router.get(
    "/v1/conversations/{conversation_id}/items/{item_id}",
    summary="Retrieve an item of a conversation",
    openapi_extra=operation(query=IncludeQuery, media={"application/json": _ITEM}),
)
async def get_conversation_item(
    conversation_id: str, item_id: str, request: Request, services: WithServices, caller: WithCaller
) -> Response:
    """One item."""
    read_query(request, IncludeQuery)
    item = await conversation_store(services).item(caller.tenant, conversation_id, item_id)
    return JSONResponse(dict(item))


@router.delete(
    "/v1/conversations/{conversation_id}/items/{item_id}",
    summary="Delete an item of a conversation",
    openapi_extra=operation(reply=ConversationReply),
)
async def delete_conversation_item(
    conversation_id: str, item_id: str, services: WithServices, caller: WithCaller
) -> Response:
    """Delete one item; the answer is the conversation it was in."""
    left = await conversation_store(services).delete_item(caller.tenant, conversation_id, item_id)
    return JSONResponse(_shown(left))


async def _new_items(
    given: Sequence[InputItem] | None, services: Services, tenant: str
) -> tuple[Item, ...]:
    """Items as they are kept; references are to what the owner keeps already."""
    kept = await response_store(services).find_items(tenant, references(given))
    return kept_items(given, kept, param="items")


def _shown(conversation: Conversation) -> dict[str, object]:
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": conversation.created_at,
        "metadata": dict(conversation.metadata),
    }
