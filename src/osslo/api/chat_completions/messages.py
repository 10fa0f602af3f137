"""The messages of a chat completion request, as neutral ones: roles, parts, calls made before."""

from __future__ import annotations

from collections.abc import Sequence

from osslo.api.chat_completions.schema import (
    ChatCompletionRequest,
    InputMessage,
    MessageToolCall,
    TextPart,
)
from osslo.api.parameters import Spelling, check_count, missing, same
from osslo.chat.request import (
    AssistantTurn,
    ChatMessage,
    DeveloperText,
    SystemText,
    ToolOutput,
    UserText,
)
from osslo.errors import RequestError, UnsupportedError
from osslo.settings import LimitSettings
from osslo.types import ToolCall


def chat_messages(body: ChatCompletionRequest, limits: LimitSettings) -> tuple[ChatMessage, ...]:
    """The conversation. Raises `RequestError` or `UnsupportedError` naming the message."""
    if body.prompt is not None:
        if body.messages:
            raise RequestError("Send 'messages' or 'prompt', not both.", param="prompt")
        return (UserText(body.prompt),)
    if not body.messages:
        raise RequestError(
            "'messages' is required and must hold at least one message.",
            param="messages",
            code="missing_required_parameter",
        )
    check_count("messages", len(body.messages), limits.max_messages)
    return tuple(
        _message(message, f"messages[{index}]") for index, message in enumerate(body.messages)
    )


def _message(message: InputMessage, where: str) -> ChatMessage:
    for name in ("audio", "function_call"):
        if getattr(message, name) is not None:
            raise UnsupportedError(f"'{where}.{name}' is not supported.", param=f"{where}.{name}")
    if message.role == "assistant":
        return _assistant(message, where)
    for name in ("tool_calls", "reasoning_content", "reasoning"):
        if getattr(message, name):
            raise RequestError(
                f"'{where}.{name}' belongs to assistant messages only.", param=f"{where}.{name}"
            )
    text = _required_text(message, where)
    match message.role:
        case "system":
            return SystemText(text)
        case "developer":
            return DeveloperText(text)
        case "tool":
            return _tool_output(message, text, where)
        case _:
            return UserText(text)


def _tool_output(message: InputMessage, text: str, where: str) -> ToolOutput:
    if not message.tool_call_id:
        raise RequestError(
            f"'{where}.tool_call_id' is required: it says which call this answers.",
            param=f"{where}.tool_call_id",
            code="missing_required_parameter",
        )
    return ToolOutput(message.tool_call_id, text, message.name)


def _assistant(message: InputMessage, where: str) -> AssistantTurn:
    reasoning = same(
        Spelling(f"{where}.reasoning_content", message.reasoning_content),
        Spelling(f"{where}.reasoning", message.reasoning),
    )
    calls = tuple(
        _call(call, f"{where}.tool_calls[{index}]")
        for index, call in enumerate(message.tool_calls or ())
    )
    text = _text(message.content, where) or message.refusal or ""
    if message.content is None and not (calls or reasoning or message.refusal):
        _required_text(message, where)
    return AssistantTurn(text, reasoning.value if reasoning else "", calls)


def _call(call: MessageToolCall, where: str) -> ToolCall:
    if call.type == "custom":
        if call.custom is None:
            raise missing(f"{where}.custom")
        return ToolCall(call.id, call.custom.name, call.custom.input, custom=True)
    if call.function is None:
        raise missing(f"{where}.function")
    return ToolCall(call.id, call.function.name, call.function.arguments)


def _required_text(message: InputMessage, where: str) -> str:
    if message.content is None:
        raise missing(f"{where}.content")
    return _text(message.content, where)


def _text(content: str | Sequence[TextPart] | None, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(
        _part_text(part, f"{where}.content[{index}]") for index, part in enumerate(content)
    )


def _part_text(part: TextPart, where: str) -> str:
    text = {"text": part.text, "input_text": part.text, "output_text": part.text}
    text["refusal"] = part.refusal
    if part.type not in text:
        raise UnsupportedError(
            f"'{where}' is of type '{part.type}', but this model reads text only.",
            param=f"{where}.type",
        )
    value = text[part.type]
    if value is None:
        raise missing(f"{where}.text")
    return value
