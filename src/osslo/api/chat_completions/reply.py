"""Turn events to chat completions: the whole answer, and the stream of chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from osslo.api.openai_replies import (
    SYSTEM_FINGERPRINT,
    Keep,
    failure_event,
    obfuscated,
    usage_fields,
)
from osslo.api.sse import DONE, comment, data_event
from osslo.api.turns import failure_of
from osslo.chat.choices import IndexedEvents
from osslo.chat.events import (
    ContentLogprob,
    PrefillProgressed,
    ReasoningDelta,
    TextDelta,
    TextStarted,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    TurnEnded,
    TurnEvent,
    TurnStarted,
)
from osslo.errors import OssloError
from osslo.types import Timings, Usage


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """What all parts of one answer share. `effort` is echoed as it was applied."""

    completion_id: str
    created: int
    model: str
    effort: str
    choices: int = 1
    logprobs: bool = False
    show_reasoning: bool = True
    include_usage: bool = False
    obfuscate: bool = False
    metadata: Mapping[str, str] | None = None
    warnings: tuple[str, ...] = ()

    def remarks(self) -> dict[str, Any]:
        """What is said once an answer, beside OpenAI's fields."""
        remarks: dict[str, Any] = {"reasoning_effort": self.effort}
        if self.metadata is not None:
            remarks["metadata"] = dict(self.metadata)
        if self.warnings:
            remarks["osslo"] = {"warnings": list(self.warnings)}
        return remarks

    def fields(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.completion_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "service_tier": "default",
            "system_fingerprint": SYSTEM_FINGERPRINT,
        }


# --- the whole answer ---------------------------------------------------------------------------


@dataclass(slots=True)
class _Choice:
    """One choice while it grows."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[ContentLogprob] = field(default_factory=list)
    ended: TurnEnded | None = None

    def add(self, event: TurnEvent) -> None:
        match event:
            case TextDelta(text, logprobs):
                self.text.append(text)
                self.logprobs += logprobs
            case ReasoningDelta(text):
                self.reasoning.append(text)
            case ToolCallStarted(_, call_id, name, custom):
                self.calls.append(_call(call_id, name, custom=custom))
            case ToolCallDelta(index, arguments):
                call = self.calls[index]
                call[call["type"]][_input_field(custom=call["type"] == "custom")] += arguments
            case TurnEnded():
                self.ended = event
            case TurnStarted() | PrefillProgressed() | TextStarted() | ToolCallEnded():
                pass

    def message(self, *, show_reasoning: bool) -> dict[str, Any]:
        text = "".join(self.text)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text if text or not self.calls else None,
            "refusal": None,
        }
        if self.reasoning and show_reasoning:
            message["reasoning_content"] = message["reasoning"] = "".join(self.reasoning)
        if self.calls:
            message["tool_calls"] = self.calls
        return message


class Answer:
    """A whole answer while it grows, of one or several choices."""

    def __init__(self, head: ReplyHead) -> None:
        self._head = head
        self._choices = [_Choice() for _ in range(head.choices)]

    def add(self, index: int, event: TurnEvent) -> None:
        self._choices[index].add(event)

    def timings(self) -> list[Timings | None]:
        """Where the time of each choice went, as far as known."""
        return [choice.ended.timings for choice in self._choices if choice.ended is not None]

    def body(self) -> dict[str, Any]:
        """The answer's body. Raises the error that a choice ended with."""
        head = self._head
        ends = [_require_good(choice.ended) for choice in self._choices]
        reply = head.fields("chat.completion")
        reply["choices"] = [
            {
                "index": index,
                "message": choice.message(show_reasoning=head.show_reasoning),
                "logprobs": _logprobs(choice.logprobs) if head.logprobs else None,
                "finish_reason": end.reason.value,
            }
            for index, (choice, end) in enumerate(zip(self._choices, ends, strict=True))
        ]
        reply["usage"] = usage_fields([end.usage for end in ends])
        return reply | head.remarks()


async def whole_answer(head: ReplyHead, events: IndexedEvents) -> Answer:
    """Read `events` to their end."""
    answer = Answer(head)
    try:
        async for index, event in events:
            answer.add(index, event)
    finally:
        await events.aclose()
    return answer


