"""The log that a response's stream is played again from: the events of its turn, in order.

A builder that is fed with them gives the same events with the same sequence numbers, so that the
log holds each piece of text once and nothing of the protocol. What a builder draws at random
(sealed reasoning) is taken from where it was drawn first.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from osslo.api.responses.builder import Event, ResponseBuilder, ResponseHead
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
from osslo.errors import OssloError
from osslo.store.items import dump
from osslo.store.responses import ResponseStore, StoredResponse
from osslo.types import Usage

MOST_LOG_BYTES = 8 << 20
"""A longer log is not kept."""

_LOOK_S = 1.0
"""How often a response that runs in another process is looked at."""

_GROWING = ("status", "completed_at", "error", "incomplete_details", "output", "usage")


@dataclass(frozen=True, slots=True)
class Cut:
    """An end that did not come from the turn: cancelled by its owner or, with `error`, failed.
    `usage` is what was used until then."""

    error: OssloError | None = None
    usage: Usage | None = None


Step = TurnEvent | Cut
"""What moves a response on."""


def is_shown(step: Step) -> bool:
    """Whether a response's stream has anything to say of it."""
    return not isinstance(step, PrefillProgressed | ToolCallEnded)


def advance(builder: ResponseBuilder, step: Step, at: float) -> list[Event]:
    """The events of one step; `at` as for `ResponseBuilder.feed`."""
    match step:
        case Cut(error=None, usage=usage):
            return builder.cancel(at, usage)
        case Cut(error=OssloError() as error, usage=usage):
            return builder.fail(error, at, usage)
        case Cut():
            raise AssertionError("an error of another kind")
        case _:
            return builder.feed(step, at)


def encode_log(head: ResponseHead, steps: Sequence[Step], ended_at: float) -> str | None:
    """A finished response's log as text; None if it is too long to be kept."""
    log = {"at": ended_at, "logprobs": head.logprobs, "steps": [_encoded(step) for step in steps]}
    text = dump(log)
    return text if len(text) <= MOST_LOG_BYTES else None


def replay(body: Mapping[str, Any], log: str) -> Iterator[Event]:
    """The events of a finished background response, from what is kept of it."""
    kept = json.loads(log)
    sealed = {item["id"]: item.get("encrypted_content") for item in body["output"]}
    head = ResponseHead(
        body["id"],
        {name: value for name, value in body.items() if name not in _GROWING},
        background=True,
        logprobs=kept["logprobs"],
    )
    seals = any(sealed.values())
    builder = ResponseBuilder(head, seal=(lambda name, _: sealed[name] or "") if seals else None)
    yield from builder.begin()
    for step in kept["steps"]:
        yield from advance(builder, _decoded(step), kept["at"])


async def follow_stored(
    store: ResponseStore, stored: StoredResponse, starting_after: int | None
) -> AsyncGenerator[Event, None]:
    """The events behind number `starting_after` of a background response that does not run in this
    process. While it runs in another, its end is waited for. Without a log (the process died, or
    the log was too long) there is only the last event.
    """
    after = -1 if starting_after is None else starting_after
    while stored.unfinished:
        await asyncio.sleep(_LOOK_S)
        stored = await store.get(stored.tenant, stored.id)
    if stored.log is not None:
        for event in replay(stored.body, stored.log):
            if event["sequence_number"] > after:
                yield event
        return
    name = "incomplete" if stored.status == "cancelled" else stored.status
    yield {
        "type": f"response.{name}",
        "response": dict(stored.body),
        "sequence_number": after + 1,
    }


def _encoded(step: Step) -> list[Any]:
    match step:
        case TurnStarted(count):
            return ["started", count]
        case ReasoningDelta(text):
            return ["reasoning", text]
        case TextStarted(phase):
            return ["message", phase.value]
        case TextDelta(text, logprobs):
            shown = [_encoded_logprob(record) for record in logprobs]
            return ["text", text, shown] if shown else ["text", text]
        case ToolCallStarted(index, call_id, name, custom):
            return ["call", index, call_id, name, custom]
        case ToolCallDelta(index, arguments):
            return ["arguments", index, arguments]
        case TurnEnded():
            return ["ended", step.reason.value, _counts(step.usage), _encoded_error(step.error)]
        case Cut(error, usage):
            return ["cut", _encoded_error(error), None if usage is None else _counts(usage)]
        case _:
            raise AssertionError("a step that no stream shows")


def _decoded(step: Sequence[Any]) -> Step:
    match step:
        case ["started", count]:
            return TurnStarted(count)
        case ["reasoning", text]:
            return ReasoningDelta(text)
        case ["message", phase]:
            return TextStarted(Phase(phase))
        case ["text", text, *logprobs]:
            records = logprobs[0] if logprobs else ()
            return TextDelta(text, tuple(_decoded_logprob(record) for record in records))
        case ["call", index, call_id, name, custom]:
            return ToolCallStarted(index, call_id, name, custom)
        case ["arguments", index, arguments]:
            return ToolCallDelta(index, arguments)
        case ["ended", reason, counts, error]:
            return TurnEnded(TurnEnd(reason), Usage(*counts), error=_decoded_error(error))
        case ["cut", error, counts]:
            return Cut(_decoded_error(error), None if counts is None else Usage(*counts))
        case _:
            raise AssertionError("a step that no log holds")


def _counts(usage: Usage) -> list[int]:
    return [
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.cached_tokens,
        usage.reasoning_tokens,
    ]


def _encoded_error(error: OssloError | None) -> list[Any] | None:
    return None if error is None else [error.status, error.code, error.message]


def _decoded_error(given: Sequence[Any] | None) -> OssloError | None:
    if given is None:
        return None
    status, code, message = given
    error = OssloError(message, code=code)
    error.status = status
    return error


def _encoded_logprob(record: ContentLogprob) -> list[Any]:
    def one(token: ContentLogprob) -> list[Any]:
        return [token.raw.hex(), token.logprob]

    return [*one(record), *(one(other) for other in record.top)]


def _decoded_logprob(given: Sequence[Any]) -> ContentLogprob:
    def one(raw: str, logprob: float) -> ContentLogprob:
        known = bytes.fromhex(raw)
        return ContentLogprob(known.decode("utf-8", "replace"), known, logprob)

    raw, logprob, *top = given
    chosen = one(raw, logprob)
    others = tuple(one(*other) for other in top)
    return ContentLogprob(chosen.text, chosen.raw, chosen.logprob, others)
