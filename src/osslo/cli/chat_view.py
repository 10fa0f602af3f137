"""How a terminal chat looks: reasoning dimmed, text plain, progress while a prompt is read, and one
dim line of numbers at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

from rich.status import Status

from osslo.chat.events import (
    PrefillProgressed,
    ReasoningDelta,
    TextDelta,
    TurnEnded,
    TurnEvent,
)
from osslo.cli.output import Output


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one question. `ended` is None if it was interrupted."""

    text: str
    reasoning: str
    ended: TurnEnded | None
    first_output_s: float
    total_s: float


class ChatView:
    """Prints one turn as it comes. Reasoning, progress and numbers go to stderr, text to stdout."""

    def __init__(
        self,
        output: Output,
        *,
        show_reasoning: bool = True,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._output = output
        self._show_reasoning = show_reasoning
        self._quiet = quiet
        self._clock = clock

    def show(self, events: Generator[TurnEvent, None, None]) -> Answer:
        """Print `events` to their end, or until Ctrl-C, which keeps what has come so far."""
        begin = self._clock()
        text: list[str] = []
        reasoning: list[str] = []
        ended: TurnEnded | None = None
        first_s: float | None = None
        status = self._output.err.status("thinking", spinner="dots")
        try:
            if not self._quiet:
                status.start()
            with closing(events):
                for event in events:
                    if isinstance(event, ReasoningDelta | TextDelta) and first_s is None:
                        first_s = self._clock() - begin
                    match event:
                        case PrefillProgressed(done, total):
                            status.update(f"reading the prompt: {done} of {total} tokens")
                        case ReasoningDelta(piece):
                            reasoning.append(piece)
                            self._reason(status, piece)
                        case TextDelta(piece):
                            self._text(status, piece, after_reasoning=bool(reasoning and not text))
                            text.append(piece)
                        case TurnEnded():
                            ended = event
                        case _:
                            pass
        except KeyboardInterrupt:
            pass
        finally:
            status.stop()
        total_s = self._clock() - begin
        self._end(text)
        return Answer("".join(text), "".join(reasoning), ended, first_s or total_s, total_s)

    def _reason(self, status: Status, piece: str) -> None:
        if self._show_reasoning and not self._quiet:
            status.stop()
            self._output.err.print(piece, end="", style="dim", markup=False, soft_wrap=True)

    def _text(self, status: Status, piece: str, *, after_reasoning: bool) -> None:
        if self._quiet:
            return
        status.stop()
        if after_reasoning and self._show_reasoning:
            self._output.err.print("\n")
        self._output.out.print(piece, end="", markup=False, soft_wrap=True)

    def _end(self, text: list[str]) -> None:
        if not self._quiet and (not text or not text[-1].endswith("\n")):
            self._output.out.print()


def numbers(answer: Answer) -> str:
    """The line under an answer: tokens, speed, time to the first one."""
    if answer.ended is None:
        return "interrupted"
    usage = answer.ended.usage
    decode_s = answer.total_s - answer.first_output_s
    speed = ""
    if decode_s > 0 and usage.completion_tokens > 1:
        speed = f", {(usage.completion_tokens - 1) / decode_s:.1f} tokens/s"
    cached = f" ({usage.cached_tokens} from the cache)" if usage.cached_tokens else ""
    ended = "" if answer.ended.reason.value == "stop" else f", ended by {answer.ended.reason.value}"
    return (
        f"{usage.completion_tokens} tokens{speed}, prompt {usage.prompt_tokens}{cached}, "
        f"first after {answer.first_output_s:.2f} s{ended}"
    )
