"""Turn events to a message: the stream of Anthropic's events, and the whole message.

There is one translation, `MessageEvents`. The whole message is what a client makes of its events,
so that both agree by construction.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic_core import from_json

from osslo.api.body import compact_json
from osslo.api.messages.errors import error_body
from osslo.api.messages.request import Display
from osslo.api.messages.thinking import ThinkingSeal
from osslo.api.sse import comment, named_event
from osslo.api.turns import failure_of
from osslo.chat.choices import IndexedEvents
from osslo.chat.events import (
    PrefillProgressed,
    ReasoningDelta,
    TextDelta,
    TextStarted,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    TurnEnd,
    TurnEnded,
    TurnEvent,
    TurnStarted,
)
from osslo.errors import OssloError
from osslo.types import Usage

Event = dict[str, Any]
Kind = Literal["text", "thinking", "tool_use"]

PING = named_event("ping", {"type": "ping"})
"""What Anthropic's streams send while nothing happens."""

NOT_AN_OBJECT = "INVALID_JSON"
"""The key under which a call's input is handed over that is no JSON object. With the grammar that
every request with tools gets, no model can write one."""


@dataclass(frozen=True, slots=True)
class MessageHead:
    """What an answer needs beside its events. `fits` says that the context has room for all of
    `max_tokens`, so that a cut is the caller's own."""

    message_id: str
    model: str
    display: Display
    seal: ThinkingSeal
    fits: bool
    warnings: tuple[str, ...] = ()


async def whole_reply(head: MessageHead, events: IndexedEvents) -> tuple[Event, TurnEnded]:
    """Read `events` to their end; the message, and how the turn ended. Raises the turn's error."""
    writer = MessageEvents(head)
    message = MessageBuilder()
    ended: TurnEnded | None = None
    try:
        async for _, event in events:
            if isinstance(event, TurnEnded):
                ended = event
                failure = failure_of(event)
                if failure is not None:
                    raise failure
            for sent in writer.feed(event):
                message.add(sent)
    finally:
        await events.aclose()
    if ended is None:
        raise OssloError("The turn ended without a terminal event.")
    return message.fields, ended


async def streamed_reply(head: MessageHead, events: IndexedEvents) -> AsyncGenerator[bytes, None]:
    """The message as server-sent events. An error after the start is an `error` event, the last."""
    writer = MessageEvents(head)
    try:
        async for _, event in events:
            failure = failure_of(event) if isinstance(event, TurnEnded) else None
            if failure is not None:
                yield failure_event(failure)
                return
            if isinstance(event, PrefillProgressed):
                yield comment(f"prefill {event.done_tokens}/{event.total_tokens}")
            for sent in writer.feed(event):
                yield named_event(sent["type"], sent)
    finally:
        await events.aclose()


def failure_event(error: OssloError) -> bytes:
    """An error inside a stream; official clients raise it."""
    return named_event("error", error_body(error))


