"""A chat completion request to neutral `ChatRequest`s: spellings, limits and refusals by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from osslo.api.chat_completions_schema import (
    AllowedToolsChoice,
    ChatCompletionRequest,
    InputMessage,
    NamedTool,
    TextPart,
)
from osslo.chat.models import ServedModel
from osslo.chat.request import (
    AssistantTurn,
    ChatMessage,
    ChatRequest,
    DeveloperText,
    JsonObject,
    JsonSchema,
    OutputFormat,
    PlainText,
    SystemText,
    ToolOutput,
    UserText,
)
from osslo.errors import RequestError, UnsupportedError
from osslo.harmony.effort import parse_effort
from osslo.harmony.grammar import ToolChoice, ToolMode
from osslo.harmony.messages import FunctionTool, ReasoningEffort
from osslo.settings import LimitSettings
from osslo.types import SamplingParams, ToolCall

T = TypeVar("T")

MAX_STOPS = 16

_CANNOT_APPLY = {
    "audio": "this model writes text only",
    "function_call": "it is OpenAI's old spelling; use tool_choice",
    "functions": "it is OpenAI's old spelling; use tools",
    "moderation": "there is no moderation here",
    "prediction": "predicted outputs are not supported",
    "prompt_cache_options": "prefixes are cached without it",
    "prompt_cache_retention": "prefixes are cached without it",
    "web_search_options": "this endpoint has no web search; declare a tool of your own",
}


@dataclass(frozen=True, slots=True)
class Spelling:
    """One of several names for the same parameter, and its value."""

    name: str
    value: Any


def to_chat_request(
    body: ChatCompletionRequest,
    model: ServedModel,
    *,
    request_id: str,
    tenant: str,
    limits: LimitSettings,
) -> ChatRequest:
    """The neutral request; with n choices each gets a copy with an id and a seed of its own.

    Raises `RequestError` or `UnsupportedError` naming the parameter.
    """
    refuse_inapplicable(body)
    tools = _tools(body, limits)
    effort, reasoning = _effort(body)
    return ChatRequest(
        request_id=request_id,
        messages=_messages(body, limits),
        sampling=_sampling(body, model, limits),
        max_tokens=_max_tokens(body, limits),
        stop=_stops(body),
        tools=tools,
        tool_choice=_tool_choice(body, tools),
        parallel_tool_calls=bool(body.parallel_tool_calls),
        output_format=_output_format(body, limits),
        effort=effort,
        reasoning=reasoning,
        strict=_strict(body),
        tenant=tenant,
    )


def refuse_inapplicable(body: ChatCompletionRequest) -> None:
    """Raise `UnsupportedError` for what cannot apply here."""
    for name, why in _CANNOT_APPLY.items():
        if getattr(body, name) is not None:
            raise UnsupportedError(f"'{name}' is not supported: {why}.", param=name)
    if body.store:
        raise UnsupportedError(
            "'store' is not supported: this server keeps no answers. Send false or leave it out.",
            param="store",
        )
    if body.modalities is not None and body.modalities != ["text"]:
        raise UnsupportedError("'modalities' can only be ['text'].", param="modalities")
    if body.service_tier not in (None, "auto", "default"):
        raise UnsupportedError(
            "'service_tier' can only be 'auto' or 'default'.", param="service_tier"
        )
    if body.verbosity not in (None, "medium"):
        raise UnsupportedError(
            "'verbosity' is not supported: gpt-oss has no such control; ask in the messages.",
            param="verbosity",
        )


# --- one value, several spellings ---------------------------------------------------------------


def _same(*spellings: Spelling) -> Spelling | None:
    """The one value that was given. Raises `RequestError` if two differ."""
    given = [spelling for spelling in spellings if spelling.value is not None]
    for other in given[1:]:
        if other.value != given[0].value:
            raise RequestError(
                f"'{given[0].name}' and '{other.name}' mean the same here but differ; "
                "send one of them.",
                param=other.name,
            )
    return given[0] if given else None


def _max_tokens(body: ChatCompletionRequest, limits: LimitSettings) -> int | None:
    given = _same(
        Spelling("max_completion_tokens", body.max_completion_tokens),
        Spelling("max_tokens", body.max_tokens),
        Spelling("max_tokens_to_sample", body.max_tokens_to_sample),
    )
    if given is None:
        return None
    limit: int = given.value
    if limit > limits.max_output_tokens:
        raise RequestError(
            f"'{given.name}' is {limit}, but this server generates at most "
            f"{limits.max_output_tokens} tokens a request.",
            param=given.name,
            code="integer_above_max_value",
        )
    return limit


def _stops(body: ChatCompletionRequest) -> tuple[str, ...]:
    stop = [body.stop] if isinstance(body.stop, str) else body.stop
    given = _same(Spelling("stop", stop), Spelling("stop_sequences", body.stop_sequences))
    if given is None:
        return ()
    stops: list[str] = given.value
    if len(stops) > MAX_STOPS:
        raise RequestError(
            f"'{given.name}' has {len(stops)} strings; the most is {MAX_STOPS}.", param=given.name
        )
    if any(not text or len(text) > 1024 for text in stops):
        raise RequestError(
            f"'{given.name}' holds an empty string or one over 1024 characters.", param=given.name
        )
    return tuple(stops)


def _effort(body: ChatCompletionRequest) -> tuple[ReasoningEffort | None, bool]:
    """The effort, and whether the model is to reason at all."""
    nested = body.reasoning.effort if body.reasoning is not None else None
    given = _same(
        Spelling("reasoning_effort", body.reasoning_effort), Spelling("reasoning.effort", nested)
    )
    if given is None:
        return None, True
    text = str(given.value).strip().lower()
    return parse_effort(text), text != "none"


# --- messages -----------------------------------------------------------------------------------


def _messages(body: ChatCompletionRequest, limits: LimitSettings) -> tuple[ChatMessage, ...]:
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
    if len(body.messages) > limits.max_messages:
        raise RequestError(
            f"'messages' holds {len(body.messages)} messages; the most is {limits.max_messages}.",
            param="messages",
        )
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
    reasoning = _same(
        Spelling(f"{where}.reasoning_content", message.reasoning_content),
        Spelling(f"{where}.reasoning", message.reasoning),
    )
    calls = tuple(
        ToolCall(call.id, call.function.name, call.function.arguments)
        for call in message.tool_calls or ()
    )
    text = _text(message.content, where) or message.refusal or ""
    if message.content is None and not (calls or reasoning or message.refusal):
        _required_text(message, where)
    return AssistantTurn(text, reasoning.value if reasoning else "", calls)


def _required_text(message: InputMessage, where: str) -> str:
    if message.content is None:
        raise RequestError(
            f"'{where}.content' is required.",
            param=f"{where}.content",
            code="missing_required_parameter",
        )
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
        raise RequestError(
            f"'{where}.text' is required.",
            param=f"{where}.text",
            code="missing_required_parameter",
        )
    return value


# --- sampling -----------------------------------------------------------------------------------


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _sampling(
    body: ChatCompletionRequest, model: ServedModel, limits: LimitSettings
) -> SamplingParams:
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")
    choices = _or(body.n, 1)
    if choices > limits.max_choices:
        raise RequestError(f"'n' is {choices}; the most is {limits.max_choices}.", param="n")
    return SamplingParams(
        max_tokens=limits.max_output_tokens,
        temperature=_or(body.temperature, 1.0),
        top_p=_or(body.top_p, 1.0),
        top_k=max(0, _or(body.top_k, 0)),
        min_p=_or(body.min_p, 0.0),
        presence_penalty=_or(body.presence_penalty, 0.0),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
        repetition_penalty=_or(body.repetition_penalty, 1.0),
        logit_bias=_logit_bias(body, model),
        seed=body.seed,
        logprobs=_or(body.top_logprobs, 0) if body.logprobs else None,
        ignore_eos=bool(body.ignore_eos),
    )


def _logit_bias(body: ChatCompletionRequest, model: ServedModel) -> tuple[tuple[int, float], ...]:
    bias: list[tuple[int, float]] = []
    for token, value in (body.logit_bias or {}).items():
        where = f"logit_bias.{token[:32]}"
        vocabulary = model.vocabulary.vocab_size
        if not (token.isascii() and token.isdigit()) or len(token) > 9 or int(token) >= vocabulary:
            raise RequestError(
                f"'{where}' is not a token id of this model (0 to {vocabulary - 1}).", param=where
            )
        if not -100 <= value <= 100:
            raise RequestError(f"'{where}' must be from -100 to 100.", param=where)
        bias.append((int(token), value))
    return tuple(bias)


# --- tools and formats --------------------------------------------------------------------------


def _tools(body: ChatCompletionRequest, limits: LimitSettings) -> tuple[FunctionTool, ...]:
    given = body.tools or []
    if len(given) > limits.max_tools:
        raise RequestError(
            f"'tools' holds {len(given)} tools; the most is {limits.max_tools}.", param="tools"
        )
    tools: list[FunctionTool] = []
    for index, tool in enumerate(given):
        where = f"tools[{index}]"
        if tool.type != "function":
            raise UnsupportedError(
                f"'{where}' is of type '{tool.type}'; only functions are supported.",
                param=f"{where}.type",
            )
        if tool.function is None:
            raise RequestError(
                f"'{where}.function' is required.",
                param=f"{where}.function",
                code="missing_required_parameter",
            )
        definition = tool.function
        _check_schema(definition.parameters, f"{where}.function.parameters", limits)
        if any(other.name == definition.name for other in tools):
            raise RequestError(
                f"Two tools are called '{definition.name}'.", param=f"{where}.function.name"
            )
        tools.append(
            FunctionTool(definition.name, definition.description or "", definition.parameters)
        )
    return tuple(tools)


def _check_schema(schema: dict[str, Any] | None, where: str, limits: LimitSettings) -> None:
    if schema is not None and len(json.dumps(schema)) > limits.max_schema_bytes:
        raise RequestError(
            f"'{where}' is larger than {limits.max_schema_bytes} bytes.", param=where
        )


def _tool_choice(body: ChatCompletionRequest, tools: tuple[FunctionTool, ...]) -> ToolChoice:
    match body.tool_choice:
        case None:
            return ToolChoice()
        case NamedTool(function=function):
            choice = ToolChoice.named(function.name)
        case AllowedToolsChoice(allowed_tools=allowed):
            names = tuple(tool.function.name for tool in allowed.tools)
            choice = ToolChoice(ToolMode(allowed.mode), names)
        case word:
            choice = ToolChoice(ToolMode(word))
    if not tools and choice.mode is not ToolMode.NONE:
        raise RequestError("'tool_choice' needs 'tools'.", param="tool_choice")
    unknown = set(choice.names or ()) - {tool.name for tool in tools}
    if unknown:
        raise RequestError(
            f"'tool_choice' names {', '.join(sorted(unknown))}, not among 'tools'.",
            param="tool_choice",
        )
    return choice


def _output_format(body: ChatCompletionRequest, limits: LimitSettings) -> OutputFormat:
    given = body.response_format
    if given is None or given.type == "text":
        return PlainText()
    if given.type == "json_object":
        return JsonObject()
    if given.json_schema is None:
        raise RequestError(
            "'response_format.json_schema' is required for this type.",
            param="response_format.json_schema",
            code="missing_required_parameter",
        )
    wanted = given.json_schema
    _check_schema(wanted.schema_, "response_format.json_schema.schema", limits)
    return JsonSchema(wanted.name, wanted.schema_, wanted.description or "")


def _strict(body: ChatCompletionRequest) -> bool:
    """Whether any schema is to be enforced in full or refused."""
    schema = body.response_format.json_schema if body.response_format is not None else None
    functions = [tool.function for tool in body.tools or () if tool.function is not None]
    return bool(schema is not None and schema.strict) or any(f.strict for f in functions)