def _require_good(ended: TurnEnded | None) -> TurnEnded:
    if ended is None:
        raise OssloError("The turn ended without a terminal event.")
    failure = failure_of(ended)
    if failure is not None:
        raise failure
    return ended


# --- the stream ---------------------------------------------------------------------------------


async def streamed_reply(
    head: ReplyHead, events: IndexedEvents, *, keep: Keep | None = None
) -> AsyncGenerator[bytes, None]:
    """The answer as server-sent events. An error after the start is an event with `error`.

    `keep` gets the whole answer's body before the stream ends.
    """
    answer = Answer(head)
    stream = _ChunkStream(head)
    usages: list[Usage] = []
    try:
        async for index, event in events:
            if keep is not None:
                answer.add(index, event)
            match event:
                case TurnEnded(usage=usage):
                    failure = failure_of(event)
                    if failure is not None:
                        yield failure_event(failure)
                        return
                    usages.append(usage)
            for chunk in stream.chunks(index, event):
                yield chunk
        if keep is not None:
            await keep(answer.body())
        if head.include_usage:
            last = head.fields("chat.completion.chunk")
            yield data_event({**last, "choices": [], "usage": usage_fields(usages)})
        yield DONE
    finally:
        await events.aclose()


class _ChunkStream:
    """Events to chunks. It remembers which calls are of custom tools."""

    def __init__(self, head: ReplyHead) -> None:
        self._head = head
        self._customs: set[tuple[int, int]] = set()

    def chunks(self, choice: int, event: TurnEvent) -> list[bytes]:
        head = self._head
        match event:
            case TurnStarted():
                opening = {"role": "assistant", "content": ""}
                return [self._chunk(choice, opening, extra=head.remarks() if not choice else None)]
            case PrefillProgressed(done, total):
                return [comment(f"prefill {done}/{total}")]
            case TextDelta(text, logprobs):
                known = _logprobs(logprobs) if head.logprobs else None
                return [self._chunk(choice, {"content": text}, logprobs=known)]
            case ReasoningDelta(text) if head.show_reasoning:
                return [self._chunk(choice, {"reasoning_content": text, "reasoning": text})]
            case ToolCallStarted(index, call_id, name, custom):
                if custom:
                    self._customs.add((choice, index))
                call = {"index": index, **_call(call_id, name, custom=custom)}
                return [self._chunk(choice, {"tool_calls": [call]})]
            case ToolCallDelta(index, arguments):
                custom = (choice, index) in self._customs
                piece = {_input_field(custom=custom): arguments}
                call = {"index": index, "custom" if custom else "function": piece}
                return [self._chunk(choice, {"tool_calls": [call]})]
            case TurnEnded(reason=reason):
                return [self._chunk(choice, {}, finish_reason=reason.value)]
            case _:
                return []

    def _chunk(
        self,
        choice: int,
        delta: dict[str, Any],
        *,
        finish_reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> bytes:
        head = self._head
        chunk = head.fields("chat.completion.chunk")
        chunk["choices"] = [
            {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        ]
        if head.include_usage:
            chunk["usage"] = None
        chunk |= extra or {}
        return data_event(obfuscated(chunk) if head.obfuscate else chunk)


# --- shared -------------------------------------------------------------------------------------


def _call(call_id: str, name: str, *, custom: bool) -> dict[str, Any]:
    """The beginning of a call."""
    kind = "custom" if custom else "function"
    return {"id": call_id, "type": kind, kind: {"name": name, _input_field(custom=custom): ""}}


def _input_field(*, custom: bool) -> str:
    return "input" if custom else "arguments"


def _logprobs(records: list[ContentLogprob] | tuple[ContentLogprob, ...]) -> dict[str, Any]:
    content = [
        {**_logprob(record), "top_logprobs": [_logprob(other) for other in record.top]}
        for record in records
    ]
    return {"content": content, "refusal": None}


def _logprob(record: ContentLogprob) -> dict[str, Any]:
    return {"token": record.text, "logprob": record.logprob, "bytes": list(record.raw)}
