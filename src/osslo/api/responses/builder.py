"""Turn events to a Response and to the events of its stream: a state machine without I/O.

What it gives is a function of the events it was fed: the whole answer and the stream cannot
differ, a stream can be played again from a log of the events, and a response that still runs can be
shown at any moment. Sequence numbers count from 0 and leave none out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from osslo.chat.events import (
    ContentLogprob,
    Phase,
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
from osslo.errors import OssloError, ShuttingDownError
from osslo.types import Timings, Usage

Event = dict[str, Any]
"""One event of a stream, as it is sent."""

SealReasoning = Callable[[str, str], str]
"""Seals the text of the reasoning item with an id, for the caller to keep."""

TERMINAL = ("completed", "incomplete", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """What a response says of itself from its beginning to its end: `fields` of the Response object
    but those that grow. `logprobs`: the text comes with log-probabilities."""

    response_id: str
    fields: Mapping[str, Any]
    background: bool = False
    logprobs: bool = False


@dataclass(slots=True)
class _Open:
    """An item that still grows: its final shape but for the text, and the text so far."""

    item: dict[str, Any]
    texts: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.texts)


class ResponseBuilder:
    """Begin it, feed it a turn's events, look at `response()` whenever it is needed."""

    def __init__(self, head: ResponseHead, *, seal: SealReasoning | None = None) -> None:
        """With `seal` reasoning items carry `encrypted_content`."""
        self._head = head
        self._seal = seal
        self._done: list[dict[str, Any]] = []
        self._open: _Open | None = None
        self._sequence = 0
        self._error: OssloError | None = None
        self._usage: Usage | None = None
        self._ended_at: float | None = None
        self._incomplete = "max_output_tokens"
        self.timings: Timings | None = None
        self.status = "queued" if head.background else "in_progress"

    # --- what goes in ---------------------------------------------------------------------------

    def begin(self) -> list[Event]:
        """The events before the turn's first one."""
        if self._head.background:
            return [self._lifecycle("created"), self._lifecycle("queued")]
        return [self._lifecycle("created"), self._lifecycle("in_progress")]

    def feed(self, event: TurnEvent, at: float) -> list[Event]:
        """The events of one more turn event; `at` is the time that a response ended at, in seconds
        of Unix time."""
        match event:
            case TurnStarted():
                return self._started()
            case ReasoningDelta(text):
                return [*self._start_reasoning(), self._delta(text)]
            case TextStarted(phase):
                return self._start_message(phase)
            case TextDelta(text, logprobs):
                return self._text(text, logprobs)
            case ToolCallStarted():
                return self._call(event)
            case ToolCallDelta(_, arguments):
                return [self._delta(arguments)] if self._open is not None else []
            case TurnEnded():
                return self._end(event, at)
            case PrefillProgressed() | ToolCallEnded():
                return []

    def cancel(self, at: float, usage: Usage | None = None) -> list[Event]:
        """The end of a response that its owner cancelled, after `usage` if it had begun."""
        self._usage = usage or self._usage
        return self._finish("cancelled", at)

    def fail(self, error: OssloError, at: float, usage: Usage | None = None) -> list[Event]:
        """The end of a response that cannot go on, after `usage` if it had begun."""
        self._error, self._usage = error, usage or self._usage
        return self._finish("failed", at)

    # --- what comes out -------------------------------------------------------------------------

    @property
    def error(self) -> OssloError | None:
        """Why the response failed."""
        return self._error

    @property
    def next_sequence(self) -> int:
        """The number of the event that comes next."""
        return self._sequence

    def response(self) -> dict[str, Any]:
        """The Response object as it is now."""
        output = list(self._done)
        if self._open is not None:
            output.append(self._closed(self._open, "in_progress"))
        ended = self.status == "completed"
        return {
            **self._head.fields,
            "status": self.status,
            "completed_at": self._ended_at if ended else None,
            "error": None if self._error is None else _error_fields(self._error),
            "incomplete_details": (
                {"reason": self._incomplete} if self.status == "incomplete" else None
            ),
            "output": output,
            "usage": None if self._usage is None else usage_fields(self._usage),
        }

    # --- items ----------------------------------------------------------------------------------

    def _started(self) -> list[Event]:
        if self.status != "queued":
            return []
        self.status = "in_progress"
        return [self._lifecycle("in_progress")]

    def _start_message(self, phase: Phase) -> list[Event]:
        name = "commentary" if phase is Phase.COMMENTARY else "final_answer"
        item = {"type": "message", "role": "assistant", "content": [], "phase": name}
        return [*self._close("completed"), *self._begin_item("msg", item)]

    def _text(self, text: str, logprobs: tuple[ContentLogprob, ...]) -> list[Event]:
        opening = []
        if self._open is None or self._open.item["type"] != "message":
            opening = self._start_message(Phase.FINAL)
        return [*opening, self._delta(text, logprobs)]

    def _call(self, call: ToolCallStarted) -> list[Event]:
        kind, key, prefix = ("function_call", "arguments", "fc")
        if call.custom:
            kind, key, prefix = ("custom_tool_call", "input", "ctc")
        item = {"type": kind, "call_id": call.call_id, "name": call.name, key: ""}
        return [*self._close("completed"), *self._begin_item(prefix, item)]

    def _start_reasoning(self) -> list[Event]:
        if self._open is not None and self._open.item["type"] == "reasoning":
            return []
        item: dict[str, Any] = {"type": "reasoning", "summary": [], "content": []}
        return [*self._close("completed"), *self._begin_item("rs", item)]

    def _begin_item(self, prefix: str, item: dict[str, Any]) -> list[Event]:
        suffix = self._head.response_id.removeprefix("resp_")
        item_id = f"{prefix}_{suffix}{len(self._done):04x}"
        self._open = _Open({"id": item_id, **item})
        shown = {"id": item_id, "status": "in_progress", **item}
        events = [self._event("response.output_item.added", item=shown)]
        if "content" in item:
            part = self._part(self._open)
            events.append(self._part_event("response.content_part.added", part=part))
        return events

    def _delta(self, text: str, logprobs: tuple[ContentLogprob, ...] = ()) -> Event:
        current = self._current()
        current.texts.append(text)
        match current.item["type"]:
            case "reasoning":
                return self._part_event("response.reasoning_text.delta", delta=text)
            case "message":
                shown = [_logprob(record) for record in logprobs] if self._head.logprobs else []
                current.logprobs += shown
                return self._part_event(
                    "response.output_text.delta", delta=text, logprobs=_brief(shown)
                )
            case "function_call":
                return self._item_event("response.function_call_arguments.delta", delta=text)
            case _:
                return self._item_event("response.custom_tool_call_input.delta", delta=text)

    def _close(self, status: str) -> list[Event]:
        """End the item that is open, if one is."""
        if self._open is None:
            return []
        current, kind, text = self._open, self._open.item["type"], self._open.text
        events: list[Event] = []
        match kind:
            case "reasoning":
                events.append(self._part_event("response.reasoning_text.done", text=text))
            case "message":
                logprobs = _brief(current.logprobs)
                events.append(
                    self._part_event("response.output_text.done", text=text, logprobs=logprobs)
                )
            case "function_call":
                done = "response.function_call_arguments.done"
                events.append(self._item_event(done, arguments=text))
            case _:
                events.append(self._item_event("response.custom_tool_call_input.done", input=text))
        if "content" in current.item:
            part = self._part(current)
            events.append(self._part_event("response.content_part.done", part=part))
        item = self._closed(current, status)
        events.append(self._event("response.output_item.done", item=item))
        self._done.append(item)
        self._open = None
        return events

    def _closed(self, current: _Open, status: str) -> dict[str, Any]:
        """An item in its final shape, with what was written of it so far."""
        item = {"id": current.item["id"], "status": status, **current.item}
        match item["type"]:
            case "function_call":
                item["arguments"] = current.text
            case "custom_tool_call":
                item["input"] = current.text
            case "reasoning":
                item["content"] = [self._part(current)]
                if self._seal is not None and status != "in_progress":
                    item["encrypted_content"] = self._seal(item["id"], current.text)
            case _:
                item["content"] = [self._part(current)]
        return item

    def _part(self, current: _Open) -> dict[str, Any]:
        if current.item["type"] == "reasoning":
            return {"type": "reasoning_text", "text": current.text}
        return {
            "type": "output_text",
            "text": current.text,
            "annotations": [],
            "logprobs": list(current.logprobs),
        }

    def _current(self) -> _Open:
        if self._open is None:
            raise AssertionError("text without an item")
        return self._open

    # --- the end --------------------------------------------------------------------------------

    def _end(self, ended: TurnEnded, at: float) -> list[Event]:
        self._usage, self.timings = ended.usage, ended.timings
        if ended.error is not None:
            return self.fail(ended.error, at)
        match ended.reason:
            case TurnEnd.ABORT:
                return self.fail(aborted(), at)
            case TurnEnd.LENGTH | TurnEnd.CONTENT_FILTER:
                filtered = ended.reason is TurnEnd.CONTENT_FILTER
                self._incomplete = "content_filter" if filtered else "max_output_tokens"
                return self._finish("incomplete", at)
            case _:
                return self._finish("completed", at)

    def _finish(self, status: str, at: float) -> list[Event]:
        events = self._close("completed" if status == "completed" else "incomplete")
        self.status = status
        self._ended_at = at
        # OpenAI's streams have no event of their own for a response that was cancelled.
        return [*events, self._lifecycle("incomplete" if status == "cancelled" else status)]

    # --- events ---------------------------------------------------------------------------------

    def _lifecycle(self, name: str) -> Event:
        return self._numbered({"type": f"response.{name}", "response": self.response()})

    def _part_event(self, kind: str, **fields: Any) -> Event:
        return self._item_event(kind, content_index=0, **fields)

    def _item_event(self, kind: str, **fields: Any) -> Event:
        return self._event(kind, item_id=self._current().item["id"], **fields)

    def _event(self, kind: str, **fields: Any) -> Event:
        return self._numbered({"type": kind, "output_index": len(self._done), **fields})

    def _numbered(self, event: Event) -> Event:
        event["sequence_number"] = self._sequence
        self._sequence += 1
        return event


