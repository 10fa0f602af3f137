"""Shapes that several of OpenAI's protocols share. Those of replies document and test what is sent;
they are not used to send it.
"""

from __future__ import annotations

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from osslo.api.body import StrictSchema

T = TypeVar("T")

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]
"""What a caller notes on something that is kept."""


class StreamOptions(StrictSchema):
    """What else a stream brings; `include_obfuscation` pads events, so that sizes say little."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Reply(BaseModel):
    """Base of reply schemas: nothing is sent that is not declared."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Reply):
    """What is wrong (`message`), of which kind, and where."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Reply):
    """OpenAI's error shape."""

    error: ErrorDetail


class PromptTokensDetails(Reply):
    cached_tokens: int


class CompletionTokensDetails(Reply):
    reasoning_tokens: int


class UsageReply(Reply):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class DeletedReply(Reply):
    """What a deletion answers."""

    id: str
    object: str
    deleted: Literal[True]


class Page(Reply, Generic[T]):
    """One page of a list. `last_id` is the next page's `after`."""

    object: Literal["list"]
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool
