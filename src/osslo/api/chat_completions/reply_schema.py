"""Shapes of what `/v1/chat/completions` answers: for documents and tests, not to send with."""

from __future__ import annotations

from typing import Literal

from osslo.api.shapes import Page, Reply, UsageReply

Effort = Literal["none", "low", "medium", "high"]
FinishReasonReply = Literal["stop", "length", "tool_calls", "content_filter"]


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


class CalledCustomReply(Reply):
    name: str
    input: str


class ToolCallReply(Reply):
    """A call of a function."""

    id: str
    type: Literal["function"]
    function: CalledFunctionReply


class CustomToolCallReply(Reply):
    """A call of a custom tool."""

    id: str
    type: Literal["custom"]
    custom: CalledCustomReply


class MessageReply(Reply):
    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCallReply | CustomToolCallReply] | None = None


class Choice(Reply):
    index: int
    message: MessageReply
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReasonReply


class Remarks(Reply):
    """What Osslo has to say about the answer: which keywords of schemas are not enforced."""

    warnings: list[str]


class ChatCompletion(Reply):
    """A whole answer. `model` is the id of the model that really answered."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: UsageReply
    reasoning_effort: Effort
    service_tier: Literal["default"]
    system_fingerprint: str
    metadata: dict[str, str] | None = None
    osslo: Remarks | None = None


class FunctionDelta(Reply):
    name: str | None = None
    arguments: str


class CustomDelta(Reply):
    name: str | None = None
    input: str


class ToolCallDeltaReply(Reply):
    """A piece of a call: `id`, `type` and the name come with the first one."""

    index: int
    id: str | None = None
    type: Literal["function", "custom"] | None = None
    function: FunctionDelta | None = None
    custom: CustomDelta | None = None


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
    finish_reason: FinishReasonReply | None


class ChatCompletionChunk(Reply):
    """One event of a stream. The first one holds `reasoning_effort`, `metadata` and `osslo`;
    with `stream_options.include_usage` the last one has no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: UsageReply | None = None
    reasoning_effort: Effort | None = None
    metadata: dict[str, str] | None = None
    osslo: Remarks | None = None
    service_tier: Literal["default"]
    system_fingerprint: str
    obfuscation: str | None = None


class ContentPartReply(Reply):
    type: Literal["text"]
    text: str


class StoredMessage(Reply):
    """A message of a kept answer's request. `content_parts` are the parts, where it had any."""

    id: str
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None
    content_parts: list[ContentPartReply] | None = None
    refusal: str | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[ToolCallReply | CustomToolCallReply] | None = None
    reasoning_content: str | None = None


class StoredCompletionPage(Page[ChatCompletion]):
    """Kept answers."""


class StoredMessagePage(Page[StoredMessage]):
    """The messages of one kept answer's request."""
