"""One grammar over a whole assistant turn: which messages may come, in which form.

Follows a prompt's `<|start|>assistant`: reasoning and preambles first, then either the final
message or calls. Recipients are limited to declared tools, arguments to their schemas, the final
message to its format; reasoning stays free text. The turn ends in `<|return|>` or `<|call|>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from osslo.errors import GrammarError
from osslo.harmony.bodies import JSON_OBJECT, Body, JsonBody, TextBody, lark_body, lark_string
from osslo.harmony.builtin import builtin_namespaces
from osslo.harmony.messages import BuiltinTools, Channel, FunctionTool
from osslo.types import Grammar

MAX_PRELUDES = 8
"""Reasoning and preambles before the turn's decision; a bound, so that no model can avoid it."""

MAX_PARALLEL_CALLS = 16
MAX_TOOLS = 256
MAX_GRAMMAR_CHARS = 1024 * 1024

_NO_FORCING = '%llguidance {"no_forcing": true}'
"""Then no text is written out unsampled: a caller's grammar could make that run go on for ever."""

_NAME = re.compile(r"[\w.\-]{1,128}", re.ASCII)
_HEAD = """sep: <|end|> <|start|> "assistant"
constrain: " "? <|constrain|> "json\""""

_ANY_TEXT = TextBody()
_NO_BUILTINS = BuiltinTools()


class ToolMode(StrEnum):
    """Whether the turn may, must or must not call a tool."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`names` limits the callable tools to those (OpenAI's allowed_tools); a named choice is
    REQUIRED with one name. Functions are named as declared, built-in tools `python`, `browser`."""

    mode: ToolMode = ToolMode.AUTO
    names: tuple[str, ...] | None = None

    @classmethod
    def named(cls, name: str) -> ToolChoice:
        return cls(ToolMode.REQUIRED, (name,))


@dataclass(frozen=True, slots=True)
class CustomTool:
    """A tool in the `functions` namespace whose input is text: free, or in the form of `body`."""

    name: str
    body: Body = _ANY_TEXT
    description: str = ""


@dataclass(frozen=True, slots=True)
class GrammarOptions:
    """What a request allows.

    `analysis`: "free" lets the model reason first, "skip" forces the answer at once (no preamble
    either): with no tools the header `<|channel|>final<|message|>` is then forced, which keeps a
    model in form that was never tuned for harmony. With `analysis_max_tokens` there is at most one
    piece of reasoning, and it ends there, if need be inside a character. `max_calls` bounds
    parallel calls. A tool's own `strict` False, or with `strict` None `lenient_schemas`, leaves
    out what cannot be enforced of its schema.
    """

    tools: tuple[FunctionTool, ...] = ()
    custom_tools: tuple[CustomTool, ...] = ()
    builtin_tools: BuiltinTools = _NO_BUILTINS
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = False
    final: Body = _ANY_TEXT
    analysis: Literal["free", "skip"] = "free"
    analysis_max_tokens: int | None = None
    max_calls: int | None = None
    lenient_schemas: bool = False


@dataclass(frozen=True, slots=True)
class _CallForm:
    """One way to call: who is called, on which channels, how the content type may read."""

    recipient: str
    body: Body
    param: str
    channels: tuple[Channel, ...] = (Channel.COMMENTARY,)
    content_type: str = "constrain?"


@dataclass(frozen=True, slots=True)
class TurnGrammar:
    """A turn's grammar; `warnings` name what of the request it does not enforce."""

    grammar: Grammar
    warnings: tuple[str, ...] = ()


def build_grammar(options: GrammarOptions) -> Grammar:
    """`turn_grammar` without its warnings."""
    return turn_grammar(options).grammar


