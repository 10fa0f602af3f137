"""Training data: one line of OpenAI's chat JSONL as a conversation, or what is wrong with it.

Pure: reading files, and what becomes of conversations, is the callers' subject. The API checks
uploads with it, and fine-tuning reads with it, so that what the one accepts the other takes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from osslo.errors import RequestError
from osslo.harmony.effort import EFFORTS, extract_effort
from osslo.harmony.history import FUNCTIONS
from osslo.harmony.messages import (
    Channel,
    Conversation,
    FunctionTool,
    Message,
    ReasoningEffort,
    Role,
)

_KEYS = frozenset({"messages", "tools", "reasoning_effort", "parallel_tool_calls"})
_ASSISTANT_ONLY = ("tool_calls", "reasoning_content", "thinking", "reasoning", "weight")
_REASONING = ("reasoning_content", "thinking", "reasoning")
_TEXT_TYPES = frozenset({"text", "input_text", "output_text"})
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class TrainingLine:
    """A conversation, and the places of the assistant's messages in it that are not learned
    (those with `weight` 0)."""

    conversation: Conversation
    silent: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class TrainingText:
    """Plain text, all of it learned."""

    text: str


def parse_training_line(
    line: str, *, effort: ReasoningEffort = ReasoningEffort.MEDIUM, date: str | None = None
) -> TrainingLine | TrainingText:
    """A line of JSONL: `{"messages": [...]}`, or `{"text": "..."}`.

    `effort` is that of lines that do not say theirs, `date` the one the system message shows.
    Raises `RequestError` that says what is wrong and what to do.
    """
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"not JSON ({error}); each line is one JSON object") from None
    if not isinstance(value, dict):
        raise RequestError("not a JSON object; each line is {'messages': [...]}")
    if "text" in value:
        return _text_line(value)
    for key in value.keys() - _KEYS:
        raise RequestError(f"'{key}' is unknown; a line has {', '.join(sorted(_KEYS))}")
    return _Reader(value, effort, date).read()


def _text_line(value: Mapping[str, Any]) -> TrainingText:
    text = value["text"]
    if set(value) != {"text"} or not isinstance(text, str) or not text.strip():
        raise RequestError("'text' must be a text that is not empty, and stand alone")
    return TrainingText(text)


class _Reader:
    """Reads one line; collects messages and the calls that results may answer."""

    def __init__(self, value: Mapping[str, Any], effort: ReasoningEffort, date: str | None) -> None:
        self._value = value
        self._effort = effort
        self._date = date
        self._messages: list[Message] = []
        self._silent: set[int] = set()
        self._open_calls: dict[str, str] = {}
        self._instructions: list[str] = []
        self._tools = _tools(value.get("tools"))
        self._speaks = False

    def read(self) -> TrainingLine:
        given = self._value.get("messages")
        if not isinstance(given, list) or not given:
            raise RequestError("'messages' must be a list of messages that is not empty")
        for index, message in enumerate(given):
            where = f"messages[{index}]"
            if not isinstance(message, dict):
                raise RequestError(f"'{where}' must be an object")
            self._message(message, where)
        if not self._speaks:
            raise RequestError(
                "no message of the assistant is to be learned; add one, or a 'weight' of 1"
            )
        if given[-1].get("role") != "assistant":
            raise RequestError("the last message must be the assistant's: it is what is learned")
        return TrainingLine(
            Conversation(
                messages=tuple(self._messages),
                effort=self._own_effort(),
                current_date=self._date,
                instructions="\n\n".join(text for text in self._instructions if text),
                tools=self._tools,
            ),
            frozenset(self._silent),
        )

    def _own_effort(self) -> ReasoningEffort:
        named = self._value.get("reasoning_effort")
        if named is None:
            return self._effort
        if not isinstance(named, str) or named not in EFFORTS:
            raise RequestError(f"'reasoning_effort' must be one of {', '.join(EFFORTS)}")
        return EFFORTS[named]

    def _message(self, message: Mapping[str, Any], where: str) -> None:
        role = message.get("role")
        if role != "assistant":
            for name in _ASSISTANT_ONLY:
                if message.get(name) is not None:
                    raise RequestError(f"'{where}.{name}' belongs to assistant messages only")
        match role:
            case "system" | "developer":
                self._instruct(role, _text(message, where))
            case "user":
                self._messages.append(Message(Role.USER, _text(message, where)))
            case "assistant":
                self._assistant(message, where)
            case "tool":
                self._result(message, where)
            case _:
                raise RequestError(
                    f"'{where}.role' must be system, developer, user, assistant or tool"
                )

    def _instruct(self, role: str, text: str) -> None:
        if role == "system":
            text, effort = extract_effort(text)
            self._effort = effort or self._effort
        if not self._messages:
            self._instructions.append(text)
        elif text:
            self._messages.append(Message(Role.DEVELOPER, f"# Instructions\n\n{text}"))

    def _assistant(self, message: Mapping[str, Any], where: str) -> None:
        if message.get("function_call") is not None:
            raise RequestError(f"'{where}.function_call' is the old form; write 'tool_calls'")
        weight = message.get("weight", 1)
        if isinstance(weight, bool) or weight not in (0, 1):
            raise RequestError(f"'{where}.weight' must be 0 or 1")
        first = len(self._messages)
        calls = message.get("tool_calls") or []
        if not isinstance(calls, list):
            raise RequestError(f"'{where}.tool_calls' must be a list")
        if reasoning := _reasoning(message, where):
            self._messages.append(Message(Role.ASSISTANT, reasoning, channel=Channel.ANALYSIS))
        text = _text(message, where) if message.get("content") is not None else ""
        if text or not calls:
            if not text:
                raise RequestError(f"'{where}' needs 'content' or 'tool_calls'")
            channel = Channel.COMMENTARY if calls else Channel.FINAL
            self._messages.append(Message(Role.ASSISTANT, text, channel=channel))
        for index, call in enumerate(calls):
            self._call(call, f"{where}.tool_calls[{index}]")
        if weight == 0:
            self._silent.update(range(first, len(self._messages)))
        else:
            self._speaks = True

    def _call(self, call: Any, where: str) -> None:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise RequestError(f"'{where}.function' must be an object with name and arguments")
        name, arguments = function.get("name"), function.get("arguments")
        if not isinstance(name, str) or name not in {tool.name for tool in self._tools}:
            raise RequestError(f"'{where}' calls {name!r}, which 'tools' does not declare")
        if not isinstance(arguments, str) or not _is_object(arguments):
            raise RequestError(f"'{where}.function.arguments' must be the text of a JSON object")
        call_id = call.get("id")
        if not isinstance(call_id, str) or not call_id:
            raise RequestError(f"'{where}.id' must be a text; the result names it")
        self._open_calls[call_id] = name
        self._messages.append(
            Message(
                Role.ASSISTANT,
                arguments,
                channel=Channel.COMMENTARY,
                recipient=FUNCTIONS + name,
                content_type="json",
            )
        )

    def _result(self, message: Mapping[str, Any], where: str) -> None:
        name = self._open_calls.get(str(message.get("tool_call_id")))
        if name is None:
            raise RequestError(f"'{where}.tool_call_id' names no call of an assistant before it")
        self._messages.append(
            Message(
                Role.TOOL,
                _text(message, where),
                name=FUNCTIONS + name,
                channel=Channel.COMMENTARY,
                recipient="assistant",
            )
        )


def _reasoning(message: Mapping[str, Any], where: str) -> str:
    given = [name for name in _REASONING if message.get(name) is not None]
    if len(given) > 1:
        raise RequestError(f"'{where}' has {' and '.join(given)}; keep one of them")
    value = message[given[0]] if given else ""
    if not isinstance(value, str):
        raise RequestError(f"'{where}.{given[0]}' must be a text")
    return value


def _text(message: Mapping[str, Any], where: str) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise RequestError(f"'{where}.content' must be a text, or a list of text parts")
    return "".join(_part(part, f"{where}.content[{i}]") for i, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") not in _TEXT_TYPES:
        raise RequestError(f"'{where}' must be a part of type 'text'; this model reads text only")
    if not isinstance(part.get("text"), str):
        raise RequestError(f"'{where}.text' must be a text")
    return str(part["text"])


def _tools(given: Any) -> tuple[FunctionTool, ...]:
    if given is None:
        return ()
    if not isinstance(given, list):
        raise RequestError("'tools' must be a list of functions")
    tools = tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(given))
    names = [tool.name for tool in tools]
    for name in names:
        if names.count(name) > 1:
            raise RequestError(f"'tools' declares {name!r} twice")
    return tools


def _tool(tool: Any, where: str) -> FunctionTool:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or tool.get("type", "function") != "function":
        raise RequestError(f"'{where}' must be {{'type': 'function', 'function': {{...}}}}")
    name = function.get("name")
    if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
        raise RequestError(f"'{where}.function.name' must be 1 to 64 letters, digits, _ or -")
    description, parameters = function.get("description"), function.get("parameters")
    if description is not None and not isinstance(description, str):
        raise RequestError(f"'{where}.function.description' must be a text")
    if parameters is not None and not isinstance(parameters, dict):
        raise RequestError(f"'{where}.function.parameters' must be a JSON schema")
    return FunctionTool(name, description or "", parameters)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def check_training_lines(lines: Iterable[tuple[int, str]], *, most: int) -> tuple[list[str], int]:
    """What is wrong with numbered lines, at most `most` of it as `line 3: ...`, and how many lines
    are right. Empty lines are passed over."""
    problems: list[str] = []
    right = 0
    for number, line in lines:
        if not line.strip():
            continue
        try:
            parse_training_line(line)
            right += 1
        except RequestError as error:
            problems.append(f"line {number}: {error.message}")
            if len(problems) >= most:
                break
    return problems, right
