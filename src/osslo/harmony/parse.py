"""From generated token ids to messages, one token at a time.

Owns the state machine over harmony's markers. It never raises, whatever the tokens: a stream that
leaves the format is read for what was meant, a call wherever a recipient is named, and otherwise
reaches the user as text. `header` reads headers, `events` is the output.
"""

from __future__ import annotations

import codecs
from collections.abc import Collection, Iterable
from enum import Enum, auto

from osslo.harmony.events import (
    Anomaly,
    ContentDelta,
    EndReason,
    HarmonyEvent,
    Malformed,
    MessageEnded,
    MessageStarted,
)
from osslo.harmony.header import Header, Part, PartKind, begins_word, interpret, may_be_header
from osslo.harmony.leaks import LeakScanner, leaked_opening
from osslo.harmony.messages import Channel, Message, Role
from osslo.harmony.vocabulary import Markers, Vocabulary

_LONGEST_PART_BYTES = 256
"""A header's part that grows longer than this is text whose `<|message|>` was forgotten."""


class _Marker(Enum):
    START = auto()
    CHANNEL = auto()
    CONSTRAIN = auto()
    MESSAGE = auto()


class StreamParser:
    """Parses one assistant turn. Feed every generated token, stop tokens included, then finish.

    The stream begins right after a prompt's `<|start|>assistant` (or before a `<|start|>` of its
    own: both read alike). Where a prompt ends further on, feed its tail first. `recipients` are
    the tools that exist (`functions.get_time`), for repairing names; other names are reported as
    they stand.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        recipients: Collection[str] = (),
    ) -> None:
        self._vocabulary = vocabulary
        self._known = frozenset(recipients)
        markers = Markers.of(vocabulary)
        self._markers = {
            markers.start: _Marker.START,
            markers.channel: _Marker.CHANNEL,
            markers.constrain: _Marker.CONSTRAIN,
            markers.message: _Marker.MESSAGE,
        }
        self._ends = {
            markers.end: EndReason.END,
            markers.return_: EndReason.RETURN,
            markers.call: EndReason.CALL,
        }
        if (end_of_text := vocabulary.specials.get("<|endoftext|>")) is not None:
            self._ends[end_of_text] = EndReason.RETURN
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        # Inside text `_parts` is empty; otherwise it is the header read so far, and `_raw` the same
        # as it stood, in case that it turns out to be text. `_message` is the message still open:
        # while a header is read inside it, it may yet go on.
        self._parts: list[Part] = [Part(PartKind.ROLE, announced=False)]
        self._raw = b""
        self._message: MessageStarted | None = None
        self._leaks: LeakScanner | None = None  # while the open message is reasoning
        self._events: list[HarmonyEvent] = []

    @property
    def message(self) -> MessageStarted | None:
        """The message being written at this moment, None between messages and in headers."""
        return self._message if not self._parts else None

    def feed(self, token: int) -> list[HarmonyEvent]:
        """What this token completes; most often nothing or one delta. Never raises."""
        if (reason := self._ends.get(token)) is not None:
            self._end(reason)
        elif (marker := self._markers.get(token)) is not None:
            self._mark(marker, self._bytes(token))
        elif self._parts:
            self._header_text(self._bytes(token))
        else:
            self._content(self._bytes(token))
        return self._take_events()

    def finish(self) -> list[HarmonyEvent]:
        """What the end of the stream completes. Idempotent."""
        self._end(EndReason.CUT)
        return self._take_events()

    def _take_events(self) -> list[HarmonyEvent]:
        events, self._events = self._events, []
        return events

    def _bytes(self, token: int) -> bytes:
        data = self._vocabulary.token_bytes(token) if token >= 0 else b""
        if not data:
            self._report(Anomaly.UNKNOWN_TOKEN)
        return data

    # --- markers ----------------------------------------------------------------------------------

    def _mark(self, marker: _Marker, literal: bytes) -> None:
        match marker:
            case _Marker.START:
                self._open_part(PartKind.ROLE, literal)
            case _Marker.CHANNEL:
                self._open_part(PartKind.CHANNEL, literal)
            case _Marker.CONSTRAIN if self._parts:
                self._open_part(PartKind.TYPE, literal)
            case _Marker.MESSAGE if self._parts:
                self._settle()
            case _:
                self._report(Anomaly.STRAY_MARKER)
                self._content(literal)

    def _open_part(self, kind: PartKind, literal: bytes) -> None:
        self._parts.append(Part(kind))
        if self._message is not None:
            self._raw += literal

    def _settle(self) -> None:
        """`<|message|>`: the header is complete."""
        self._leave_open_message()
        header = interpret(self._parts, self._known, settled=True)
        self._start(header)

    def _end(self, reason: EndReason) -> None:
        if self._parts:
            self._end_in_header(reason)
        if self._message is not None:
            self._close(reason)
        self._parts = [Part(PartKind.ROLE, announced=False)]
        self._raw = b""

    def _end_in_header(self, reason: EndReason) -> None:
        """An end marker, or the stream's end, where `<|message|>` was due."""
        header = interpret(self._parts, self._known, settled=False)
        raw = self._raw.strip()
        rest = header.rest.strip()
        is_cut_word = reason is EndReason.CUT and self._parts[-1].announced and begins_word(rest)
        if (rest and not is_cut_word) or (raw and self._is_unmarked(header)):
            self._begin_text(header)
        elif reason is EndReason.CUT:
            if raw:
                self._report(Anomaly.CUT_HEADER, raw.decode("utf-8", "replace"))
        elif header.recipient or (header.channel and self._message is None):
            self._begin_text(header)
        elif len(self._parts) > 1:
            self._events += header.anomalies
            self._report(Anomaly.EMPTY_MESSAGE)
        else:
            self._report(Anomaly.STRAY_END)

    # --- text -------------------------------------------------------------------------------------

    def _header_text(self, data: bytes) -> None:
        """Text inside a header; it turns into content once it cannot be a header any more."""
        part = self._parts[-1]
        part.text += data
        self._raw += data
        is_text = len(part.text) > _LONGEST_PART_BYTES
        if self._message is not None or not part.announced:  # a header is only presumed
            is_text |= not may_be_header(part)
        else:
            is_text |= b"{" in data
        if is_text:
            self._begin_text(interpret(self._parts, self._known, settled=False))

    def _begin_text(self, header: Header) -> None:
        """No `<|message|>` came: what follows the header, or all of it, is text."""
        raw = self._raw
        if self._message is not None and header.recipient is None:
            self._report(Anomaly.STRAY_MARKER)  # the message goes on and quotes the markers
            self._parts, self._raw = [], b""
            self._content(raw)
        elif self._is_unmarked(header) and (leaked := leaked_opening(raw)) is not None:
            self._report(Anomaly.GLUED_HEADER)
            self._start(Header(leaked.channel, None, None, b"", ()))
            self._content(leaked.text)
        elif self._is_unmarked(header):
            self._report(Anomaly.MISSING_HEADER)
            self._start(Header(Channel.FINAL, None, None, b"", ()))
            self._content(raw)
        else:
            self._leave_open_message()
            self._report(Anomaly.MISSING_MESSAGE)
            self._start(header)
            self._content(header.rest)

    def _is_unmarked(self, header: Header) -> bool:
        """No marker has come, and the words alone do not make a call to a tool that exists."""
        if any(part.announced for part in self._parts):
            return False
        name = header.recipient or ""
        return name not in self._known and not name.startswith(("functions.", "browser."))

    def _content(self, data: bytes) -> None:
        text = self._decoder.decode(data)
        rest = None
        if self._leaks is not None:
            text, rest = self._leaks.feed(text)
        if text:
            self._events.append(ContentDelta(text))
        if rest is not None:
            self._leave_by_leak(rest.encode())

    def _leave_by_leak(self, rest: bytes) -> None:
        """Reasoning went over into the next message without markers; `rest` begins with its
        header. A call's header may go on for a while, an answer's is complete."""
        pending, _ = self._decoder.getstate()  # bytes of an unfinished character
        self._report(Anomaly.GLUED_HEADER)
        self._leaks = None
        self._decoder.reset()
        self._close(EndReason.END)
        answer = rest.removeprefix(b"assistantfinal")
        if answer != rest:
            self._start(Header(Channel.FINAL, None, None, b"", ()))
            self._content(answer + pending)
        else:
            self._parts = [Part(PartKind.ROLE)]
            self._header_text(rest + pending)

    # --- messages ---------------------------------------------------------------------------------

    def _start(self, header: Header) -> None:
        channel = header.channel
        if channel is None and header.recipient is None:
            channel = Channel.FINAL
        self._events += header.anomalies
        self._message = MessageStarted(channel, header.recipient, header.content_type)
        self._events.append(self._message)
        self._parts, self._raw = [], b""
        reasons = channel is Channel.ANALYSIS and header.recipient is None
        self._leaks = LeakScanner() if reasons else None

    def _leave_open_message(self) -> None:
        if self._message is not None:
            self._report(Anomaly.MISSING_END)
            self._close(EndReason.END)

    def _close(self, reason: EndReason) -> None:
        held = self._leaks.finish() if self._leaks is not None else ""
        if text := held + self._decoder.decode(b"", final=True):
            self._events.append(ContentDelta(text))
        self._decoder.reset()
        self._leaks = None
        self._events.append(MessageEnded(reason))
        self._message = None

    def _report(self, kind: Anomaly, text: str = "") -> None:
        self._events.append(Malformed(kind, text))


def parse_messages(
    vocabulary: Vocabulary,
    tokens: Iterable[int],
    *,
    recipients: Collection[str] = (),
) -> list[Message]:
    """The assistant's messages in a whole stream, by the same machine; never raises."""
    parser = StreamParser(vocabulary, recipients=recipients)
    events = [event for token in tokens for event in parser.feed(token)]
    return collect_messages(events + parser.finish())


def collect_messages(events: Iterable[HarmonyEvent]) -> list[Message]:
    """Put a stream's events together into whole messages."""
    messages: list[Message] = []
    started = MessageStarted(Channel.FINAL)
    pieces: list[str] = []
    for event in events:
        match event:
            case MessageStarted():
                started, pieces = event, []
            case ContentDelta(text):
                pieces.append(text)
            case MessageEnded():
                messages.append(_whole(started, "".join(pieces)))
            case Malformed():
                pass
    return messages


def _whole(started: MessageStarted, content: str) -> Message:
    return Message(
        Role.ASSISTANT,
        content,
        channel=started.channel,
        recipient=started.recipient,
        content_type=started.content_type,
    )
