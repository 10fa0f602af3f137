"""A Messages request to a neutral `ChatRequest`: defaults, limits and refusals by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from types import MappingProxyType

from osslo.api.messages.conversation import Dialogue, to_dialogue
from osslo.api.messages.schema import (
    ClientTool,
    CountTokensRequest,
    MessagesRequest,
    OtherTool,
    Tool,
)
from osslo.api.messages.thinking import ThinkingSeal
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
from osslo.chat.request import ChatRequest, JsonSchema, OutputFormat, PlainText
from osslo.errors import RequestError, UnsupportedError
from osslo.harmony.effort import parse_effort
from osslo.harmony.grammar import ToolChoice, ToolMode
from osslo.harmony.messages import FunctionTool, ReasoningEffort
from osslo.settings import LimitSettings
from osslo.types import SamplingParams

_CANNOT_APPLY: Mapping[str, str] = MappingProxyType(
    {
        "billing_policy": "prices here have no policies",
        "compaction": "send a shorter conversation",
        "container": "there is no code execution here",
        "diagnostics": "cache misses are not explained; usage says what was read from the cache",
        "fallback_credit_token": "there are no fallback models",
        "fallbacks": "there are no fallback models",
        "inference_geo": "the model runs where this server is",
        "mcp_servers": "this server connects to no MCP servers; declare their tools yourself",
        "thread": "conversations are not kept here; send the messages",
        "user_profile_id": "there are no user profiles; metadata.user_id is accepted",
        "workspace_id": "there are no workspaces",
    }
)

_CLEARED = "clear_thinking_20251015"
_FORMAT_NAME = "response"
_CALLERS = ["direct"]


class Display(Enum):
    """What of the thinking an answer shows."""

    SHOWN = auto()
    OMITTED = auto()  # a block without text, whose signature carries it
    HIDDEN = auto()  # no block


@dataclass(frozen=True, slots=True)
class ThinkingPlan:
    """Whether the model reasons, for how many tokens at most, and what is shown of it."""

    reason: bool
    display: Display
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """Under which a request is read: its id, whose it is, and the server's limits."""

    request_id: str
    tenant: str
    limits: LimitSettings
    seal: ThinkingSeal


def to_chat_request(body: MessagesRequest, terms: Terms) -> ChatRequest:
    """The neutral request. `max_tokens` is a ceiling: where the context leaves less, the answer
    may end there.

    Raises `RequestError` or `UnsupportedError` naming the parameter.
    """
    limit = output_limit(Spelling("max_tokens", body.max_tokens), terms.limits)
    request = to_counted_request(body, terms)
    return replace(
        request,
        sampling=SamplingParams(
            max_tokens=given_or(limit, terms.limits.max_output_tokens),
            temperature=given_or(body.temperature, 1.0),
            top_p=given_or(body.top_p, 1.0),
            top_k=given_or(body.top_k, 0),
        ),
        stop=stop_strings(Spelling("stop_sequences", body.stop_sequences or [])),
    )


def to_counted_request(body: CountTokensRequest, terms: Terms) -> ChatRequest:
    """All that decides the prompt. Raises as `to_chat_request` does."""
    _refuse_inapplicable(body)
    check_count("messages", len(body.messages), terms.limits.max_messages)
    dialogue = to_dialogue(body.system, body.messages, terms.seal)
    tools = _tools(body.tools or [], terms.limits)
    plan = thinking_plan(body)
    _check_prefill(body, dialogue)
    return ChatRequest(
        request_id=terms.request_id,
        messages=dialogue.messages,
        sampling=SamplingParams(max_tokens=terms.limits.max_output_tokens),
        tools=tools,
        tool_choice=_tool_choice(body, tools),
        parallel_tool_calls=_parallel(body),
        output_format=_output_format(body, terms.limits),
        effort=_effort(body),
        reasoning=plan.reason,
        reasoning_max_tokens=plan.max_tokens,
        prefill=dialogue.prefill,
        tenant=terms.tenant,
    )


def _refuse_inapplicable(body: CountTokensRequest) -> None:
    for name, why in _CANNOT_APPLY.items():
        if getattr(body, name, None) not in (None, [], {}):
            raise UnsupportedError(f"'{name}' is not supported: {why}.", param=name)
    if body.speed == "fast":
        raise UnsupportedError("'speed' can only be 'standard'.", param="speed")
    if body.output_config is not None and body.output_config.task_budget is not None:
        raise UnsupportedError(
            "'output_config.task_budget' is not supported: use max_tokens.",
            param="output_config.task_budget",
        )
    edits = body.context_management.edits if body.context_management is not None else None
    for index, edit in enumerate(edits or []):
        if edit.get("type") != _CLEARED:
            raise UnsupportedError(
                f"'context_management.edits[{index}]' can only be of type '{_CLEARED}': nothing "
                "else of a conversation is cleared here; send fewer messages.",
                param=f"context_management.edits[{index}].type",
            )


# --- thinking -----------------------------------------------------------------------------------


