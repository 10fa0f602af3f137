"""A chat completion request to neutral `ChatRequest`s: spellings, limits and refusals by name."""

from __future__ import annotations

from collections.abc import Sequence

from osslo.api.chat_completions.schema import (
    AllowedToolsChoice,
    ChatCompletionRequest,
    InputMessage,
    NamedTool,
    TextPart,
)
from osslo.api.parameters import (
    Spelling,
    check_count,
    check_schema,
    check_tool_choice,
    check_tool_names,
    given_or,
    missing,
    output_limit,
    same,
    stop_strings,
)
from osslo.api.parameters import logit_bias as checked_bias
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


def _max_tokens(body: ChatCompletionRequest, limits: LimitSettings) -> int | None:
    given = same(
        Spelling("max_completion_tokens", body.max_completion_tokens),
        Spelling("max_tokens", body.max_tokens),
        Spelling("max_tokens_to_sample", body.max_tokens_to_sample),
    )
    return output_limit(given, limits)


def _stops(body: ChatCompletionRequest) -> tuple[str, ...]:
    stop = [body.stop] if isinstance(body.stop, str) else body.stop
    return stop_strings(
        same(Spelling("stop", stop), Spelling("stop_sequences", body.stop_sequences))
    )


def _effort(body: ChatCompletionRequest) -> tuple[ReasoningEffort | None, bool]:
    """The effort, and whether the model is to reason at all."""
    nested = body.reasoning.effort if body.reasoning is not None else None
    given = same(
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
        ToolCall(call.id, call.function.name, call.function.arguments)
        for call in message.tool_calls or ()
    )
    text = _text(message.content, where) or message.refusal or ""
    if message.content is None and not (calls or reasoning or message.refusal):
        _required_text(message, where)
    return AssistantTurn(text, reasoning.value if reasoning else "", calls)


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


# --- sampling -----------------------------------------------------------------------------------


def _sampling(
    body: ChatCompletionRequest, model: ServedModel, limits: LimitSettings
) -> SamplingParams:
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")
    choices = given_or(body.n, 1)
    if choices > limits.max_choices:
        raise RequestError(f"'n' is {choices}; the most is {limits.max_choices}.", param="n")
    return SamplingParams(
        max_tokens=limits.max_output_tokens,
        temperature=given_or(body.temperature, 1.0),
        top_p=given_or(body.top_p, 1.0),
        top_k=max(0, given_or(body.top_k, 0)),
        min_p=given_or(body.min_p, 0.0),
        presence_penalty=given_or(body.presence_penalty, 0.0),
        frequency_penalty=given_or(body.frequency_penalty, 0.0),
        repetition_penalty=given_or(body.repetition_penalty, 1.0),
        logit_bias=checked_bias(body.logit_bias, model.vocabulary.vocab_size),
        seed=body.seed,
        logprobs=given_or(body.top_logprobs, 0) if body.logprobs else None,
        ignore_eos=bool(body.ignore_eos),
    )


# --- tools and formats --------------------------------------------------------------------------


def _tools(body: ChatCompletionRequest, limits: LimitSettings) -> tuple[FunctionTool, ...]:
    given = body.tools or []
    check_count("tools", len(given), limits.max_tools)
    tools: list[FunctionTool] = []
    for index, tool in enumerate(given):
        where = f"tools[{index}]"
        if tool.type != "function":
            raise UnsupportedError(
                f"'{where}' is of type '{tool.type}'; only functions are supported.",
                param=f"{where}.type",
            )
        if tool.function is None:
            raise missing(f"{where}.function")
        definition = tool.function
        check_schema(definition.parameters, f"{where}.function.parameters", limits)
        tools.append(
            FunctionTool(definition.name, definition.description or "", definition.parameters)
        )
    check_tool_names(
        (tool.name, f"tools[{index}].function.name") for index, tool in enumerate(tools)
    )
    return tuple(tools)


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
    return check_tool_choice(choice, (tool.name for tool in tools))


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
    check_schema(wanted.schema_, "response_format.json_schema.schema", limits)
    return JsonSchema(wanted.name, wanted.schema_, wanted.description or "")


def _strict(body: ChatCompletionRequest) -> bool:
    """Whether any schema is to be enforced in full or refused."""
    schema = body.response_format.json_schema if body.response_format is not None else None
    functions = [tool.function for tool in body.tools or () if tool.function is not None]
    return bool(schema is not None and schema.strict) or any(f.strict for f in functions)
