"""Turn events to completions: the text only, whole or in pieces. Reasoning is not shown."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from osslo.api.messages.reply import failure_event
from osslo.api.sse import comment, named_event
from osslo.api.turns import failure_of
from osslo.chat.choices import IndexedEvents
from osslo.chat.events import PrefillProgressed, TextDelta, TurnEnd, TurnEnded
from osslo.errors import OssloError


@dataclass(frozen=True, slots=True)
class CompletionHead:
    """What all pieces of one completion share."""

    completion_id: str
    model: str
    log_id: str


async def whole_reply(
    head: CompletionHead, events: IndexedEvents
) -> tuple[dict[str, Any], TurnEnded]:
    """Read `events` to their end; the completion, and how the turn ended. Raises its error."""
    texts: list[str] = []
    ended: TurnEnded | None = None
    try:
        async for _, event in events:
            if isinstance(event, TextDelta):
                texts.append(event.text)
            elif isinstance(event, TurnEnded):
                ended = event
    finally:
        await events.aclose()
    if ended is None:
        raise OssloError("The turn ended without a terminal event.")
    failure = failure_of(ended)
    if failure is not None:
        raise failure
    return _fields(head, "".join(texts), ended), ended


async def streamed_reply(
    head: CompletionHead, events: IndexedEvents
) -> AsyncGenerator[bytes, None]:
    """The completion as server-sent events. An error after the start is an `error` event."""
    try:
        async for _, event in events:
            match event:
                case TurnEnded():
                    failure = failure_of(event)
                    yield failure_event(failure) if failure else _piece(_fields(head, "", event))
                case PrefillProgressed(done, total):
                    yield comment(f"prefill {done}/{total}")
                case TextDelta(text) if text:
                    yield _piece(_fields(head, text, None))
                case _:
                    pass
    finally:
        await events.aclose()


_REASONS = MappingProxyType({TurnEnd.LENGTH: "max_tokens", TurnEnd.CONTENT_FILTER: "refusal"})


def _piece(fields: dict[str, Any]) -> bytes:
    return named_event("completion", fields)


def _fields(head: CompletionHead, text: str, ended: TurnEnded | None) -> dict[str, Any]:
    reason: str | None = None
    if ended is not None:
        reason = _REASONS.get(ended.reason, "stop_sequence")
    return {
        "type": "completion",
        "id": head.completion_id,
        "completion": text,
        "stop_reason": reason,
        "stop": None if ended is None else ended.stop_string,
        "model": head.model,
        "log_id": head.log_id,
    }
