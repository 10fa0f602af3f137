"""Which messages of the past the model still sees."""

from __future__ import annotations

from collections.abc import Sequence

from osslo.harmony.messages import Channel, Message, Role

FUNCTIONS = "functions."
"""Prefix of the caller's own tools in a recipient or an author's name."""


def drop_past_analysis(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Leave out the reasoning of every turn that has reached its final message.

    Everything on the analysis channel before the last final message goes: reasoning, and the calls
    to built-in tools made in it together with their results. What comes after the last final
    message belongs to a turn that still runs and stays, so that reasoning carries over from call to
    call. The caller's own functions always stay, call and result, whatever channel they were on.
    """
    last_final = max((i for i, m in enumerate(messages) if _is_final(m)), default=-1)
    called = {
        m.recipient for m in messages[:last_final] if _is_reasoning(m) and m.role is Role.ASSISTANT
    }
    kept = [
        m
        for m in messages[: max(last_final, 0)]
        if not _is_reasoning(m) and not (m.role is Role.TOOL and m.name in called)
    ]
    return (*kept, *messages[max(last_final, 0) :])


def _is_final(message: Message) -> bool:
    """An assistant's message without channel or recipient is an answer too."""
    return (
        message.role is Role.ASSISTANT
        and message.recipient is None
        and message.channel in (Channel.FINAL, None)
    )


def _is_reasoning(message: Message) -> bool:
    if message.channel is not Channel.ANALYSIS:
        return False
    return not (message.recipient or message.name or "").startswith(FUNCTIONS)