def thinking_plan(body: CountTokensRequest) -> ThinkingPlan:
    """What `thinking` asks for.

    Left out, the model reasons as gpt-oss does. The thinking is then shown only if there are
    tools, because reasoning has to come back with a tool's result; else the answer's text is the
    first block, as plain clients expect.
    """
    given = body.thinking
    if given is None:
        return ThinkingPlan(True, Display.SHOWN if body.tools else Display.HIDDEN)
    if given.type == "between_tools":
        raise UnsupportedError(
            "'thinking.type' cannot be 'between_tools'; use 'enabled', 'adaptive' or 'disabled'.",
            param="thinking.type",
        )
    if given.display == "updates" or given.block_binding:
        name = "block_binding" if given.block_binding else "display"
        raise UnsupportedError(
            f"'thinking.{name}' is not supported with that value.", param=f"thinking.{name}"
        )
    if given.type != "enabled" and given.budget_tokens is not None:
        raise RequestError(
            "'thinking.budget_tokens' belongs to the type 'enabled'.",
            param="thinking.budget_tokens",
        )
    if given.type == "disabled":
        return ThinkingPlan(False, Display.HIDDEN)
    if given.type == "enabled" and given.budget_tokens is None:
        raise missing("thinking.budget_tokens")
    display = Display.OMITTED if given.display == "omitted" else Display.SHOWN
    return ThinkingPlan(True, display, _budget(body, given.budget_tokens))


def _budget(body: CountTokensRequest, budget: int | None) -> int | None:
    """The bound on reasoning; None where max_tokens bounds it first."""
    most = body.max_tokens if isinstance(body, MessagesRequest) else None
    return None if budget is None or (most is not None and budget >= most) else budget


def _effort(body: CountTokensRequest) -> ReasoningEffort | None:
    given = body.output_config.effort if body.output_config is not None else None
    if given is None:
        return None
    return ReasoningEffort.HIGH if given == "max" else parse_effort(given)


def _check_prefill(body: CountTokensRequest, dialogue: Dialogue) -> None:
    """An answer that is begun has no room for thinking before it."""
    if dialogue.prefill and body.thinking is not None and body.thinking.type == "enabled":
        raise RequestError(
            "The last message begins the answer, which cannot be thought about first; leave it "
            "out, or 'thinking'.",
            param="thinking",
        )


# --- tools and format ---------------------------------------------------------------------------


def _tools(given: list[Tool], limits: LimitSettings) -> tuple[FunctionTool, ...]:
    check_count("tools", len(given), limits.max_tools)
    tools = tuple(_tool(tool, f"tools[{index}]", limits) for index, tool in enumerate(given))
    check_tool_names((tool.name, f"tools[{index}].name") for index, tool in enumerate(tools))
    return tools


def _tool(tool: Tool, where: str, limits: LimitSettings) -> FunctionTool:
    if isinstance(tool, OtherTool):
        raise UnsupportedError(
            f"'{where}' is of type '{tool.type}', which Anthropic's servers or models bring along; "
            "declare a tool of your own with an input_schema.",
            param=f"{where}.type",
        )
    if tool.defer_loading:
        raise UnsupportedError(
            f"'{where}.defer_loading' is not supported: there is no tool search.",
            param=f"{where}.defer_loading",
        )
    if tool.allowed_callers not in (None, [], _CALLERS):
        raise UnsupportedError(
            f"'{where}.allowed_callers' can only be {_CALLERS}: there is no code execution.",
            param=f"{where}.allowed_callers",
        )
    check_schema(tool.input_schema, f"{where}.input_schema", limits)
    return FunctionTool(tool.name, _description(tool), tool.input_schema, tool.strict)


def _description(tool: ClientTool) -> str:
    """What the model reads of a tool: its description, and the examples of its input."""
    examples = [json.dumps(example, ensure_ascii=False) for example in tool.input_examples or []]
    lines = [tool.description or "", *(f"Example of the input: {text}" for text in examples)]
    return "\n".join(line for line in lines if line)


def _tool_choice(body: CountTokensRequest, tools: tuple[FunctionTool, ...]) -> ToolChoice:
    given = body.tool_choice
    if given is None:
        return ToolChoice()
    if (given.type == "tool") != (given.name is not None):
        if given.type == "tool":
            raise missing("tool_choice.name")
        raise RequestError(
            "'tool_choice.name' belongs to the type 'tool'.", param="tool_choice.name"
        )
    match given.type:
        case "auto":
            choice = ToolChoice()
        case "any":
            choice = ToolChoice(ToolMode.REQUIRED)
        case "none":
            choice = ToolChoice(ToolMode.NONE)
        case _:
            choice = ToolChoice.named(given.name or "")
    if choice == ToolChoice() and not tools:
        return choice
    return check_tool_choice(choice, (tool.name for tool in tools))


def _parallel(body: CountTokensRequest) -> bool:
    """Several calls at once only where the caller says so: gpt-oss makes one call a turn."""
    return body.tool_choice is not None and body.tool_choice.disable_parallel_tool_use is False


def _output_format(body: CountTokensRequest, limits: LimitSettings) -> OutputFormat:
    nested = body.output_config.format if body.output_config is not None else None
    given = same(
        Spelling("output_config.format", nested), Spelling("output_format", body.output_format)
    )
    if given is None:
        return PlainText()
    schema = given.value.schema_
    check_schema(schema, f"{given.name}.schema", limits)
    return JsonSchema(_FORMAT_NAME, schema, strict=True)