class MessageEvents:
    """Anthropic's events of one turn. Feed it the turn's events in order, but not a failed end."""

    def __init__(self, head: MessageHead) -> None:
        self._head = head
        self._index = -1
        self._open: Kind | None = None
        self._thinking: list[str] = []
        self._input = _ToolInput()

    def feed(self, event: TurnEvent) -> list[Event]:
        """The events that `event` makes."""
        match event:
            case TurnStarted(prompt_tokens):
                return [self._start(prompt_tokens)]
            case ReasoningDelta(text):
                return self._reasoning(text)
            case TextStarted():
                return self._close() if self._open == "text" else []
            case TextDelta(text):
                return [*self._into("text"), self._delta(text=text)] if text else []
            case ToolCallStarted(_, call_id, name):
                return self._call(call_id, name)
            case ToolCallDelta(_, arguments):
                return self._input_json(self._input.feed(arguments))
            case ToolCallEnded():
                return [*self._input_json(self._input.finish()), *self._close()]
            case TurnEnded():
                return [*self._close(), self._end(event), {"type": "message_stop"}]
            case PrefillProgressed():
                return []

    def _start(self, prompt_tokens: int) -> Event:
        message: Event = {
            "id": self._head.message_id,
            "type": "message",
            "role": "assistant",
            "model": self._head.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_fields(Usage(prompt_tokens, 0)) | {"service_tier": "standard"},
        }
        if self._head.warnings:
            message["warnings"] = list(self._head.warnings)
        return {"type": "message_start", "message": message}

    def _reasoning(self, text: str) -> list[Event]:
        if self._head.display is Display.HIDDEN or not text:
            return []
        opened = self._into("thinking")
        self._thinking.append(text)
        if self._head.display is Display.OMITTED:
            return opened
        return [*opened, self._delta(thinking=text)]

    def _call(self, call_id: str, name: str) -> list[Event]:
        self._input = _ToolInput()
        own = "toolu_" + call_id.removeprefix("call_")
        return self._begin("tool_use", id=own, name=name, input={})

    def _input_json(self, text: str) -> list[Event]:
        return [self._delta(partial_json=text)] if text else []

    def _end(self, ended: TurnEnded) -> Event:
        reason = _stop_reason(ended, fits=self._head.fits)
        delta = {"stop_reason": reason, "stop_sequence": ended.stop_string}
        return {"type": "message_delta", "delta": delta, "usage": usage_fields(ended.usage)}

    # --- blocks ---------------------------------------------------------------------------------

    def _into(self, kind: Kind) -> list[Event]:
        """See that the open block is of this kind."""
        if self._open == kind:
            return []
        empty: dict[str, str] = {kind: ""}
        if kind == "thinking":
            empty["signature"] = ""
        return self._begin(kind, **empty)

    def _begin(self, kind: Kind, **fields: Any) -> list[Event]:
        closed = self._close()
        self._open = kind
        self._index += 1
        block = {"type": kind, **fields}
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        return [*closed, start]

    def _close(self) -> list[Event]:
        kind, self._open = self._open, None
        if kind is None:
            return []
        events: list[Event] = []
        if kind == "thinking":
            thought, self._thinking = "".join(self._thinking), []
            shown = self._head.display is Display.SHOWN
            events.append(self._delta(signature=self._head.seal.sign(thought, shown=shown)))
        return [*events, {"type": "content_block_stop", "index": self._index}]

    def _delta(self, **field: str) -> Event:
        (name,) = field
        kind = "input_json_delta" if name == "partial_json" else f"{name}_delta"
        return {
            "type": "content_block_delta",
            "index": self._index,
            "delta": {"type": kind, **field},
        }


class _ToolInput:
    """Passes the JSON of a call's input on as it comes, once it is sure to be an object."""

    def __init__(self) -> None:
        self._held = ""
        self._is_object = False

    def feed(self, text: str) -> str:
        """What may be sent now."""
        if self._is_object:
            return text
        self._held += text
        begun = self._held.lstrip()
        if not begun.startswith("{"):
            return ""
        self._is_object, self._held = True, ""
        return begun

    def finish(self) -> str:
        """What is still to be sent: nothing for an object or no input, else the text in one."""
        held, self._held = self._held.strip(), ""
        return compact_json({NOT_AN_OBJECT: held}).decode() if held else ""


class MessageBuilder:
    """Puts a message together from its events, as clients do."""

    def __init__(self) -> None:
        self.fields: Event = {}
        self._parts: dict[str, list[str]] = {}

    def add(self, event: Event) -> None:
        match event["type"]:
            case "message_start":
                self.fields = event["message"]
            case "content_block_start":
                self.fields["content"].append(event["content_block"])
            case "content_block_delta":
                ((name, text),) = (item for item in event["delta"].items() if item[0] != "type")
                self._parts.setdefault(name, []).append(text)
            case "content_block_stop":
                self._settle(self.fields["content"][-1])
            case "message_delta":
                self.fields |= event["delta"]
                self.fields["usage"] |= event["usage"]

    def _settle(self, block: Event) -> None:
        for name, parts in self._parts.items():
            text = "".join(parts)
            if name == "partial_json":
                block["input"] = _object(text)
            else:
                block[name] = text
        self._parts.clear()


def _object(text: str) -> Any:
    """The object that `text` holds, cut off or not."""
    try:
        return from_json(text, allow_partial=True)
    except ValueError:
        return {NOT_AN_OBJECT: text}


def usage_fields(usage: Usage) -> dict[str, Any]:
    """Token counts; what was read from the cache is not among `input_tokens`."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def _stop_reason(ended: TurnEnded, *, fits: bool) -> str:
    match ended.reason:
        case TurnEnd.TOOL_CALLS:
            return "tool_use"
        case TurnEnd.CONTENT_FILTER:
            return "refusal"
        case TurnEnd.LENGTH:
            return "max_tokens" if fits else "model_context_window_exceeded"
        case _:
            return "end_turn" if ended.stop_string is None else "stop_sequence"
