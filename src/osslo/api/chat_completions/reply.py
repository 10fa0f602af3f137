"""Turn events to chat completions: the whole answer, and the stream of chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

import osslo
from osslo.api.errors import error_body
from osslo.api.sse import DONE, comment, data_event
from osslo.chat.events import (
    ContentLogprob,
    PrefillProgressed,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    TurnEnd,
    TurnEnded,
    TurnEvent,
    TurnStarted,
)
from osslo.errors import OssloError, ShuttingDownError
from osslo.types import Usage

IndexedEvents = AsyncGenerator[tuple[int, TurnEvent], None]

SYSTEM_FINGERPRINT = f"osslo-{osslo.__version__}"


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
    metadata: Mapping[str, str] | None = None
    warnings: tuple[str, ...] = ()

    def remarks(self) -> dict[str, Any]:
        """What is said once an answer, beside OpenAI's fields."""
        remarks: dict[str, Any] = {"reasoning_effort": self.effort}
        if self.metadata is not None:
            remarks["metadata"] = dict(self.metadata)
        if self.warnings:
            remarks["warnings"] = list(self.warnings)
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
            case ToolCallStarted(_, call_id, name):
                self.calls.append(_call(call_id, name))
            case ToolCallDelta(index, arguments):
                self.calls[index]["function"]["arguments"] += arguments
            case TurnEnded():
                self.ended = event
            case TurnStarted() | PrefillProgressed() | ToolCallEnded():
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


async def whole_reply(head: ReplyHead, events: IndexedEvents) -> dict[str, Any]:
    """Read `events` to their end; the answer's body. Raises the error that a choice ended with."""
    choices = [_Choice() for _ in range(head.choices)]
    try:
        async for index, event in events:
            choices[index].add(event)
    finally:
        await events.aclose()
    ends = [_require_good(choice.ended) for choice in choices]
    reply = head.fields("chat.completion")
    reply["choices"] = [
        {
            "index": index,
            "message": choice.message(show_reasoning=head.show_reasoning),
            "logprobs": _logprobs(choice.logprobs) if head.logprobs else None,
            "finish_reason": end.reason.value,
        }
        for index, (choice, end) in enumerate(zip(choices, ends, strict=True))
    ]
    reply["usage"] = usage_fields([end.usage for end in ends])
    return reply | head.remarks()


def _require_good(ended: TurnEnded | None) -> TurnEnded:
    if ended is None:
        raise OssloError("The turn ended without a terminal event.")
    if ended.error is not None:
        raise ended.error
    if ended.reason is TurnEnd.ABORT:
        raise _aborted()
    return ended


def _aborted() -> OssloError:
    return ShuttingDownError("The server stopped the request before it was done.", code="aborted")


# --- the stream ---------------------------------------------------------------------------------


async def streamed_reply(head: ReplyHead, events: IndexedEvents) -> AsyncGenerator[bytes, None]:
    """The answer as server-sent events. An error after the start is an event with `error`."""
    usages: list[Usage] = []
    try:
        async for index, event in events:
            match event:
                case TurnEnded(error=OssloError() as error):
                    yield failure_event(error)
                    return
                case TurnEnded(reason=TurnEnd.ABORT):
                    yield failure_event(_aborted())
                    return
                case TurnEnded(reason=reason, usage=usage):
                    usages.append(usage)
                    yield _chunk(head, index, {}, finish_reason=reason.value)
                case PrefillProgressed(done, total):
                    yield comment(f"prefill {done}/{total}")
                case TurnStarted():
                    yield _opening(head, index)
                case _:
                    delta = _delta(event, show_reasoning=head.show_reasoning)
                    if delta is not None:
                        yield _chunk(head, index, delta, logprobs=_event_logprobs(head, event))
        if head.include_usage:
            last = head.fields("chat.completion.chunk")
            yield data_event({**last, "choices": [], "usage": usage_fields(usages)})
        yield DONE
    finally:
        await events.aclose()


def failure_event(error: OssloError) -> bytes:
    """An error inside a stream; official clients raise it."""
    return data_event(error_body(error))


def _opening(head: ReplyHead, index: int) -> bytes:
    delta = {"role": "assistant", "content": ""}
    return _chunk(head, index, delta, extra=head.remarks() if index == 0 else None)


def _chunk(
    head: ReplyHead,
    index: int,
    delta: dict[str, Any],
    *,
    finish_reason: str | None = None,
    logprobs: dict[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> bytes:
    chunk = head.fields("chat.completion.chunk")
    chunk["choices"] = [
        {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
    ]
    if head.include_usage:
        chunk["usage"] = None
    return data_event({**chunk, **(extra or {})})


def _delta(event: TurnEvent, *, show_reasoning: bool) -> dict[str, Any] | None:
    match event:
        case ReasoningDelta(text):
            return {"reasoning_content": text, "reasoning": text} if show_reasoning else None
        case TextDelta(text):
            return {"content": text}
        case ToolCallStarted(index, call_id, name):
            return {"tool_calls": [{"index": index, **_call(call_id, name)}]}
        case ToolCallDelta(index, arguments):
            return {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}
        case _:
            return None


def _event_logprobs(head: ReplyHead, event: TurnEvent) -> dict[str, Any] | None:
    if not head.logprobs or not isinstance(event, TextDelta):
        return None
    return _logprobs(event.logprobs)


# --- shared -------------------------------------------------------------------------------------


def usage_fields(usages: list[Usage]) -> dict[str, Any]:
    """One usage record for all choices. They share the prompt, which counts once."""
    prompt_tokens = max((usage.prompt_tokens for usage in usages), default=0)
    completion_tokens = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": min((usage.cached_tokens for usage in usages), default=0)
        },
        "completion_tokens_details": {
            "reasoning_tokens": sum(usage.reasoning_tokens for usage in usages)
        },
    }


def _call(call_id: str, name: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}


def _logprobs(records: list[ContentLogprob] | tuple[ContentLogprob, ...]) -> dict[str, Any]:
    content = [
        {**_logprob(record), "top_logprobs": [_logprob(other) for other in record.top]}
        for record in records
    ]
    return {"content": content, "refusal": None}


def _logprob(record: ContentLogprob) -> dict[str, Any]:
    return {"token": record.text, "logprob": record.logprob, "bytes": list(record.raw)}
