"""The old prompt format: `\\n\\nHuman:` and `\\n\\nAssistant:` turns, to chat messages."""

from __future__ import annotations

import re
from dataclasses import dataclass

from osslo.chat.request import AssistantTurn, ChatMessage, SystemText, UserText

HUMAN = "\n\nHuman:"
"""Begins a user's turn. A model that goes on to write one is stopped there."""

_MARK = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


@dataclass(frozen=True, slots=True)
class PromptTurns:
    """What a prompt says. `prefill` is how the answer begins; `in_turns` is False for a prompt
    that is one plain message."""

    messages: tuple[ChatMessage, ...]
    prefill: str = ""
    in_turns: bool = False


def read_prompt(prompt: str) -> PromptTurns:
    """The turns of `prompt`. Text before the first one is the system's; text after a last
    `\\n\\nAssistant:` begins the answer. Without turns the prompt is one user message."""
    before, *marked = _MARK.split(prompt)
    roles, texts = marked[::2], marked[1::2]
    if not _has_turns(prompt, roles):
        return PromptTurns((UserText(prompt),))
    prefill = ""
    if roles[-1] == "Assistant":
        prefill = texts[-1].removeprefix(" ") if texts[-1].strip() else ""
        roles, texts = roles[:-1], texts[:-1]
    messages: list[ChatMessage] = [SystemText(before.strip())] if before.strip() else []
    for role, text in zip(roles, texts, strict=True):
        said = text.strip()
        messages.append(UserText(said) if role == "Human" else AssistantTurn(said))
    return PromptTurns(tuple(messages), prefill, in_turns=True)


def _has_turns(prompt: str, roles: list[str]) -> bool:
    """A human's turn comes first, and then an answer, unless the prompt begins with the mark."""
    if not roles or roles[0] != "Human":
        return False
    return "Assistant" in roles or prompt.startswith(HUMAN)
