"""Shapes of what `/v1/messages` and its token count take.

Requests are strict, as Anthropic's are: an unknown field is a 400 that names it. What of
Anthropic's API cannot apply here is declared, so that the adapter can refuse it and say why. Kinds
of blocks and tools that this server does not know are let through to it for the same reason.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from osslo.api.body import StrictSchema

ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]
CallId = Annotated[str, Field(min_length=1, max_length=256)]


class CacheControl(StrictSchema):
    """Accepted; prefixes are always cached."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


# --- content blocks -----------------------------------------------------------------------------

_TAGS = ("text", "thinking", "redacted_thinking", "tool_use", "tool_result")


class TextBlock(StrictSchema):
    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: Any = Field(None, description="Accepted back and not used.")


class ThinkingBlock(StrictSchema):
    """Reasoning handed back, unchanged, so that the model can go on after a tool's result."""

    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class RedactedThinkingBlock(StrictSchema):
    type: Literal["redacted_thinking"]
    data: str


class ToolUseBlock(StrictSchema):
    """A call that the assistant made."""

    type: Literal["tool_use"]
    id: CallId
    name: str = Field(min_length=1, max_length=256)
    input: dict[str, Any]
    cache_control: CacheControl | None = None
    caller: Any = Field(None, description="Accepted back and not used.")
    toolset_name: None = None


class OtherBlock(StrictSchema):
    """Pictures, documents and what else is refused by name."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(json_schema_extra={"not": {"enum": [*_TAGS]}})


def _block_tag(block: Any) -> str:
    """Tags differ from any key of a block, so that errors can tell them apart."""
    kind = block.get("type") if isinstance(block, dict) else getattr(block, "type", None)
    return f"block:{kind}" if isinstance(kind, str) and kind in _TAGS else "block:other"


ResultBlock = Annotated[
    Annotated[TextBlock, Tag("block:text")] | Annotated[OtherBlock, Tag("block:other")],
    Discriminator(
        lambda block: "block:text" if _block_tag(block) == "block:text" else "block:other"
    ),
]


class ToolResultBlock(StrictSchema):
    """What a tool gave back."""

    type: Literal["tool_result"]
    tool_use_id: CallId
    content: str | list[ResultBlock] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None
    toolset_name: None = None


Block = Annotated[
    Annotated[TextBlock, Tag("block:text")]
    | Annotated[ThinkingBlock, Tag("block:thinking")]
    | Annotated[RedactedThinkingBlock, Tag("block:redacted_thinking")]
    | Annotated[ToolUseBlock, Tag("block:tool_use")]
    | Annotated[ToolResultBlock, Tag("block:tool_result")]
    | Annotated[OtherBlock, Tag("block:other")],
    Discriminator(_block_tag),
]


class InputMessage(StrictSchema):
    """A message. A last one of the assistant begins the answer. `system` may stand anywhere."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


# --- tools and options --------------------------------------------------------------------------


class ClientTool(StrictSchema):
    """A tool that the caller runs."""

    type: Literal["custom"] | None = None
    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    input_examples: list[dict[str, Any]] | None = Field(None, max_length=64)
    cache_control: CacheControl | None = None
    eager_input_streaming: bool | None = Field(None, description="Accepted; inputs always stream.")
    defer_loading: bool | None = None
    allowed_callers: list[str] | None = None


class OtherTool(StrictSchema):
    """Anthropic's own tools: refused by name."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(json_schema_extra={"not": {"const": "custom"}})


def _tool_tag(tool: Any) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
    return "tool:other" if isinstance(kind, str) and kind != "custom" else "tool:client"


Tool = Annotated[
    Annotated[ClientTool, Tag("tool:client")] | Annotated[OtherTool, Tag("tool:other")],
    Discriminator(_tool_tag),
]


class ToolChoiceInput(StrictSchema):
    """`name` belongs to the type `tool`."""

    type: Literal["auto", "any", "tool", "none"]
    name: ToolName | None = None
    disable_parallel_tool_use: bool | None = Field(
        None, description="Several calls in one answer need an explicit `false`."
    )


class Thinking(StrictSchema):
    """Whether the model reasons first, for how long, and what of it is shown."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: int | None = Field(None, ge=1)
    display: Literal["summarized", "omitted", "updates"] | None = None
    block_binding: Any = None


class OutputFormatInput(StrictSchema):
    """The JSON schema that the answer follows."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(StrictSchema):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormatInput | None = None
    task_budget: Any = None


class ContextManagement(StrictSchema):
    """Only `clear_thinking_20251015` is taken: reasoning of finished turns is always left out."""

    edits: list[dict[str, Any]] | None = Field(None, max_length=16)


class Metadata(StrictSchema):
    user_id: str | None = Field(None, max_length=512, description="Accepted.")


# --- requests -----------------------------------------------------------------------------------


class CountTokensRequest(StrictSchema):
    """What decides the prompt."""

    model: str = Field(min_length=1, max_length=256)
    messages: list[InputMessage] = Field(min_length=1)
    system: str | list[TextBlock] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoiceInput | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormatInput | None = Field(
        None, description="An older spelling of `output_config.format`."
    )
    cache_control: CacheControl | None = None
    context_management: ContextManagement | None = None
    speed: Literal["standard", "fast"] | None = None

    mcp_servers: Any = None
    user_profile_id: Any = None
    workspace_id: Any = None


class MessagesRequest(CountTokensRequest):
    """A request for a message."""

    max_tokens: int = Field(ge=1, description="The most tokens of output, thinking included.")
    stop_sequences: list[str] | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1 << 24)
    stream: bool | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None

    billing_policy: Any = None
    compaction: Any = None
    container: Any = None
    diagnostics: Any = None
    fallback_credit_token: Any = None
    fallbacks: Any = None
    inference_geo: Any = None
    thread: Any = None
