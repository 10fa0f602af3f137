"""Tokens to turn events: the state of one turn's output, with no I/O.

Channels decide what a message is to the caller, except that a recipient wins over any channel:
analysis is reasoning; final, commentary without a recipient, and whatever has no header is visible
text; a recipient in `functions` is a tool call. Stop strings end the visible text only.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from enum import Enum, auto

from osslo.chat.conversation import FUNCTIONS
from osslo.chat.events import (
    ContentLogprob,
    Phase,
    ReasoningDelta,
    TextDelta,
    TextStarted,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    TurnEvent,
)
from osslo.chat.held_text import HeldText, Piece
from osslo.harmony.events import (
    ContentDelta,
    HarmonyEvent,
    Malformed,
    MessageEnded,
    MessageStarted,
)
from osslo.harmony.messages import Channel
from osslo.harmony.parse import StreamParser
from osslo.harmony.vocabulary import Vocabulary
from osslo.types import TokenId, TokenLogprob


class _Sink(Enum):
    """Where the current message's content goes."""

    NONE = auto()
    REASONING = auto()
    TEXT = auto()
    CALL = auto()


class TurnAssembler:
    """Feed it a turn's tokens in order; it gives the events they make.

    After `stopped` turns True a stop string was met and further tokens are ignored.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        stop: tuple[str, ...],
        functions: frozenset[str],
        custom: frozenset[str] = frozenset(),
    ) -> None:
        """`functions` are all tools that may be called, `custom` those whose input is free text."""
        self._vocabulary = vocabulary
        self._functions = functions
        self._custom = custom
        self._stops = stop
        recipients = [FUNCTIONS + name for name in functions]
        self._parser = StreamParser(vocabulary, recipients=recipients)
        self._specials = frozenset(vocabulary.specials.values())
        self._sink = _Sink.NONE
        self._text = HeldText[ContentLogprob](stop)
        self._header_tokens = 0
        self.calls = 0
        self.tokens = 0
        self.reasoning_tokens = 0
        self.stopped = False
        self.deviations: list[str] = []

    @property
    def stop_string(self) -> str | None:
        """The stop string that was met."""
        return self._text.hit

    def begin(self, tokens: Sequence[TokenId]) -> list[TurnEvent]:
        """Read what of the assistant's turn stands in the prompt already. Call before any `feed`.

        Its text is neither reported nor counted nor searched for stop strings.
        """
        events: list[TurnEvent] = []
        for token in tokens:
            for event in self._parser.feed(token):
                if not isinstance(event, ContentDelta):
                    events += self._handle(event)
        return events

    def feed(self, token: TokenId, logprob: TokenLogprob | None = None) -> list[TurnEvent]:
        """The events of one more token; `logprob` is reported if the token is visible text."""
        if self.stopped:
            return []
        was = self._sink
        parsed = self._parser.feed(token)
        self.tokens += 1
        self._count_reasoning(was, parsed)
        events: list[TurnEvent] = []
        if logprob is not None and self._is_visible(was, token, parsed):
            self._text.expect(self._logprob(logprob))
        for event in parsed:
            events += self._handle(event)
        return events

    def finish(self) -> list[TurnEvent]:
        """The events of what is still open or held back. Call once, at the end."""
        events: list[TurnEvent] = []
        for event in self._parser.finish():
            events += self._handle(event)
        return events + self._close()

    # --- harmony events -------------------------------------------------------------------------

    def _handle(self, event: HarmonyEvent) -> list[TurnEvent]:
        if self.stopped:
            return []
        match event:
            case MessageStarted():
                return [*self._close(), *self._open(event)]
            case ContentDelta(text):
                return self._content(text)
            case MessageEnded():
                return self._close()
            case Malformed(kind):
                self.deviations.append(str(kind))
                return []

    def _open(self, message: MessageStarted) -> list[TurnEvent]:
        name = self._function(message.recipient)
        if name is not None:
            self._sink = _Sink.CALL
            self.calls += 1
            call_id = "call_" + secrets.token_hex(12)
            return [ToolCallStarted(self.calls - 1, call_id, name, name in self._custom)]
        if message.channel == Channel.ANALYSIS:
            self._sink = _Sink.REASONING
            return []
        self._sink = _Sink.TEXT
        preamble = message.channel == Channel.COMMENTARY
        return [TextStarted(Phase.COMMENTARY if preamble else Phase.FINAL)]

    def _content(self, text: str) -> list[TurnEvent]:
        match self._sink:
            case _Sink.REASONING:
                return [ReasoningDelta(text)]
            case _Sink.CALL:
                return [ToolCallDelta(self.calls - 1, text)]
            case _:
                shown, self.stopped = self._text.feed(text)
                return _text_delta(shown)

    def _close(self) -> list[TurnEvent]:
        sink, self._sink = self._sink, _Sink.NONE
        if sink is _Sink.CALL:
            return [ToolCallEnded(self.calls - 1)]
        if sink is not _Sink.TEXT or self.stopped:
            return []
        held, self._text = self._text, HeldText[ContentLogprob](self._stops)
        return _text_delta(held.finish())

    def _function(self, recipient: str | None) -> str | None:
        """The declared function that `recipient` names, with or without its namespace. A name in
        `functions` that was not declared is passed on too, as long as some tool was."""
        if recipient is None or not self._functions:
            return None
        name = recipient.removeprefix(FUNCTIONS)
        known = name in self._functions or (recipient.startswith(FUNCTIONS) and name != "")
        return name if known else None

    # --- counting -------------------------------------------------------------------------------

    def _count_reasoning(self, was: _Sink, parsed: Sequence[HarmonyEvent]) -> None:
        """A header's tokens belong to the message that they open."""
        started = [event for event in parsed if isinstance(event, MessageStarted)]
        if started:
            analysis = started[-1].channel == Channel.ANALYSIS
            analysis = analysis and self._function(started[-1].recipient) is None
            self.reasoning_tokens += (self._header_tokens + 1) * analysis
            self._header_tokens = 0
        elif was is _Sink.NONE:
            self._header_tokens += 1
        elif was is _Sink.REASONING:
            self.reasoning_tokens += 1

    # --- log-probabilities ----------------------------------------------------------------------

    def _is_visible(self, was: _Sink, token: TokenId, parsed: Sequence[HarmonyEvent]) -> bool:
        if token in self._specials:
            return False
        started = next((e for e in parsed if isinstance(e, MessageStarted)), None)
        if started is None:
            return was is _Sink.TEXT
        analysis = started.channel == Channel.ANALYSIS
        return not analysis and self._function(started.recipient) is None

    def _logprob(self, record: TokenLogprob) -> ContentLogprob:
        def one(token: TokenId, logprob: float) -> ContentLogprob:
            raw = self._vocabulary.token_bytes(token)
            return ContentLogprob(raw.decode("utf-8", "replace"), raw, logprob)

        chosen = one(record.token, record.logprob)
        top = tuple(one(token, value) for token, value in record.top)
        return ContentLogprob(chosen.text, chosen.raw, chosen.logprob, top)


def _text_delta(piece: Piece[ContentLogprob]) -> list[TurnEvent]:
    return [TextDelta(piece.text, piece.records)] if piece else []
