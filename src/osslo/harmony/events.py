"""What the stream parser reports, in order: messages begin, text arrives, messages end."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from osslo.harmony.messages import Channel


class EndReason(StrEnum):
    """What closed a message."""

    END = "end"  # `<|end|>`, or the next message began
    RETURN = "return"  # `<|return|>`: the turn is over
    CALL = "call"  # `<|call|>`: the turn waits for a tool
    CUT = "cut"  # the stream stopped inside the message


class Anomaly(StrEnum):
    """Ways in which a stream leaves the format; each is counted under this name."""

    GLUED_HEADER = "glued_header"  # a header in plain words, glued to the text
    MISSING_HEADER = "missing_header"  # text where a header belongs
    MISSING_MESSAGE = "missing_message"  # a header without `<|message|>`
    MISSING_END = "missing_end"  # a message begins inside another
    MISSING_CHANNEL = "missing_channel"
    UNKNOWN_CHANNEL = "unknown_channel"
    REPEATED_CHANNEL = "repeated_channel"
    REPEATED_START = "repeated_start"
    FOREIGN_ROLE = "foreign_role"  # the model speaks as somebody else
    HEADER_JUNK = "header_junk"  # header words that say nothing
    REPAIRED_RECIPIENT = "repaired_recipient"
    EMPTY_MESSAGE = "empty_message"  # a start and an end with nothing between
    CUT_HEADER = "cut_header"  # the stream stopped inside a header
    STRAY_END = "stray_end"  # an end marker outside any message
    STRAY_MARKER = "stray_marker"  # a header's marker inside text
    UNKNOWN_TOKEN = "unknown_token"  # noqa: S105 - the name of an anomaly, not a secret


@dataclass(frozen=True, slots=True)
class MessageStarted:
    """A message's header is complete.

    A `recipient` makes it a call, whatever the channel says. Without a recipient `channel` is
    always set: text that names no known channel is for the user, hence final. It is None only on
    calls whose header named none.
    """

    channel: Channel | None
    recipient: str | None = None
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More text of the message begun last; never empty, always whole characters."""

    text: str


@dataclass(frozen=True, slots=True)
class MessageEnded:
    """The message begun last is complete."""

    reason: EndReason


@dataclass(frozen=True, slots=True)
class Malformed:
    """Something outside the format was met and dealt with. `text` holds words that belong to no
    message (they stood in a header and mean nothing there); it is for logs, not for the user."""

    kind: Anomaly
    text: str = ""


HarmonyEvent = MessageStarted | ContentDelta | MessageEnded | Malformed
