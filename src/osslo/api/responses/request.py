"""A request for a response to a neutral `ChatRequest`: limits, and refusals by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from osslo.api.parameters import (
    Spelling,
    check_count,
    check_schema,
    check_tool_choice,
    check_tool_names,
    given_or,
    output_limit,
    stop_strings,
)
from osslo.api.parameters import logit_bias as checked_bias
from osslo.api.responses.hosted import HOSTED_INCLUDES, refused_include, refused_tool
from osslo.api.responses.schema import (
    AllowedTools,
    ChoiceFormat,
    ContextFields,
    CustomToolInput,
    FunctionToolInput,
    GrammarFormat,
    GrammarInput,
    JsonSchemaFormat,
    NamedTool,
    RegexFormat,
    ResponseRequest,
    TextFormat,
)
from osslo.chat.models import ServedModel
from osslo.chat.request import (
    ChatMessage,
    ChatRequest,
    ChoiceText,
    JsonObject,
    JsonSchema,
    LarkText,
    OutputFormat,
    PlainText,
    RegexText,
    SystemText,
)
from osslo.errors import RequestError, UnsupportedError
from osslo.harmony.bodies import Body, LarkBody, RegexBody, TextBody
from osslo.harmony.effort import parse_effort
from osslo.harmony.grammar import CustomTool, ToolChoice, ToolMode
from osslo.harmony.messages import FunctionTool, ReasoningEffort
from osslo.settings import LimitSettings
from osslo.types import SamplingParams

_CANNOT_APPLY = {
    "access_programs": "there are none here",
    "background_options": "background responses run as soon as there is room",
    "context_management": "send truncation 'auto' instead",
    "image": "this model reads text only",
    "moderation": "ask /v1/moderations, or give the key a guard",
    "prompt": "no prompts are kept here; send 'instructions' and 'input'",
    "prompt_cache_options": "prefixes are cached without it",
    "prompt_cache_retention": "prefixes are cached without it",
}

_MAX = "max"
"""An effort that only this protocol knows; the most there is."""


def refuse_inapplicable(body: ResponseRequest) -> None:
    """Raise `UnsupportedError` for what cannot apply here, `RequestError` for parameters that
    exclude each other."""
    for name, why in _CANNOT_APPLY.items():
        if getattr(body, name) is not None:
            raise UnsupportedError(f"'{name}' is not supported: {why}.", param=name)
    for index, name in enumerate(body.include or []):
        if name in HOSTED_INCLUDES:
            raise refused_include(name, f"include[{index}]")
    if body.service_tier not in (None, "auto", "default"):
        raise UnsupportedError(
            "'service_tier' can only be 'auto' or 'default'.", param="service_tier"
        )
    if body.stream_options is not None and not body.stream:
        raise RequestError("'stream_options' needs 'stream': true.", param="stream_options")
    if body.background and body.store is False:
        raise RequestError(
            "'background' needs 'store': true, because its result is fetched later.", param="store"
        )
    refuse_context(body)


def refuse_context(body: ContextFields) -> None:
    """`refuse_inapplicable` for what a prompt is made of."""
    if body.previous_response_id is not None and body.conversation is not None:
        raise RequestError(
            "'previous_response_id' and 'conversation' both say what came before; send one.",
            param="previous_response_id",
        )
    if body.text is not None and body.text.verbosity not in (None, "medium"):
        raise UnsupportedError(
            "'text.verbosity' is not supported: gpt-oss has no such control; ask in the "
            "instructions.",
            param="text.verbosity",
        )
    reasoning = body.reasoning
    if reasoning is None:
        return
    for name in ("summary", "generate_summary"):
        if getattr(reasoning, name) not in (None, "auto"):
            raise UnsupportedError(
                f"'reasoning.{name}' can only be 'auto': nothing is summarised here, the reasoning "
                "itself is in the reasoning item's content.",
                param=f"reasoning.{name}",
            )
    if reasoning.context == "all_turns":
        raise UnsupportedError(
            "'reasoning.context' cannot be 'all_turns': gpt-oss reads the reasoning of a turn that "
            "still runs only.",
            param="reasoning.context",
        )
    if reasoning.mode not in (None, "standard"):
        raise UnsupportedError("'reasoning.mode' can only be 'standard'.", param="reasoning.mode")


def to_chat_request(
    body: ContextFields,
    said: Sequence[ChatMessage],
    *,
    request_id: str,
    tenant: str,
    sampling: SamplingParams,
    limits: LimitSettings,
) -> ChatRequest:
    """The neutral request: what was `said` before and now, behind the instructions, and what the
    answer may be. Raises `RequestError` or `UnsupportedError` naming the parameter."""
    tools = declared_tools(body, limits)
    effort, reasons = _effort(body)
    instructions = (SystemText(body.instructions),) if body.instructions else ()
    own = body if isinstance(body, ResponseRequest) else None
    return ChatRequest(
        request_id=request_id,
        messages=(*instructions, *said),
        sampling=sampling,
        max_tokens=None if own is None else _max_tokens(own, limits),
        stop=() if own is None else _stops(own),
        tools=tools.functions,
        custom_tools=tools.customs,
        tool_choice=tool_choice(body, tools.names),
        parallel_tool_calls=bool(body.parallel_tool_calls),
        max_tool_calls=None if own is None else own.max_tool_calls,
        output_format=output_format(body, limits),
        effort=effort,
        reasoning=reasons,
        truncate=body.truncation == "auto",
        tenant=tenant,
    )


def sampling_of(body: ResponseRequest, model: ServedModel, limits: LimitSettings) -> SamplingParams:
    """How tokens are chosen. Raises `RequestError`."""
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
        logprobs=given_or(body.top_logprobs, 0) if wants_logprobs(body) else None,
        ignore_eos=bool(body.ignore_eos),
    )


def wants_logprobs(body: ResponseRequest) -> bool:
    """Whether the text comes with log-probabilities: `include` says so, or `top_logprobs`."""
    return "message.output_text.logprobs" in (body.include or ()) or bool(body.top_logprobs)


def _max_tokens(body: ResponseRequest, limits: LimitSettings) -> int | None:
    if body.max_output_tokens is None:
        return None
    return output_limit(Spelling("max_output_tokens", body.max_output_tokens), limits)


def _stops(body: ResponseRequest) -> tuple[str, ...]:
    if body.stop is None:
        return ()
    given = [body.stop] if isinstance(body.stop, str) else body.stop
    return stop_strings(Spelling("stop", given))


def _effort(body: ContextFields) -> tuple[ReasoningEffort | None, bool]:
    """The effort, and whether the model is to reason at all."""
    given = None if body.reasoning is None else body.reasoning.effort
    if given is None:
        return None, True
    word = given.strip().lower()
    if word == _MAX:
        return ReasoningEffort.HIGH, True
    return parse_effort(word, param="reasoning.effort"), word != "none"


# --- tools and formats --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeclaredTools:
    """What the model may call. Functions and custom tools share one namespace."""

    functions: tuple[FunctionTool, ...]
    customs: tuple[CustomTool, ...]

    @property
    def names(self) -> frozenset[str]:
        functions = {tool.name for tool in self.functions}
        return frozenset(functions | {tool.name for tool in self.customs})


def declared_tools(body: ContextFields, limits: LimitSettings) -> DeclaredTools:
    """The tools of `body`. Raises `RequestError` or `UnsupportedError` naming the tool."""
    given = body.tools or []
    check_count("tools", len(given), limits.max_tools)
    functions: list[FunctionTool] = []
    customs: list[CustomTool] = []
    places: list[tuple[str, str]] = []
    for index, tool in enumerate(given):
        where = f"tools[{index}]"
        match tool:
            case FunctionToolInput(name=name):
                check_schema(tool.parameters, f"{where}.parameters", limits)
                functions.append(_function(tool))
            case CustomToolInput(name=name):
                customs.append(CustomTool(name, _custom_body(tool), tool.description or ""))
            case _:
                raise refused_tool(tool.type, where)
        places.append((name, f"{where}.name"))
    check_tool_names(places)
    return DeclaredTools(tuple(functions), tuple(customs))


def _function(tool: FunctionToolInput) -> FunctionTool:
    return FunctionTool(tool.name, tool.description or "", tool.parameters, bool(tool.strict))


def _custom_body(tool: CustomToolInput) -> Body:
    match tool.format:
        case GrammarInput(syntax="lark", definition=definition):
            return LarkBody(definition)
        case GrammarInput(definition=definition):
            return RegexBody(definition)
        case _:
            return TextBody()


def tool_choice(body: ContextFields, declared: frozenset[str]) -> ToolChoice:
    """Which tools may or must be called. Raises `RequestError` for one that is not there."""
    match body.tool_choice:
        case None:
            return ToolChoice()
        case NamedTool() as named:
            choice = ToolChoice.named(_chosen_name(named, "tool_choice"))
        case AllowedTools(mode=mode, tools=tools):
            names = tuple(
                _chosen_name(tool, f"tool_choice.tools[{index}]")
                for index, tool in enumerate(tools)
            )
            choice = ToolChoice(ToolMode(mode), names)
        case word:
            choice = ToolChoice(ToolMode(word))
            if not declared and choice.mode is ToolMode.AUTO:
                return choice
    return check_tool_choice(choice, declared)


def _chosen_name(tool: NamedTool, where: str) -> str:
    if tool.type not in ("function", "custom"):
        raise refused_tool(tool.type, where)
    if tool.name is None:
        raise RequestError(
            f"'{where}.name' is required: it says which tool.",
            param=f"{where}.name",
            code="missing_required_parameter",
        )
    return tool.name


def output_format(body: ContextFields, limits: LimitSettings) -> OutputFormat:
    """What the final message is. Raises `RequestError`."""
    given = None if body.text is None else body.text.format
    match given:
        case None | TextFormat(type="text"):
            return PlainText()
        case TextFormat():
            return JsonObject()
        case JsonSchemaFormat(name=name, schema_=schema):
            check_schema(schema, "text.format.schema", limits)
            return JsonSchema(name, schema, given.description or "", bool(given.strict))
        case GrammarFormat(grammar=grammar):
            return LarkText(grammar)
        case RegexFormat(pattern=pattern):
            return RegexText(pattern)
        case ChoiceFormat(choices=choices):
            return ChoiceText(tuple(choices))
