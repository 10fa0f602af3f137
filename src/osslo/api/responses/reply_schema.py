"""Shapes of what `/v1/responses` gives, for the OpenAPI document. `builder` makes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from osslo.api.shapes import Reply


class ResponseReply(Reply):
    """A response. `output` holds reasoning, messages and calls in the order they were made;
    `osslo.warnings` names what of the request is not enforced."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None
    status: Literal["completed", "incomplete", "failed", "in_progress", "queued", "cancelled"]
    model: str
    output: list[dict[str, Any]]
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    usage: dict[str, Any] | None
    instructions: str | None
    metadata: dict[str, str]
    previous_response_id: str | None
    conversation: dict[str, str] | None
    tools: list[dict[str, Any]]
    tool_choice: Any
    parallel_tool_calls: bool
    max_output_tokens: int | None
    max_tool_calls: int | None
    temperature: float
    top_p: float
    top_logprobs: int
    truncation: Literal["auto", "disabled"]
    text: dict[str, Any]
    reasoning: dict[str, Any]
    store: bool
    background: bool
    service_tier: str
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    osslo: dict[str, Any] | None = None


class ResponseEvent(Reply):
    """One event of a stream; what it holds besides depends on its type."""

    type: str = Field(examples=["response.output_text.delta"])
    sequence_number: int


class InputItemsReply(Reply):
    """A part of what a response was given."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class InputTokensReply(Reply):
    """How many tokens a request's prompt has."""

    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int


class DeletedResponse(Reply):
    """A response that is gone."""

    id: str
    object: Literal["response"] = "response"
    deleted: bool = True
