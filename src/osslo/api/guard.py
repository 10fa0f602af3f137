"""The guard: a judge between callers and the model, for keys or servers that want one.

What is asked is judged before a turn begins: a flagged request is a 400 `content_policy_violation`,
and nothing is generated. What is answered (reasoning, text and calls) is held back until the whole
of it is judged, streamed or not, so that nothing unjudged leaves; a flagged answer ends in
`TurnEnd.CONTENT_FILTER` without any of it, and is charged. What cannot be judged is not let
through.
The judge's own turns are metered and charged like any others, as the protocol `guard`.

Texts that were found clean are remembered for a while by their digest, for each caller apart, so
that a conversation that goes on is not judged from its beginning each time.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from osslo.chat.events import (
    PrefillProgressed,
    ReasoningDelta,
    TextDelta,
    TextStarted,
    ToolCallDelta,
    ToolCallStarted,
    TurnEnd,
    TurnEnded,
    TurnEvent,
    TurnStarted,
)
from osslo.chat.judge import Judge, RunTurn, Verdict
from osslo.chat.models import ServedModel
from osslo.chat.moderation import GuardMode
from osslo.chat.raw import RawDelta, RawEvent
from osslo.errors import ContentPolicyError, OssloError
from osslo.telemetry import LOGGER_NAME
from osslo.types import TokenId

_REMEMBERED = 8192
_log = logging.getLogger(LOGGER_NAME + ".guard")

Event = TypeVar("Event", TurnEvent, RawEvent)


class CleanTexts:
    """Digests of texts that the judge let pass, the oldest forgotten first."""

    def __init__(self, most: int = _REMEMBERED) -> None:
        self._most = most
        self._digests: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, digest: bytes) -> bool:
        if digest not in self._digests:
            return False
        self._digests.move_to_end(digest)
        return True

    def add(self, digest: bytes) -> None:
        self._digests[digest] = None
        if len(self._digests) > self._most:
            self._digests.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Guard:
    """Guards one caller's requests to one model. `run` runs the judge's turns."""

    judge: Judge
    mode: GuardMode
    model: ServedModel
    tenant: str
    run: RunTurn
    clean: CleanTexts

    async def check_input(self, texts: Iterable[str]) -> None:
        """Raise `ContentPolicyError` if what is asked is flagged."""
        if not self.mode.judges_input:
            return
        flagged = await self._flagged("\n\n".join(text for text in texts if text))
        if flagged:
            raise ContentPolicyError(
                "This request was flagged by the server's content policy: "
                f"{', '.join(flagged)}. Nothing was generated."
            )

    def watched(self, events: AsyncGenerator[TurnEvent, None]) -> AsyncGenerator[TurnEvent, None]:
        """A turn's events, if its whole output passes."""
        return _held_back(events, self._flagged) if self.mode.judges_output else events

    def watched_raw(self, events: AsyncGenerator[RawEvent, None]) -> AsyncGenerator[RawEvent, None]:
        """The same for a raw completion."""
        return _held_back(events, self._flagged) if self.mode.judges_output else events

    async def _flagged(self, text: str) -> tuple[str, ...]:
        """The categories for which a text is flagged."""
        if not text.strip():
            return ()
        for window in await self.judge.windows(self.model, text):
            digest = self._digest(window)
            if digest in self.clean:
                continue
            verdict = await self._verdict(window)
            if verdict.flagged:
                _log.info("flagged", extra={"categories": ",".join(verdict.flagged)})
                return verdict.flagged
            self.clean.add(digest)
        return ()

    async def _verdict(self, window: str) -> Verdict:
        return await self.judge.judge(
            self.model,
            window,
            self.run,
            request_id="guard_" + secrets.token_hex(12),
            tenant=self.tenant,
        )

    def _digest(self, window: str) -> bytes:
        digest = hashlib.sha256(self.judge.policy.digest)
        for part in (self.model.id, self.tenant, window):
            raw = part.encode("utf-8", "surrogatepass")
            digest.update(len(raw).to_bytes(8, "big") + raw)
        return digest.digest()


def raw_text(model: ServedModel, prompt: str | tuple[TokenId, ...]) -> str:
    """A raw prompt as it reads."""
    if isinstance(prompt, str):
        return prompt
    raw = b"".join(model.vocabulary.token_bytes(token) for token in prompt)
    return raw.decode("utf-8", "replace")


async def _held_back(
    events: AsyncGenerator[Event, None], flagged: Callable[[str], Awaitable[tuple[str, ...]]]
) -> AsyncGenerator[Event, None]:
    """The events, those of the output only when all of it is there and has passed."""
    held: list[Event] = []
    try:
        async for event in events:
            if isinstance(event, TurnStarted | PrefillProgressed):
                yield event
            elif not isinstance(event, TurnEnded):
                held.append(event)
            else:
                ended = await _judged_end(held, event, flagged)
                for passed in held if ended is event else ():
                    yield passed
                yield ended
    finally:
        await events.aclose()


async def _judged_end(
    held: Sequence[TurnEvent | RawEvent],
    ended: TurnEnded,
    flagged: Callable[[str], Awaitable[tuple[str, ...]]],
) -> TurnEnded:
    """`ended` itself if what came before it may leave, else the end that takes its place."""
    if ended.error is not None or ended.reason is TurnEnd.ABORT:
        return replace(ended)  # what was not judged stays here
    try:
        if not await flagged("".join(_output(event) for event in held)):
            return ended
    except OssloError as error:
        return replace(ended, reason=TurnEnd.ERROR, error=error)
    return replace(ended, reason=TurnEnd.CONTENT_FILTER, stop_string=None)


def _output(event: TurnEvent | RawEvent) -> str:
    match event:
        case ReasoningDelta(text) | TextDelta(text) | RawDelta(text):
            return text
        case TextStarted():
            return "\n"
        case ToolCallStarted(name=name):
            return f"\n{name} "
        case ToolCallDelta(_, arguments):
            return arguments
        case _:
            return ""
