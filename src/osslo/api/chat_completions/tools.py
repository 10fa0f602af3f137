"""The tools, tool choice and output format of a chat completion request."""

from __future__ import annotations

from dataclasses import dataclass

from osslo.api.chat_completions.schema import (
    AllowedTool,
    AllowedToolsChoice,
    ChatCompletionRequest,
    CustomDefinition,
    FunctionDefinition,
    NamedCustomTool,
    NamedTool,
    Tool,
)
from osslo.api.guided import guided_format
from osslo.api.parameters import (
    check_count,
    check_schema,
    check_tool_choice,
    check_tool_names,
    missing,
)
from osslo.chat.request import JsonObject, JsonSchema, OutputFormat, PlainText
from osslo.errors import RequestError, UnsupportedError
from osslo.harmony.bodies import Body, LarkBody, RegexBody, TextBody
from osslo.harmony.grammar import CustomTool, ToolChoice, ToolMode
from osslo.harmony.messages import FunctionTool
from osslo.settings import LimitSettings


@dataclass(frozen=True, slots=True)
class DeclaredTools:
    """What the model may call. Functions and custom tools share one namespace."""

    functions: tuple[FunctionTool, ...] = ()
    customs: tuple[CustomTool, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        functions = {tool.name for tool in self.functions}
        return frozenset(functions | {tool.name for tool in self.customs})


def declared_tools(body: ChatCompletionRequest, limits: LimitSettings) -> DeclaredTools:
    """The tools of `body`. Raises `RequestError` or `UnsupportedError` naming the tool."""
    given = body.tools or []
    check_count("tools", len(given), limits.max_tools)
    functions: list[FunctionTool] = []
    customs: list[CustomTool] = []
    places: list[tuple[str, str]] = []
    for index, tool in enumerate(given):
        where = f"tools[{index}]"
        made = _tool(tool, where, limits)
        if isinstance(made, FunctionTool):
            functions.append(made)
        else:
            customs.append(made)
        places.append((made.name, f"{where}.{tool.type}.name"))
    check_tool_names(places)
    return DeclaredTools(tuple(functions), tuple(customs))


def tool_choice(body: ChatCompletionRequest, tools: DeclaredTools) -> ToolChoice:
    """Which of `tools` may or must be called. Raises `RequestError` for one that is not there."""
    match body.tool_choice:
        case None:
            return ToolChoice()
        case NamedTool(function=named) | NamedCustomTool(custom=named):
            choice = ToolChoice.named(named.name)
        case AllowedToolsChoice(allowed_tools=allowed):
            names = tuple(
                _allowed_name(tool, f"tool_choice.allowed_tools.tools[{index}]")
                for index, tool in enumerate(allowed.tools)
            )
            choice = ToolChoice(ToolMode(allowed.mode), names)
        case word:
            choice = ToolChoice(ToolMode(word))
    return check_tool_choice(choice, tools.names)


def output_format(body: ChatCompletionRequest, limits: LimitSettings) -> OutputFormat:
    """What the final answer is, by `response_format` or in vLLM's spelling. Raises
    `RequestError`."""
    guided = guided_format(body, limits)
    given = body.response_format
    if given is None or given.type == "text":
        return guided or PlainText()
    if guided is not None:
        raise RequestError(
            "'response_format' and a guided format both say what the answer is; send one.",
            param="response_format",
        )
    if given.type == "json_object":
        return JsonObject()
    if given.json_schema is None:
        raise missing("response_format.json_schema", "this type needs it")
    wanted = given.json_schema
    check_schema(wanted.schema_, "response_format.json_schema.schema", limits)
    return JsonSchema(wanted.name, wanted.schema_, wanted.description or "", bool(wanted.strict))


def _tool(tool: Tool, where: str, limits: LimitSettings) -> FunctionTool | CustomTool:
    match tool.type:
        case "function":
            if tool.function is None:
                raise missing(f"{where}.function")
            return _function(tool.function, f"{where}.function", limits)
        case "custom":
            if tool.custom is None:
                raise missing(f"{where}.custom")
            return _custom(tool.custom, f"{where}.custom", limits)
        case other:
            raise UnsupportedError(
                f"'{where}' is of type '{other}'; only functions and custom tools are supported.",
                param=f"{where}.type",
            )


def _function(definition: FunctionDefinition, where: str, limits: LimitSettings) -> FunctionTool:
    check_schema(definition.parameters, f"{where}.parameters", limits)
    return FunctionTool(
        definition.name,
        definition.description or "",
        definition.parameters,
        strict=bool(definition.strict),
    )


def _custom(definition: CustomDefinition, where: str, limits: LimitSettings) -> CustomTool:
    body = _custom_body(definition, where, limits)
    return CustomTool(definition.name, body, definition.description or "")


def _custom_body(definition: CustomDefinition, where: str, limits: LimitSettings) -> Body:
    wanted = definition.format
    if wanted is None or wanted.type == "text":
        return TextBody()
    if wanted.grammar is None:
        raise missing(f"{where}.format.grammar", "this type needs it")
    text = wanted.grammar.definition
    if len(text) > limits.max_schema_bytes:
        place = f"{where}.format.grammar.definition"
        raise RequestError(
            f"'{place}' is larger than {limits.max_schema_bytes} bytes.", param=place
        )
    return LarkBody(text) if wanted.grammar.syntax == "lark" else RegexBody(text)


def _allowed_name(tool: AllowedTool, where: str) -> str:
    definition = tool.function if tool.type == "function" else tool.custom
    if definition is None:
        raise missing(f"{where}.{tool.type}")
    return definition.name