def turn_grammar(options: GrammarOptions) -> TurnGrammar:
    """The grammar of one turn.

    Raises `GrammarError` for a schema, pattern or grammar that cannot be enforced, naming the
    keyword, and for a tool choice that names no declared tool.
    """
    calls = _chosen_calls(options)
    mode = options.tool_choice.mode
    rules = _Rules([_HEAD])
    begin = "start:"
    if options.analysis == "free":
        preamble = bool(calls) and mode is ToolMode.AUTO
        begin += _preludes(options, rules, preamble=preamble)
    endings = []
    if mode is not ToolMode.REQUIRED:
        _final(options.final, rules)
        endings.append("final")
    if calls:
        _calls(calls, rules, most=_most_calls(options))
        endings.append("calls")
    head = [_NO_FORCING] * bool(rules.long_runs)
    lark = "\n".join([*head, f"{begin} ({' | '.join(endings)})", *rules.lines, ""])
    if len(lark) > MAX_GRAMMAR_CHARS:
        raise GrammarError(
            f"tools and output format together are larger than {MAX_GRAMMAR_CHARS // 1024} KiB",
            param="tools",
        )
    return TurnGrammar(Grammar(lark), tuple(rules.warnings))


def text_grammar(body: Body, *, param: str) -> TurnGrammar:
    """The grammar of a bare text, without any message around it. `param` is what errors blame.

    Raises `GrammarError` as `turn_grammar` does.
    """
    rules = _Rules([])
    rules.body("start", body, param=param)
    head = [_NO_FORCING] * bool(rules.long_runs)
    return TurnGrammar(Grammar("\n".join([*head, *rules.lines, ""])), tuple(rules.warnings))


def untuned_grammar() -> Grammar:
    """A plain answer at once: for models that do not know harmony."""
    return build_grammar(GrammarOptions(analysis="skip"))


# --- messages -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rules:
    """The lines of a grammar as it grows, and what they leave out."""

    lines: list[str]
    warnings: list[str] = field(default_factory=list)
    long_runs: set[str] = field(default_factory=set)  # names of the rules that have them

    def body(self, name: str, body: Body, *, param: str) -> None:
        rule = lark_body(body, param=param)
        self.lines.append(f"{name}: {rule.lark}")
        self.warnings.extend(rule.warnings)
        if rule.long_runs:
            self.long_runs.add(name)


def _preludes(options: GrammarOptions, rules: _Rules, *, preamble: bool) -> str:
    """Reasoning; and, where a call is the model's own choice, words to the user before it.

    Gives how `start` begins. A budget of tokens holds for one piece of reasoning, hence one only.
    """
    budget = options.analysis_max_tokens
    limit = "" if budget is None else f"[max_tokens={budget}]"
    rules.lines.append('think: <|channel|> "analysis" <|message|> thought')
    rules.body(f"thought{limit}", _ANY_TEXT, param="analysis")
    if preamble:
        rules.lines.append('preamble: <|channel|> "commentary" <|message|> said')
        rules.body("said", _ANY_TEXT, param="preamble")
    if budget is None:
        rules.lines.append(f"prelude: think{' | preamble' * preamble}")
        return f" (prelude sep){{0,{MAX_PRELUDES}}}"
    return " (think sep)?" + f" (preamble sep){{0,{MAX_PRELUDES}}}" * preamble


def _final(body: Body, rules: _Rules) -> None:
    constrain = " constrain?" if isinstance(body, JsonBody) else ""
    rules.lines.append(f'final: <|channel|> "final"{constrain} <|message|> answer <|return|>')
    rules.body("answer", body, param="response_format")


def _calls(calls: Sequence[_CallForm], rules: _Rules, *, most: int) -> None:
    more = f" (sep call){{0,{most - 1}}}" if most > 1 else ""
    rules.lines.append(f"calls: call{more} <|call|>")
    rules.lines.append("call: " + " | ".join(f"call_{number}" for number in range(len(calls))))
    for number, call in enumerate(calls):
        heads = " | ".join(_call_heads(call))
        rules.lines.append(
            f"call_{number}: ({heads}) {call.content_type} <|message|> args_{number}"
        )
        rules.body(f"args_{number}", call.body, param=call.param)


