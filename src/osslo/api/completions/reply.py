"""Raw events to completions: the whole answer, and the stream of chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from osslo.api.openai_replies import SYSTEM_FINGERPRINT, failure_event, obfuscated, usage_record
from osslo.api.sse import DONE, comment, data_event
from osslo.api.turns import IndexedRawEvents, failure_of
from osslo.chat.events import PrefillProgressed, TurnEnded, TurnStarted
from osslo.chat.raw import RawDelta, RawEvent, RawToken
from osslo.errors import OssloError
from osslo.types import Timings, Usage


@dataclass(frozen=True, slots=True)
class CompletionHead:
    """What all parts of one answer share. Of each prompt's `candidates` the likeliest `choices`
    are given."""

    completion_id: str
    created: int
    model: str
    prompts: int = 1
    candidates: int = 1
    choices: int = 1
    logprobs: int | None = None
    include_usage: bool = False
    obfuscate: bool = False
    warnings: tuple[str, ...] = ()

    def fields(self) -> dict[str, Any]:
        return {
            "id": self.completion_id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": SYSTEM_FINGERPRINT,
        }

    def remarks(self) -> dict[str, Any]:
        """What is said once an answer."""
        return {"osslo": {"warnings": list(self.warnings)}} if self.warnings else {}


@dataclass(slots=True)
class _Candidate:
    """One run while it grows."""

    text: list[str] = field(default_factory=list)
    tokens: list[RawToken] = field(default_factory=list)
    prompt_tokens: int = 0
    ended: TurnEnded | None = None

    def add(self, event: RawEvent) -> None:
        match event:
            case TurnStarted(prompt_tokens):
                self.prompt_tokens = prompt_tokens
            case RawDelta(text, tokens):
                self.text.append(text)
                self.tokens += tokens
            case TurnEnded():
                self.ended = event
            case PrefillProgressed():
                pass

    def end(self) -> TurnEnded:
        """How it ended. Raises the error that it ended with."""
        if self.ended is None:
            raise OssloError("The completion ended without a terminal event.")
        failure = failure_of(self.ended)
        if failure is not None:
            raise failure
        return self.ended

    def likelihood(self, *, echo: bool) -> float:
        """The mean log-probability of its own tokens."""
        own = self.tokens[self.prompt_tokens if echo else 0 :]
        known = [token.logprob for token in own if token.logprob is not None]
        return sum(known) / len(known) if known else float("-inf")


class WholeCompletion:
    """A whole answer while it grows."""

    def __init__(self, head: CompletionHead, *, echo: bool) -> None:
        self._head = head
        self._echo = echo
        self._runs = [_Candidate() for _ in range(head.prompts * head.candidates)]

    def add(self, index: int, event: RawEvent) -> None:
        self._runs[index].add(event)

    def timings(self) -> list[Timings | None]:
        """Where the time of each run went, as far as known."""
        return [run.ended.timings for run in self._runs if run.ended is not None]

    def body(self) -> dict[str, Any]:
        """The answer's body. Raises the error that a run ended with."""
        head = self._head
        usages = [run.end().usage for run in self._runs]
        chosen = [run for group in self._groups() for run in self._best(group)]
        return {
            **head.fields(),
            "choices": [self._choice(index, run) for index, run in enumerate(chosen)],
            "usage": usage_of(head, usages),
            **head.remarks(),
        }

    def _groups(self) -> list[list[_Candidate]]:
        size = self._head.candidates
        return [self._runs[start : start + size] for start in range(0, len(self._runs), size)]

    def _best(self, group: list[_Candidate]) -> list[_Candidate]:
        if self._head.choices == len(group):
            return group
        ranked = sorted(group, key=lambda run: run.likelihood(echo=self._echo), reverse=True)
        return ranked[: self._head.choices]

    def _choice(self, index: int, run: _Candidate) -> dict[str, Any]:
        return {
            "index": index,
            "text": "".join(run.text),
            "logprobs": logprob_lists(run.tokens, self._head.logprobs),
            "finish_reason": run.end().reason.value,
        }


async def whole_completion(
    head: CompletionHead, events: IndexedRawEvents, *, echo: bool
) -> WholeCompletion:
    """Read `events` to their end."""
    answer = WholeCompletion(head, echo=echo)
    try:
        async for index, event in events:
            answer.add(index, event)
    finally:
        await events.aclose()
    return answer


async def streamed_completion(
    head: CompletionHead, events: IndexedRawEvents
) -> AsyncGenerator[bytes, None]:
    """The answer as server-sent events. An error after the start is an event with `error`."""
    usages: dict[int, Usage] = {}
    remarks = head.remarks()
    try:
        async for index, event in events:
            match event:
                case PrefillProgressed(done, total):
                    yield comment(f"prefill {done}/{total}")
                case RawDelta(text, tokens):
                    yield _chunk(head, index, text, tokens=tokens, remarks=remarks)
                    remarks = {}
                case TurnEnded(usage=usage, reason=reason):
                    failure = failure_of(event)
                    if failure is not None:
                        yield failure_event(failure)
                        return
                    usages[index] = usage
                    yield _chunk(head, index, "", finish=reason.value, remarks=remarks)
                    remarks = {}
                case TurnStarted():
                    pass
        if head.include_usage:
            ordered = [usages[index] for index in sorted(usages)]
            yield data_event({**head.fields(), "choices": [], "usage": usage_of(head, ordered)})
        yield DONE
    finally:
        await events.aclose()


def _chunk(
    head: CompletionHead,
    index: int,
    text: str,
    *,
    remarks: dict[str, Any],
    tokens: Sequence[RawToken] = (),
    finish: str | None = None,
) -> bytes:
    chunk = head.fields()
    chunk["choices"] = [
        {
            "index": index,
            "text": text,
            "logprobs": logprob_lists(tokens, head.logprobs) if tokens else None,
            "finish_reason": finish,
        }
    ]
    if head.include_usage:
        chunk["usage"] = None
    chunk |= remarks
    return data_event(obfuscated(chunk) if head.obfuscate else chunk)


def usage_of(head: CompletionHead, usages: Sequence[Usage]) -> dict[str, Any]:
    """One usage record: each prompt once, all candidates."""
    groups = [
        usages[start : start + head.candidates] for start in range(0, len(usages), head.candidates)
    ]
    return usage_record(
        Usage(
            sum(group[0].prompt_tokens for group in groups),
            sum(usage.completion_tokens for usage in usages),
            sum(min(usage.cached_tokens for usage in group) for group in groups),
        )
    )


def logprob_lists(tokens: Sequence[RawToken], alternatives: int | None) -> dict[str, Any] | None:
    """The parallel lists of OpenAI's shape; None where none were asked for."""
    if alternatives is None:
        return None
    return {
        "tokens": [_name(token.text, token.raw) for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [_top(token) for token in tokens] if alternatives else None,
        "text_offset": [token.offset for token in tokens],
    }


def _top(token: RawToken) -> dict[str, float] | None:
    """The alternatives with the token itself; None for a token that follows nothing."""
    if token.logprob is None:
        return None
    top = {_name(other.text, other.raw): other.logprob for other in reversed(token.top)}
    return top | {_name(token.text, token.raw): token.logprob}


def _name(text: str, raw: bytes) -> str:
    """A token's text, or its bytes where they are not whole characters."""
    if text.encode() == raw:
        return text
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
