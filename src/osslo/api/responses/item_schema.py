"""Shapes of input items: what a caller says, hands back, or refers to.

Items that this server gave are taken back as they are. Parts and items of other types are read far
enough to be refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from osslo.api.body import StrictSchema

ItemId = Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,128}$")]
CallId = Annotated[str, Field(min_length=1, max_length=256)]
CalledName = Annotated[str, Field(min_length=1, max_length=256)]
Status = Literal["in_progress", "completed", "incomplete"]


class Part(StrictSchema):
    """A part of a message or of a tool's output. Only text is understood."""

    type: str = Field(json_schema_extra={"enum": ["input_text", "output_text", "text", "refusal"]})
    text: str | None = None
    refusal: str | None = None
    annotations: Any = Field(None, description="Accepted back and not used.")
    logprobs: Any = Field(None, description="Accepted back and not used.")
    prompt_cache_breakpoint: Any = Field(None, description="Accepted; prefixes are cached.")
    image_url: Any = None
    file_id: Any = None
    file_data: Any = None
    file_url: Any = None
    filename: Any = None
    detail: Any = None
    input_audio: Any = None


class MessageItem(StrictSchema):
    """A message of any role; `type` may be left out. `phase` says of an assistant's message
    whether it was a preamble or the answer."""

    type: Literal["message"] = "message"
    role: Literal["user", "system", "developer", "assistant"]
    content: str | list[Part]
    id: ItemId | None = None
    status: Status | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class _ToolItem(StrictSchema):
    """What items about calls share. A hosted tool's fields are taken empty."""

    id: ItemId | None = None
    status: Status | None = None
    caller: Any = None
    namespace: None = None
    created_by: str | None = None


class FunctionCallItem(_ToolItem):
    """A call of a function, as the model made it."""

    type: Literal["function_call"]
    call_id: CallId
    name: CalledName
    arguments: str
    async_: Literal[False] | None = Field(None, alias="async")


class CustomToolCallItem(_ToolItem):
    """A call of a custom tool, as the model made it."""

    type: Literal["custom_tool_call"]
    call_id: CallId
    name: CalledName
    input: str
    async_: Literal[False] | None = Field(None, alias="async")


class FunctionCallOutputItem(_ToolItem):
    """What a function gave back. `name` is needed only if the call itself is not there."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: str | list[Part]
    name: CalledName | None = None


class CustomToolCallOutputItem(_ToolItem):
    """What a custom tool gave back."""

    type: Literal["custom_tool_call_output"]
    call_id: CallId
    output: str | list[Part]
    name: CalledName | None = None


class SummaryPart(StrictSchema):
    type: Literal["summary_text"] = "summary_text"
    text: str


class ReasoningPart(StrictSchema):
    type: Literal["reasoning_text", "text"] = "reasoning_text"
    text: str


class ReasoningItem(StrictSchema):
    """What the model thought, handed back so that it can go on after a call. Its `content` is
    read, else `encrypted_content`, else the summary."""

    type: Literal["reasoning"]
    id: ItemId | None = None
    summary: list[SummaryPart] | None = None
    content: list[ReasoningPart] | None = None
    encrypted_content: str | None = None
    status: Status | None = None


class ItemReference(StrictSchema):
    """An item that this server keeps, by its id."""

    type: Literal["item_reference"] | None = None
    id: ItemId


_KINDS = (
    "message",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "reasoning",
    "item_reference",
)


class OtherItem(StrictSchema):
    """An item of another type; it is refused by name."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(json_schema_extra={"not": {"enum": list(_KINDS)}})


def _kind(value: Any) -> str:
    """The tag of an item, by its type or, where that is left out, by what it holds."""
    if not isinstance(value, dict):
        return getattr(value, "type", None) or "message"
    kind = value.get("type")
    if kind is None:
        return "item_reference" if "id" in value and "role" not in value else "message"
    return kind if isinstance(kind, str) and kind in _KINDS else "other"


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionCallOutputItem, Tag("function_call_output")]
    | Annotated[CustomToolCallItem, Tag("custom_tool_call")]
    | Annotated[CustomToolCallOutputItem, Tag("custom_tool_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[ItemReference, Tag("item_reference")]
    | Annotated[OtherItem, Tag("other")],
    Discriminator(_kind),
]
"""Any input item."""