def _most_calls(options: GrammarOptions) -> int:
    if not options.parallel_tool_calls:
        return 1
    return min(MAX_PARALLEL_CALLS, options.max_calls or MAX_PARALLEL_CALLS)


def _call_heads(call: _CallForm) -> Iterable[str]:
    """The recipient may stand in the role part or in the channel part of the header."""
    recipient = f" to={call.recipient}"
    for channel in call.channels:
        yield f"{lark_string(recipient)} <|channel|> {lark_string(channel.value)}"
        yield f"<|channel|> {lark_string(channel.value + recipient)}"


# --- tools ----------------------------------------------------------------------------------------


def _chosen_calls(options: GrammarOptions) -> list[_CallForm]:
    choice = options.tool_choice
    declared = _declared(options)
    if len(declared) > MAX_TOOLS:
        raise GrammarError(f"more than {MAX_TOOLS} tools; send fewer", param="tools")
    if options.max_calls == 0 and choice.mode is ToolMode.REQUIRED:
        raise GrammarError(
            "tool_choice requires a call, but max_tool_calls is 0", param="max_tool_calls"
        )
    if choice.mode is ToolMode.NONE or options.max_calls == 0:
        return []
    if choice.names is not None:
        missing = [name for name in choice.names if name not in declared]
        if missing:
            raise GrammarError(
                f"tool_choice names {', '.join(missing)}, which tools does not declare",
                param="tool_choice",
            )
        declared = {name: forms for name, forms in declared.items() if name in choice.names}
    if choice.mode is ToolMode.REQUIRED and not declared:
        raise GrammarError(
            "tool_choice requires a call, but there is no tool to call; add one to tools",
            param="tool_choice",
        )
    return [form for forms in declared.values() for form in forms]


def _declared(options: GrammarOptions) -> dict[str, list[_CallForm]]:
    """Every callable tool by its name."""
    forms: dict[str, list[_CallForm]] = {}
    for tool in options.tools:
        strict = not options.lenient_schemas if tool.strict is None else tool.strict
        body = JsonBody(_arguments_schema(tool), lenient=not strict)
        forms[tool.name] = [_function(tool.name, body)]
    for custom in options.custom_tools:
        plain = "" if not isinstance(custom.body, JsonBody) else "constrain?"
        forms[custom.name] = [_function(custom.name, custom.body, content_type=plain)]
    for name, builtin in _builtin_forms(options.builtin_tools).items():
        forms[name] = forms.get(name, []) + builtin
    return forms


def _function(name: str, body: Body, *, content_type: str = "constrain?") -> _CallForm:
    if not _NAME.fullmatch(name):
        raise GrammarError(
            f"tool name {name!r} must be 1 to 128 letters, digits, '_', '-' or '.'", param="tools"
        )
    recipient = f"functions.{name}"
    return _CallForm(recipient, body, f"parameters of tool {name}", content_type=content_type)


def _arguments_schema(tool: FunctionTool) -> dict[str, object]:
    """Arguments are always an object; a tool without parameters takes an empty one."""
    if tool.parameters is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    schema = dict(tool.parameters)
    combines = schema.keys() & {"$ref", "anyOf", "oneOf", "allOf"}
    return schema if combines else {**JSON_OBJECT, **schema}


def _builtin_forms(tools: BuiltinTools) -> dict[str, list[_CallForm]]:
    """Built-in tools are called from the reasoning, as the model was trained to."""
    both = (Channel.ANALYSIS, Channel.COMMENTARY)
    forms: dict[str, list[_CallForm]] = {}
    for space in builtin_namespaces(tools):
        callees: list[tuple[str, Body]] = [
            (f"{space.name}.{tool.name}", JsonBody(_arguments_schema(tool))) for tool in space.tools
        ]
        forms[space.name] = [
            _CallForm(recipient, body, recipient, both, '(" code" | constrain)?')
            for recipient, body in callees or [(space.name, TextBody())]
        ]
    return forms
