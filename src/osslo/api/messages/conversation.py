"""Anthropic's messages and blocks to neutral chat messages.

An assistant's message becomes a turn: its thinking, its text, its calls. A user's message becomes
its tool results and texts in their order. A last message of the assistant is the beginning of the
answer. Every block that is not text, thinking or a tool's is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from osslo.api.messages.schema import (
    Block,
    InputMessage,
    OtherBlock,
    RedactedThinkingBlock,
    ResultBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from osslo.api.messages.thinking import ThinkingSeal
from osslo.chat.events import Phase
from osslo.chat.request import AssistantTurn, ChatMessage, SystemText, ToolOutput, UserText
from osslo.errors import RequestError, UnsupportedError
from osslo.types import ToolCall

_BILLING_LINE = "x-anthropic-billing-header:"
"""Claude Code puts such a line before its instructions. It changes from request to request, so that
no prefix would ever be found in the cache, and says nothing to the model."""

_PARAGRAPH = "\n\n"


@dataclass(frozen=True, slots=True)
class Dialogue:
    """What the model reads, and how its answer begins."""

    messages: tuple[ChatMessage, ...]
    prefill: str = ""


def to_dialogue(
    system: str | Sequence[TextBlock] | None,
    messages: Sequence[InputMessage],
    seal: ThinkingSeal,
) -> Dialogue:
    """The conversation. Raises `RequestError` naming the block that makes no sense,
    `UnsupportedError` one that this server cannot read."""
    reader = _Reader(seal)
    neutral: list[ChatMessage] = _system_texts(system)
    for index, message in enumerate(messages):
        neutral += reader.read(message, f"messages[{index}]")
    prefill = ""
    if messages[-1].role == "assistant":
        prefill = _take_prefill(neutral, f"messages[{len(messages) - 1}]")
    said = (message for message in neutral if message != AssistantTurn())
    return Dialogue(tuple(said), prefill)


def _take_prefill(neutral: list[ChatMessage], where: str) -> str:
    """Take the last turn's text away: it begins the answer. Its thinking stays before it."""
    turn = neutral.pop()
    if not isinstance(turn, AssistantTurn):
        return ""
    if turn.calls:
        raise RequestError(
            f"'{where}' ends in a tool_use block; a user message with its tool_result must follow.",
            param=where,
        )
    neutral.append(AssistantTurn(reasoning=turn.reasoning))
    return turn.text


def _system_texts(system: str | Sequence[TextBlock] | None) -> list[ChatMessage]:
    texts = [system] if isinstance(system, str) else [block.text for block in system or ()]
    return [SystemText(text) for text in texts if text and not text.startswith(_BILLING_LINE)]


class _Reader:
    """Reads messages in order and remembers the calls that results may answer."""

    def __init__(self, seal: ThinkingSeal) -> None:
        self._seal = seal
        self._calls: set[str] = set()

    def read(self, message: InputMessage, where: str) -> list[ChatMessage]:
        content = message.content
        blocks = [_text_block(content)] if isinstance(content, str) else content
        placed = [(block, f"{where}.content[{index}]") for index, block in enumerate(blocks)]
        match message.role:
            case "assistant":
                return self._assistant(placed)
            case "system":
                texts = [_only_text(block, place, "system") for block, place in placed]
                return [SystemText("\n".join(texts))]
            case _:
                return self._user(placed)

    def _assistant(self, placed: Sequence[tuple[Block, str]]) -> list[ChatMessage]:
        """One turn, or several where the model thought again after a preamble."""
        turns: list[ChatMessage] = []
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[ToolCall] = []
        for block, where in placed:
            match block:
                case ThinkingBlock() | RedactedThinkingBlock():
                    if texts and not calls:
                        turns.append(_turn(texts, thoughts, phase=Phase.COMMENTARY))
                        texts, thoughts = [], []
                    thoughts.append(self._seal.read(block, where))
                case ToolUseBlock():
                    calls.append(self._call(block, where))
                case _:
                    texts.append(_only_text(block, where, "assistant"))
        return [*turns, _turn(texts, thoughts, calls)]

    def _call(self, block: ToolUseBlock, where: str) -> ToolCall:
        if block.id in self._calls:
            raise RequestError(
                f"'{where}.id' is {block.id!r}, but so is that of an earlier tool_use block.",
                param=f"{where}.id",
            )
        self._calls.add(block.id)
        # Compact, as it was generated: the prefix cache then finds the call again.
        arguments = json.dumps(block.input, ensure_ascii=False, separators=(",", ":"))
        return ToolCall(block.id, block.name, arguments)

    def _user(self, placed: Sequence[tuple[Block, str]]) -> list[ChatMessage]:
        messages: list[ChatMessage] = []
        texts: list[str] = []
        for block, place in placed:
            if not isinstance(block, ToolResultBlock):
                texts.append(_only_text(block, place, "user"))
                continue
            if texts:
                messages.append(UserText("\n".join(texts)))
                texts = []
            messages.append(self._result(block, place))
        if texts or not messages:
            messages.append(UserText("\n".join(texts)))
        return messages

    def _result(self, block: ToolResultBlock, where: str) -> ToolOutput:
        if block.tool_use_id not in self._calls:
            raise RequestError(
                f"'{where}.tool_use_id' is {block.tool_use_id!r}, but no tool_use block before it "
                "has that id. Send the assistant's message back first.",
                param=f"{where}.tool_use_id",
            )
        text = _result_text(block.content, where)
        return ToolOutput(block.tool_use_id, f"Error: {text}" if block.is_error else text)


def _result_text(content: str | Sequence[ResultBlock] | None, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(
        _only_text(block, f"{where}.content[{index}]", "tool_result")
        for index, block in enumerate(content)
    )


def _only_text(block: Block, where: str, owner: str) -> str:
    """The text of a text block. Any other is refused: by name where no model here could read it,
    as misplaced where another owner could have it."""
    match block:
        case TextBlock(text=text):
            return text
        case OtherBlock(type=kind):
            raise UnsupportedError(
                f"'{where}' is of type '{kind}', but this model reads text only.",
                param=f"{where}.type",
            )
        case _:
            raise RequestError(
                f"'{where}' is of type '{block.type}', which does not belong into a {owner} "
                "message.",
                param=f"{where}.type",
            )


def _text_block(text: str) -> Block:
    return TextBlock(type="text", text=text, citations=None)


def _turn(
    texts: Sequence[str],
    thoughts: Sequence[str],
    calls: Sequence[ToolCall] = (),
    *,
    phase: Phase | None = None,
) -> AssistantTurn:
    return AssistantTurn(_joined(texts), _joined(thoughts), tuple(calls), phase)


def _joined(texts: Sequence[str]) -> str:
    return _PARAGRAPH.join(text for text in texts if text)
