"""Shapes of what `/v1/responses` takes.

Requests are strict. A parameter of OpenAI's that cannot apply here is declared, so that `request`
can refuse it by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from osslo.api.body import StrictSchema
from osslo.api.query import PageQuery
from osslo.api.responses.item_schema import InputItem, ItemId
from osslo.api.shapes import Metadata

FUNCTION_NAME = r"^[a-zA-Z0-9_-]{1,64}$"
ToolName = Annotated[str, Field(pattern=FUNCTION_NAME)]
Includable = Literal[
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
]


# --- tools --------------------------------------------------------------------------------------


class FunctionToolInput(StrictSchema):
    """A function that the model may call. Its arguments follow `parameters`, a JSON schema."""

    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    allowed_callers: list[Literal["direct"]] | None = None
    async_: Literal[False] | None = Field(None, alias="async")
    defer_loading: Literal[False] | None = None
    output_schema: None = None


class TextInput(StrictSchema):
    type: Literal["text"]


class GrammarInput(StrictSchema):
    """A syntax: llguidance's Lark dialect, or a regular expression in Rust's syntax."""

    type: Literal["grammar"]
    syntax: Literal["lark", "regex"]
    definition: str = Field(min_length=1)


class CustomToolInput(StrictSchema):
    """A tool whose input is text: free, or in a syntax."""

    type: Literal["custom"]
    name: ToolName
    description: str | None = None
    format: TextInput | GrammarInput | None = None
    allowed_callers: list[Literal["direct"]] | None = None
    async_: Literal[False] | None = Field(None, alias="async")
    defer_loading: Literal[False] | None = None


class OtherTool(StrictSchema):
    """A tool of another type; it is refused by name."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(json_schema_extra={"not": {"enum": ["function", "custom"]}})


def _tool_kind(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return kind if isinstance(kind, str) and kind in ("function", "custom") else "other"


ToolInput = Annotated[
    Annotated[FunctionToolInput, Tag("function")]
    | Annotated[CustomToolInput, Tag("custom")]
    | Annotated[OtherTool, Tag("other")],
    Discriminator(_tool_kind),
]


class NamedTool(StrictSchema):
    """The one tool that is to be called. Types other than these two are refused by name."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(json_schema_extra={"enum": ["function", "custom"]})
    name: str | None = None


class AllowedTools(StrictSchema):
    """The tools that may (`auto`) or of which one must (`required`) be called."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1)


def _choice_kind(value: Any) -> str:
    if isinstance(value, str):
        return "mode"
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "allowed" if kind == "allowed_tools" else "named"


ToolChoiceInput = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("mode")]
    | Annotated[AllowedTools, Tag("allowed")]
    | Annotated[NamedTool, Tag("named")],
    Discriminator(_choice_kind),
]


# --- text and reasoning -------------------------------------------------------------------------


class TextFormat(StrictSchema):
    """Free text, or some JSON object."""

    type: Literal["text", "json_object"]


class JsonSchemaFormat(StrictSchema):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    name: ToolName
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class GrammarFormat(StrictSchema):
    """Beside OpenAI's: text that follows a grammar in llguidance's Lark dialect."""

    type: Literal["grammar"]
    grammar: str = Field(min_length=1)


class RegexFormat(StrictSchema):
    """Beside OpenAI's: text that a regular expression matches as a whole, in Rust's syntax."""

    type: Literal["regex"]
    pattern: str = Field(min_length=1)


class ChoiceFormat(StrictSchema):
    """Beside OpenAI's: one of the given texts."""

    type: Literal["choice"]
    choices: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1, max_length=10_000)


FormatInput = Annotated[
    TextFormat | JsonSchemaFormat | GrammarFormat | RegexFormat | ChoiceFormat,
    Field(discriminator="type"),
]


class TextSettings(StrictSchema):
    format: FormatInput | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningSettings(StrictSchema):
    """How much the model is to think. A summary of `auto` gives none: the reasoning itself is in
    the reasoning item's `content`."""

    effort: str | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: Literal["auto", "current_turn", "all_turns"] | None = None
    mode: str | None = None


class StreamOptions(StrictSchema):
    include_obfuscation: bool | None = Field(
        None, description="Pad deltas with random text, which hides their lengths."
    )


class ConversationRef(StrictSchema):
    id: ItemId


# --- requests -----------------------------------------------------------------------------------


class ContextFields(StrictSchema):
    """What a prompt is made of."""

    input: str | list[InputItem] | None = None
    instructions: str | None = None
    previous_response_id: ItemId | None = None
    conversation: ItemId | ConversationRef | None = None
    tools: list[ToolInput] | None = None
    tool_choice: ToolChoiceInput | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningSettings | None = None
    text: TextSettings | None = None
    truncation: Literal["auto", "disabled"] | None = None

    @property
    def conversation_id(self) -> str | None:
        """The conversation, however it is spelled."""
        given = self.conversation
        return given.id if isinstance(given, ConversationRef) else given


class InputTokensRequest(ContextFields):
    """What to count. Without a model the first one is meant."""

    model: str | None = Field(None, min_length=1, max_length=256)
    personality: Any = None


class ResponseRequest(ContextFields):
    """A request for a response: OpenAI's, and the sampling parameters that vLLM and others add."""

    model: str = Field(min_length=1, max_length=256)
    background: bool | None = None
    include: list[Includable] | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    max_tool_calls: int | None = Field(None, ge=0)
    metadata: Metadata | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = Field(None, description="Keep it; the default is true.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    top_p: float | None = Field(None, ge=0, le=1)
    user: str | None = None
    client_metadata: Any = Field(None, description="What some agents send along; not used.")

    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    top_k: int | None = Field(None, ge=-1, le=1 << 24)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    logit_bias: dict[str, float] | None = Field(None, max_length=1024)
    ignore_eos: bool | None = None

    access_programs: Any = None
    background_options: Any = None
    context_management: Any = None
    image: Any = None
    moderation: Any = None
    prompt: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None


class ItemsQuery(PageQuery):
    """Which part of a list of items."""

    order: Literal["asc", "desc"] = "desc"
    include: list[Includable] | None = Field(None, description="Items are shown in full anyway.")


class RetrieveQuery(StrictSchema):
    """How a response is read: whole, or from an event of its stream on."""

    stream: bool | None = None
    starting_after: int | None = Field(None, ge=0, le=1 << 53)
    include: list[Includable] | None = Field(None, description="Items are shown in full anyway.")
    include_obfuscation: bool | None = None
