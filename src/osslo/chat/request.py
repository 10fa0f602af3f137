"""What every protocol asks of a turn, in one neutral record. Adapters build it; `Turn` runs it.

Nothing here knows HTTP or a protocol's spelling. `n` choices are n requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from osslo.chat.events import Phase
from osslo.harmony.grammar import CustomTool, ToolChoice
from osslo.harmony.messages import FunctionTool, ReasoningEffort
from osslo.types import SamplingParams, ToolCall


@dataclass(frozen=True, slots=True)
class SystemText:
    """A system message. A `Reasoning: high` line in it sets the effort."""

    text: str


@dataclass(frozen=True, slots=True)
class DeveloperText:
    """A developer message."""

    text: str


@dataclass(frozen=True, slots=True)
class UserText:
    """A user message; parts are already joined."""

    text: str


@dataclass(frozen=True, slots=True)
class AssistantTurn:
    """What the model said before: reasoning (handed back by the caller), text, calls.

    `phase` says whether the text was a preamble or the answer; None: a preamble where calls
    follow.
    """

    text: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    phase: Phase | None = None


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """The result of a call. `name` is needed only if no earlier message holds the call."""

    call_id: str
    content: str
    name: str | None = None


ChatMessage = SystemText | DeveloperText | UserText | AssistantTurn | ToolOutput


@dataclass(frozen=True, slots=True)
class PlainText:
    """The final message is free text."""


@dataclass(frozen=True, slots=True)
class JsonObject:
    """The final message is some JSON object."""


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The final message is JSON that fits `schema`, which is also shown to the model.

    `strict` None takes the request's own rule.
    """

    name: str
    schema: Mapping[str, Any]
    description: str = ""
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class RegexText:
    """The final message as a whole matches a regular expression (Rust syntax, no look-around)."""

    pattern: str


@dataclass(frozen=True, slots=True)
class LarkText:
    """The final message follows a context-free grammar: llguidance's Lark dialect, from `start`."""

    grammar: str


@dataclass(frozen=True, slots=True)
class ChoiceText:
    """The final message is one of `choices`."""

    choices: tuple[str, ...]


OutputFormat = PlainText | JsonObject | JsonSchema | RegexText | LarkText | ChoiceText


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One turn to run.

    `max_tokens` is the caller's limit on the output, in tokens; None takes what the context
    leaves, up to `sampling.max_tokens`, which holds the server's cap. `stop` strings end the
    visible text and are not part of it. `effort` None leaves it to a system message's line, then
    to the default. `reasoning` False opens the answer without an analysis;
    `reasoning_max_tokens` is the most tokens of analysis in the turn: the grammar then ends it,
    if need be in the middle of a word, and goes on to the answer.

    `tools` and `custom_tools` share one namespace and one `tool_choice`. `max_tool_calls` is the
    most calls the turn may make; 0 allows none. With `strict` a schema that cannot be enforced in
    full is refused; without, what cannot be enforced is left out with a warning. A tool's or
    format's own `strict` comes before the request's.

    `prefill` is how the answer begins, in the caller's words: part of the prompt, not of the
    output, which goes on right behind it, without an analysis and without calls. `truncate` drops
    the oldest messages (never instructions, never a call without its results) until prompt and
    output fit the context. `tenant` is the unit of fairness and of prefix-cache isolation.
    """

    request_id: str
    messages: tuple[ChatMessage, ...]
    sampling: SamplingParams
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    tools: tuple[FunctionTool, ...] = ()
    custom_tools: tuple[CustomTool, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    parallel_tool_calls: bool = False
    max_tool_calls: int | None = None
    output_format: OutputFormat = PlainText()
    effort: ReasoningEffort | None = None
    reasoning: bool = True
    reasoning_max_tokens: int | None = None
    strict: bool = False
    prefill: str = ""
    truncate: bool = False
    tenant: str = ""

    def texts(self) -> Iterable[str]:
        """Every text that the model will read as the caller's."""
        for message in self.messages:
            yield from _texts(message)
        yield self.prefill

    @property
    def is_free(self) -> bool:
        """Whether nothing in the request limits the form of the output."""
        return (
            isinstance(self.output_format, PlainText)
            and not (self.tools or self.custom_tools)
            and (self.reasoning_max_tokens is None or bool(self.prefill))
        )


def _texts(message: ChatMessage) -> Iterable[str]:
    match message:
        case SystemText(text) | DeveloperText(text) | UserText(text):
            yield text
        case ToolOutput(_, content):
            yield content
        case AssistantTurn(text, reasoning, calls):
            yield from (reasoning, text, *(call.arguments for call in calls))
