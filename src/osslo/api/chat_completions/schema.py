"""Shapes of what `/v1/chat/completions` takes; `reply_schema` has what it gives.

Requests are strict: no coercion, and no parameter is ignored in silence. A parameter of OpenAI's
that cannot apply here is declared, so that the adapter can refuse it by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from osslo.api.body import StrictSchema, one_of, refused
from osslo.api.guided import GuidedFields
from osslo.api.shapes import Metadata, StreamOptions

FUNCTION_NAME = r"^[a-zA-Z0-9_-]{1,64}$"

FunctionName = Annotated[str, Field(pattern=FUNCTION_NAME)]
Effort = Annotated[str, one_of("none", "minimal", "low", "medium", "high", "xhigh")]


class TextPart(StrictSchema):
    """One part of a message. Only text is understood; other types are refused by name."""

    type: Annotated[str, one_of("text", "input_text", "output_text", "refusal")]
    text: str | None = None
    refusal: str | None = None
    image_url: Any = refused("this model reads text only")
    input_audio: Any = refused("this model reads text only")
    file: Any = refused("this model reads text only")
    cache_control: Any = Field(None, description="Accepted; prefixes are always cached.")


class CalledFunction(StrictSchema):
    name: str = Field(min_length=1, max_length=256)
    arguments: str


class CalledCustom(StrictSchema):
    name: str = Field(min_length=1, max_length=256)
    input: str


class MessageToolCall(StrictSchema):
    """A call that an assistant message made: of a function, or of a custom tool."""

    id: str = Field(min_length=1, max_length=256)
    type: Literal["function", "custom"] = "function"
    function: CalledFunction | None = None
    custom: CalledCustom | None = None
    index: int | None = None


class InputMessage(StrictSchema):
    """A message of any role. `reasoning_content` and `reasoning` are the same: what the model
    thought, handed back so that it can go on after a tool call."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[MessageToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    audio: Any = refused()
    function_call: Any = refused()
    annotations: Any = Field(None, description="Accepted back and not used.")
    reasoning_details: Any = Field(None, description="Accepted back and not used.")


class FunctionDefinition(StrictSchema):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolGrammar(StrictSchema):
    """`lark` is llguidance's dialect, from the rule `start`; `regex` is Rust's syntax."""

    definition: str
    syntax: Literal["lark", "regex"]


class CustomFormat(StrictSchema):
    type: Literal["text", "grammar"]
    grammar: ToolGrammar | None = None


class CustomDefinition(StrictSchema):
    """A tool whose input is text: free, or in the form of a grammar."""

    name: FunctionName
    description: str | None = None
    format: CustomFormat | None = None


class Tool(StrictSchema):
    """A tool that the model may call: a function, or a custom tool. Other types are refused."""

    type: Annotated[str, one_of("function", "custom")]
    function: FunctionDefinition | None = None
    custom: CustomDefinition | None = None


class ToolName(StrictSchema):
    name: FunctionName


class NamedTool(StrictSchema):
    type: Literal["function"]
    function: ToolName


class NamedCustomTool(StrictSchema):
    type: Literal["custom"]
    custom: ToolName


class AllowedTool(StrictSchema):
    """A tool by its name; what else its declaration holds may be repeated."""

    type: Literal["function", "custom"]
    function: FunctionDefinition | None = None
    custom: CustomDefinition | None = None


class AllowedTools(StrictSchema):
    mode: Literal["auto", "required"]
    tools: list[AllowedTool] = Field(min_length=1)


class AllowedToolsChoice(StrictSchema):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoiceInput = (
    Literal["none", "auto", "required"] | NamedTool | NamedCustomTool | AllowedToolsChoice
)


class JsonSchemaFormat(StrictSchema):
    """A schema that the final answer follows."""

    name: FunctionName
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormatInput(StrictSchema):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class ReasoningInput(StrictSchema):
    """The effort as OpenRouter and the Responses API spell it."""

    effort: Effort | None = None
    exclude: bool | None = None


class ChatCompletionRequest(GuidedFields):
    """A chat completion request: OpenAI's, and the sampling parameters that vLLM and others add."""

    model: str = Field(min_length=1, max_length=256)
    messages: list[InputMessage] | None = None
    prompt: str | None = Field(None, description="The same as one user message.")

    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    max_tokens_to_sample: int | None = Field(None, ge=1)
    stop: str | list[str] | None = None
    stop_sequences: list[str] | None = None
    n: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1 << 24)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    logit_bias: dict[str, float] | None = Field(None, max_length=1024)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    ignore_eos: bool | None = None

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    tools: list[Tool] | None = None
    tool_choice: ToolChoiceInput | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormatInput | None = None

    reasoning_effort: Effort | None = None
    reasoning: ReasoningInput | None = None
    include_reasoning: bool | None = None

    metadata: Metadata | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Annotated[str, one_of("auto", "default")] | None = None
    store: bool | None = Field(None, description="Keep the answer for `GET` until it expires.")
    modalities: list[Annotated[str, one_of("text")]] | None = None
    verbosity: Annotated[str, one_of("medium")] | None = None

    audio: Any = refused()
    function_call: Any = refused()
    functions: Any = refused()
    moderation: Any = refused()
    prediction: Any = refused()
    prompt_cache_options: Any = refused()
    prompt_cache_retention: Any = refused()
    web_search_options: Any = refused()
