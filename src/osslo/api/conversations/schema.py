"""Shapes of what `/v1/conversations` takes and gives. Items look as in `/v1/responses`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from osslo.api.body import StrictSchema
from osslo.api.responses.item_schema import InputItem
from osslo.api.responses.schema import Includable
from osslo.api.shapes import Metadata, Reply

MAX_NEW_ITEMS = 20
"""How many items one request may add, as OpenAI's API has it."""


class ConversationRequest(StrictSchema):
    """A new conversation."""

    items: list[InputItem] | None = Field(None, max_length=MAX_NEW_ITEMS)
    metadata: Metadata | None = None


class ConversationUpdate(StrictSchema):
    """What takes the place of a conversation's metadata; null empties it."""

    metadata: Metadata | None


class NewItems(StrictSchema):
    """Items to add at the end."""

    items: list[InputItem] = Field(min_length=1, max_length=MAX_NEW_ITEMS)


class IncludeQuery(StrictSchema):
    """Which further parts of items are shown."""

    include: list[Includable] | None = Field(None, description="Items are shown in full anyway.")


class ConversationReply(Reply):
    """A conversation without its items."""

    id: str
    object: Literal["conversation"] = "conversation"
    created_at: int
    metadata: dict[str, str]


class DeletedConversation(Reply):
    """A conversation that is gone, with its items."""

    id: str
    object: Literal["conversation.deleted"] = "conversation.deleted"
    deleted: bool = True