def error_event(error: OssloError, sequence: int) -> Event:
    """An error that ends a stream whose response was never begun, or could not be kept."""
    return {
        "type": "error",
        "code": error.code,
        "message": error.message,
        "param": error.param,
        "sequence_number": sequence,
    }


def aborted() -> OssloError:
    """Why a turn ended that nobody cancelled."""
    return ShuttingDownError("The server stopped the request before it was done.", code="aborted")


def usage_fields(usage: Usage) -> dict[str, Any]:
    """Token counts as the protocol spells them. Writing to the prefix cache costs nothing here."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


def _error_fields(error: OssloError) -> dict[str, Any]:
    """The protocol knows three codes that can apply here."""
    code = "server_error"
    if error.status == 429:
        code = "rate_limit_exceeded"
    elif error.status < 500:
        code = "invalid_prompt"
    return {"code": code, "message": error.message}


def _logprob(record: ContentLogprob) -> dict[str, Any]:
    def one(token: ContentLogprob) -> dict[str, Any]:
        return {"token": token.text, "logprob": token.logprob, "bytes": list(token.raw)}

    return {**one(record), "top_logprobs": [one(other) for other in record.top]}


def _brief(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Log-probabilities as events carry them: without bytes."""
    return [
        {
            "token": record["token"],
            "logprob": record["logprob"],
            "top_logprobs": [
                {"token": other["token"], "logprob": other["logprob"]}
                for other in record["top_logprobs"]
            ],
        }
        for record in records
    ]
