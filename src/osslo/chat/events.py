"""The one stream of a turn. Every protocol adapts it; none sees tokens.

Order: `TurnStarted`, any number of the middle events, and exactly one `TurnEnded`. A call's events
share an `index`, counted from 0; calls do not interleave.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from osslo.errors import OssloError
from osslo.types import Timings, Usage


class TurnEnd(StrEnum):
    """Why a turn ended."""

    STOP = "stop"  # the final answer is complete, or a stop string was met
    LENGTH = "length"  # the token limit or the end of the context
    TOOL_CALLS = "tool_calls"  # the caller has to run tools
    CONTENT_FILTER = "content_filter"  # a guard keeps the output back
    ABORT = "abort"  # the caller went away or cancelled
    ERROR = "error"  # the engine failed; `TurnEnded.error` says how


class Phase(StrEnum):
    """What a message of visible text is to the turn."""

    COMMENTARY = "commentary"  # words to the user before the turn's calls or answer
    FINAL = "final"  # the answer


@dataclass(frozen=True, slots=True)
class ContentLogprob:
    """Log-probability (nats) of one token of the visible text, and its alternatives, best first.

    `text` is the token's own text, with U+FFFD where its bytes are not whole characters.
    """

    text: str
    raw: bytes
    logprob: float
    top: tuple[ContentLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The backend took the request."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class PrefillProgressed:
    """`done_tokens` of `total_tokens` of the prompt are processed."""

    done_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of the analysis."""

    text: str


@dataclass(frozen=True, slots=True)
class TextStarted:
    """A message of visible text begins: what follows belongs to it until the next one begins."""

    phase: Phase


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the visible text. Held back while it could be the start of a stop string."""

    text: str
    logprobs: tuple[ContentLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """A call of the function `name` begins; `custom` if its input is free text, not JSON."""

    index: int
    call_id: str
    name: str
    custom: bool = False


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of a call's arguments, as generated."""

    index: int
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolCallEnded:
    """A call is complete, or cut off if the turn ends with LENGTH."""

    index: int


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The terminal event. `deviations` names each departure from the format that was mended;
    `first_output_s` is the time from start to the first reasoning, text or call; `stop_string` the
    one of the caller's stop strings that ended the turn. `cached_known` False: how much of the
    prompt was cached was not learned before the end, and `usage` says 0."""

    reason: TurnEnd
    usage: Usage
    timings: Timings | None = None
    error: OssloError | None = None
    deviations: tuple[str, ...] = ()
    first_output_s: float | None = None
    stop_string: str | None = None
    cached_known: bool = True


TurnEvent = (
    TurnStarted
    | PrefillProgressed
    | ReasoningDelta
    | TextStarted
    | TextDelta
    | ToolCallStarted
    | ToolCallDelta
    | ToolCallEnded
    | TurnEnded
)
