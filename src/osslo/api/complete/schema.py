"""Shapes of `/v1/complete`, as Anthropic's API had them in version 2023-06-01."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, RootModel

from osslo.api.body import StrictSchema
from osslo.api.messages.reply_schema import ErrorEvent, PingEvent
from osslo.api.messages.schema import Metadata
from osslo.api.shapes import Reply


class CompleteRequest(StrictSchema):
    """A prompt to complete. `reasoning_effort` is this server's addition."""

    model: str = Field(min_length=1, max_length=256)
    prompt: str = Field(
        min_length=1, description="Turns of a conversation, or one message of the user."
    )
    max_tokens_to_sample: int = Field(ge=1, description="Reasoning counts too.")
    stop_sequences: list[str] | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1 << 24)
    metadata: Metadata | None = None
    stream: bool | None = None
    reasoning_effort: str | None = Field(None, description="As in chat completions.")


class CompletionReply(Reply):
    """A completion, or a piece of one: a stream's events each carry more of the text, and the last
    one says why it ended. `stop` is the stop sequence that was met."""

    type: Literal["completion"]
    id: str
    completion: str
    stop_reason: Literal["stop_sequence", "max_tokens", "refusal"] | None
    stop: str | None
    model: str
    log_id: str


class CompletionStreamEvent(
    RootModel[Annotated[CompletionReply | PingEvent | ErrorEvent, Field(discriminator="type")]]
):
    """One event; its name is its `type`."""
