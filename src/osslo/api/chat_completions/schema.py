"""Shapes of `/v1/chat/completions`: what comes in, and what goes out.

Requests are strict: no coercion, and no parameter is ignored in silence. A parameter of OpenAI's
that cannot apply here is declared, so that the adapter can refuse it by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from osslo.api.body import StrictSchema
from osslo.api.shapes import Reply

FUNCTION_NAME = r"^[a-zA-Z0-9_-]{1,64}$"

FunctionName = Annotated[str, Field(pattern=FUNCTION_NAME)]


class TextPart(StrictSchema):
    """One part of a message. Only text is understood; other types are refused by name."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: Any = None
    input_audio: Any = None
    file: Any = None
    cache_control: Any = Field(None, description="Accepted; prefixes are always cached.")


class CalledFunction(StrictSchema):
    name: str = Field(min_length=1, max_length=256)
    arguments: str


class MessageToolCall(StrictSchema):
    """A call that an assistant message made."""

    id: str = Field(min_length=1, max_length=256)
    type: Literal["function"] = "function"
    function: CalledFunction
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
    audio: Any = None
    function_call: Any = None
    annotations: Any = Field(None, description="Accepted back and not used.")
    reasoning_details: Any = Field(None, description="Accepted back and not used.")


class FunctionDefinition(StrictSchema):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(StrictSchema):
    """A function that the model may call. Other types of tool are refused by name."""

    type: str
    function: FunctionDefinition | None = None
    custom: Any = None


class NamedFunction(StrictSchema):
    name: FunctionName


class NamedTool(StrictSchema):
    type: Literal["function"]
    function: NamedFunction


class AllowedTools(StrictSchema):
    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1)


class AllowedToolsChoice(StrictSchema):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class JsonSchemaFormat(StrictSchema):
    """A schema that the final answer follows."""

    name: FunctionName
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormatInput(StrictSchema):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StreamOptions(StrictSchema):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ReasoningInput(StrictSchema):
    """The effort as OpenRouter and the Responses API spell it."""

    effort: str | None = None
    exclude: bool | None = None


class ChatCompletionRequest(StrictSchema):
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
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedToolsChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormatInput | None = None

    reasoning_effort: str | None = None
    reasoning: ReasoningInput | None = None
    include_reasoning: bool | None = None

    metadata: dict[str, str] | None = Field(None, max_length=16)
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    modalities: list[str] | None = None
    verbosity: str | None = None

    audio: Any = None
    function_call: Any = None
    functions: Any = None
    moderation: Any = None
    prediction: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    web_search_options: Any = None


# --- replies ------------------------------------------------------------------------------------


class TokenAlternative(Reply):
    token: str
    logprob: float
    bytes: list[int] | None


class ContentLogprob(TokenAlternative):
    top_logprobs: list[TokenAlternative]


class ChoiceLogprobs(Reply):
    content: list[ContentLogprob] | None
    refusal: None = None


class CalledFunctionReply(Reply):
    name: str
    arguments: str


class ToolCallReply(Reply):
    id: str
    type: Literal["function"]
    function: CalledFunctionReply


class MessageReply(Reply):
    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCallReply] | None = None


class Choice(Reply):
    index: int
    message: MessageReply
    logprobs: ChoiceLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


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


class ChatCompletion(Reply):
    """A whole answer. `model` is the id of the model that really answered."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: UsageReply
    reasoning_effort: Literal["none", "low", "medium", "high"]
    service_tier: Literal["default"]
    system_fingerprint: str
    metadata: dict[str, str] | None = None
    warnings: list[str] | None = None


class FunctionDelta(Reply):
    name: str | None = None
    arguments: str


class ToolCallDeltaReply(Reply):
    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class Delta(Reply):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCallDeltaReply] | None = None


class ChunkChoice(Reply):
    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"] | None


class ChatCompletionChunk(Reply):
    """One event of a stream. The first one holds `reasoning_effort`, `metadata` and `warnings`;
    with `stream_options.include_usage` the last one has no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: UsageReply | None = None
    reasoning_effort: Literal["none", "low", "medium", "high"] | None = None
    metadata: dict[str, str] | None = None
    warnings: list[str] | None = None
    service_tier: Literal["default"]
    system_fingerprint: str
