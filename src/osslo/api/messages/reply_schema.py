"""Shapes of what `/v1/messages` and its neighbours answer. They document and test what is sent."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

from osslo.api.messages.errors import MessagesErrorDetail
from osslo.api.shapes import Reply

StopReason = Literal[
    "end_turn",
    "max_tokens",
    "stop_sequence",
    "tool_use",
    "refusal",
    "model_context_window_exceeded",
]


class TextContent(Reply):
    type: Literal["text"]
    text: str


class ThinkingContent(Reply):
    """Hand it back unchanged with the tool's result. Empty with `display: omitted`."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolUseContent(Reply):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


Content = Annotated[TextContent | ThinkingContent | ToolUseContent, Field(discriminator="type")]


class OutputTokensDetails(Reply):
    thinking_tokens: int


class DeltaUsage(Reply):
    """`input_tokens` are those that were not read from the cache."""

    input_tokens: int
    cache_creation_input_tokens: Literal[0]
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputTokensDetails


class MessageUsage(DeltaUsage):
    service_tier: Literal["standard"]


class MessageReply(Reply):
    """A whole answer. `model` is the id of the model that really answered; `warnings` name what of
    a schema is not enforced."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Content]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage
    warnings: list[str] | None = None


class TokenCountReply(Reply):
    input_tokens: int


# --- the stream ---------------------------------------------------------------------------------


class TextDeltaReply(Reply):
    type: Literal["text_delta"]
    text: str


class ThinkingDeltaReply(Reply):
    type: Literal["thinking_delta"]
    thinking: str


class SignatureDeltaReply(Reply):
    type: Literal["signature_delta"]
    signature: str


class InputJsonDeltaReply(Reply):
    type: Literal["input_json_delta"]
    partial_json: str


BlockDelta = Annotated[
    TextDeltaReply | ThinkingDeltaReply | SignatureDeltaReply | InputJsonDeltaReply,
    Field(discriminator="type"),
]


class MessageStartEvent(Reply):
    type: Literal["message_start"]
    message: MessageReply


class ContentBlockStartEvent(Reply):
    type: Literal["content_block_start"]
    index: int
    content_block: Content


class ContentBlockDeltaEvent(Reply):
    type: Literal["content_block_delta"]
    index: int
    delta: BlockDelta


class ContentBlockStopEvent(Reply):
    type: Literal["content_block_stop"]
    index: int


class StopDelta(Reply):
    stop_reason: StopReason
    stop_sequence: str | None


class MessageDeltaEvent(Reply):
    """Why the answer ended, and the final counts."""

    type: Literal["message_delta"]
    delta: StopDelta
    usage: DeltaUsage


class MessageStopEvent(Reply):
    type: Literal["message_stop"]


class PingEvent(Reply):
    """Sent while nothing else is."""

    type: Literal["ping"]


class ErrorEvent(Reply):
    """The last event of a stream that failed."""

    type: Literal["error"]
    error: MessagesErrorDetail
    request_id: str


class MessageStreamEvent(
    RootModel[
        Annotated[
            MessageStartEvent
            | ContentBlockStartEvent
            | ContentBlockDeltaEvent
            | ContentBlockStopEvent
            | MessageDeltaEvent
            | MessageStopEvent
            | PingEvent
            | ErrorEvent,
            Field(discriminator="type"),
        ]
    ]
):
    """One event; its name is its `type`."""


# --- models -------------------------------------------------------------------------------------


class Supported(Reply):
    supported: bool


class EffortCapability(Supported):
    low: Supported
    medium: Supported
    high: Supported
    xhigh: Supported
    max: Supported


class ThinkingTypes(Reply):
    adaptive: Supported
    between_tools: Supported
    disabled: Supported
    enabled: Supported


class ThinkingCapability(Supported):
    types: ThinkingTypes


class ContextManagementCapability(Supported):
    clear_thinking_20251015: Supported
    clear_tool_uses_20250919: Supported
    compact_20260112: Supported


class ServerToolsCapability(Supported):
    code_execution: Supported
    web_search: Supported


class Capabilities(Reply):
    batch: Supported
    citations: Supported
    code_execution: Supported
    context_management: ContextManagementCapability
    effort: EffortCapability
    image_input: Supported
    pdf_input: Supported
    server_tools: ServerToolsCapability
    structured_outputs: Supported
    thinking: ThinkingCapability


class ModelInfo(Reply):
    """One usable name, as Anthropic's clients read it. `created_at` is RFC 3339."""

    type: Literal["model"]
    id: str
    display_name: str
    created_at: str
    lifecycle: Literal["active"]
    max_input_tokens: int
    max_tokens: int
    capabilities: Capabilities


class ModelInfoPage(Reply):
    data: list[ModelInfo]
    has_more: bool
    first_id: str | None
    last_id: str | None
