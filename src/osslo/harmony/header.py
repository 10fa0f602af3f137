"""Reading a message's header, however it is spelled.

A header is a few parts of text between markers: a role part, then what follows `<|channel|>`, then
what follows `<|constrain|>`. Models repeat, glue, reorder and forget these, so every part is
scanned for everything. Works on bytes, because a token may end inside a character. Pure functions;
the parser decides when to ask.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from osslo.harmony.events import Anomaly, Malformed
from osslo.harmony.messages import Channel


class PartKind(Enum):
    ROLE = auto()
    CHANNEL = auto()  # after `<|channel|>`
    TYPE = auto()  # after `<|constrain|>`


@dataclass(slots=True)
class Part:
    """Text of one part so far. `announced`: a marker opened it, it is not only presumed."""

    kind: PartKind
    announced: bool = True
    text: bytes = b""


@dataclass(frozen=True, slots=True)
class Header:
    """What the parts say; `rest` is what follows the header if no `<|message|>` separates it."""

    channel: Channel | None
    recipient: str | None
    content_type: str | None
    rest: bytes
    anomalies: tuple[Malformed, ...]


_CHANNELS = {channel.value: channel for channel in Channel}
_NAMES = b"|".join(channel.encode() for channel in Channel)
_ASSISTANT = re.compile(rb"\s*(assistant(?::[^\s<{]*?(?=to=|[\s<{]|$))?)")
_KNOWN_ROLE = re.compile(
    rb"\s*(user|system|developer|tool|(?:functions|browser)\.[\w.\-]+|python)\b"
)
_ANY_ROLE = re.compile(rb"\s*((?!to=)[\w.:\-]+)")
_KNOWN_CHANNEL = re.compile(rb"\s*(" + _NAMES + rb")")
_ANY_CHANNEL = re.compile(rb"\s*((?!to=)[A-Za-z_]+(?![\w.]))")
_RECIPIENT = re.compile(rb"\s*to=([^\s{<]*)")
_BARE_RECIPIENT = re.compile(rb"\s*((?:functions|browser)\.[\w.\-]+|python\b)")
_KNOWN_TYPE = re.compile(rb"\s*(json|code)(?![\w.])")
_TYPE_BEFORE_JSON = re.compile(rb"\s*(json)(?=\s*(?:$|[{\[]))")
_GLUED_TYPE = re.compile(rb"\s*(json|code)(?=to=|\W|$)")
_ANY_TYPE = re.compile(rb"\s*((?!to=)[\w./+\-]+)")
_BEGINNINGS = (b"assistant", b"to=", *(channel.encode() for channel in Channel))
_NO_TOOLS = frozenset({"", "all", "assistant", "user"})


@dataclass(slots=True)
class _Scan:
    """The words found in one part, in order, and what is left."""

    role: bytes = b""
    channel: bytes = b""
    recipient: bytes = b""
    content_type: bytes = b""
    rest: bytes = b""


class _Cursor:
    """Takes words off the front of a part."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.at = 0

    def take(self, *patterns: re.Pattern[bytes]) -> bytes:
        for pattern in patterns:
            if found := pattern.match(self.text, self.at):
                self.at = found.end()
                return found[1]
        return b""


def _scan(part: Part, *, settled: bool) -> _Scan:
    """Find a part's words. Only a settled header (`<|message|>` has come) may hold unknown ones;
    otherwise those are taken for the text that follows."""
    cursor, scan = _Cursor(part.text), _Scan()
    _scan_head(part, cursor, scan, settled=settled)
    bare = (_BARE_RECIPIENT,) if part.announced else ()
    scan.recipient = cursor.take(_RECIPIENT, *bare)
    if not scan.content_type and (part.announced or scan.recipient or scan.channel):
        known = _KNOWN_TYPE if scan.recipient or settled else _TYPE_BEFORE_JSON
        scan.content_type = cursor.take(known, *((_ANY_TYPE,) if settled else ()))
    scan.recipient = scan.recipient or cursor.take(_RECIPIENT)
    if not scan.channel and not scan.content_type:
        scan.channel = cursor.take(_KNOWN_CHANNEL)
    if not scan.recipient and _BARE_RECIPIENT.fullmatch(scan.role):  # a call, not a result
        scan.role, scan.recipient = b"", scan.role
    scan.rest = part.text[cursor.at :]
    return scan


def _scan_head(part: Part, cursor: _Cursor, scan: _Scan, *, settled: bool) -> None:
    """The word that a part of this kind begins with."""
    match part.kind:
        case PartKind.ROLE:
            others = (_KNOWN_ROLE, *((_ANY_ROLE,) if settled else ())) if part.announced else ()
            scan.role = cursor.take(_ASSISTANT, *others)
            scan.channel = cursor.take(_KNOWN_CHANNEL)
        case PartKind.CHANNEL:
            scan.channel = cursor.take(_KNOWN_CHANNEL, *((_ANY_CHANNEL,) if settled else ()))
        case PartKind.TYPE:
            scan.content_type = cursor.take(_GLUED_TYPE, *((_ANY_TYPE,) if settled else ()))


def may_be_header(part: Part) -> bool:
    """Whether this text can still become the part of a well-formed header."""
    scan = _scan(part, settled=True)
    known_role = scan.role[:9] in (b"", b"assistant") or _KNOWN_ROLE.fullmatch(scan.role)
    known_channel = not scan.channel or _KNOWN_CHANNEL.fullmatch(scan.channel)
    if not known_role or not known_channel:
        return begins_word(scan.role + scan.channel) and not scan.rest
    rest = scan.rest.strip()
    return not rest or begins_word(rest)


def begins_word(text: bytes) -> bool:
    """Whether a header's word may begin so."""
    return any(word.startswith(text) for word in _BEGINNINGS)


def interpret(parts: Sequence[Part], known: Collection[str], *, settled: bool) -> Header:
    """What a header says. Of repeated fields the last counts; whatever means nothing is reported.

    `known` are the recipients that exist, if the caller can say; they allow glued or shortened
    names to be repaired.
    """
    anomalies: list[Malformed] = []
    channel: Channel | None = None
    recipient = content_type = ""
    rest = b""
    for part in parts:
        scan = _scan(part, settled=settled)
        if rest.strip():
            anomalies.append(_malformed(Anomaly.HEADER_JUNK, rest))
        rest = scan.rest
        _check_role(scan.role, anomalies)
        channel = _merge_channel(channel, scan.channel, anomalies)
        name, glued = _repair(_text(scan.recipient), known, anomalies)
        recipient = _merge(recipient, name, anomalies)
        content_type = _merge(content_type, _text(scan.content_type) or glued, anomalies)
    if sum(part.kind is PartKind.ROLE and bool(part.announced) for part in parts) > 1:
        anomalies.append(Malformed(Anomaly.REPEATED_START))
    if settled and rest.strip():
        anomalies.append(_malformed(Anomaly.HEADER_JUNK, rest))
    if channel is None and content_type in _CHANNELS:  # the channel's marker is missing
        channel, content_type = _CHANNELS[content_type], ""
    if channel is None:
        anomalies.append(Malformed(Anomaly.MISSING_CHANNEL))
    return Header(channel, recipient or None, content_type or None, rest, tuple(anomalies))


def _check_role(role: bytes, anomalies: list[Malformed]) -> None:
    if role and not role.startswith(b"assistant"):
        anomalies.append(_malformed(Anomaly.FOREIGN_ROLE, role))
    elif name := role.removeprefix(b"assistant"):
        anomalies.append(_malformed(Anomaly.HEADER_JUNK, name))


def _merge_channel(old: Channel | None, word: bytes, anomalies: list[Malformed]) -> Channel | None:
    if not word:
        return old
    text = _text(word)
    if text not in _CHANNELS:
        anomalies.append(Malformed(Anomaly.UNKNOWN_CHANNEL, text))
        return old
    if old is not None:
        anomalies.append(Malformed(Anomaly.REPEATED_CHANNEL))
    return _CHANNELS[text]


def _merge(old: str, new: str, anomalies: list[Malformed]) -> str:
    if old and new and old != new:
        anomalies.append(Malformed(Anomaly.HEADER_JUNK, old))
    return new or old


def _repair(word: str, known: Collection[str], anomalies: list[Malformed]) -> tuple[str, str]:
    """The recipient meant by `word`, and a content type glued to its end."""
    if word in _NO_TOOLS:
        return "", ""
    if not known or word in known:
        return word, ""
    name, glued = _nearest(word, known)
    if name != word:
        scrap = "" if glued or not word.startswith(name) else word[len(name) :]
        anomalies.append(Malformed(Anomaly.REPAIRED_RECIPIENT, scrap))
    return name, glued


def _nearest(word: str, known: Collection[str]) -> tuple[str, str]:
    for glued in ("", "json", "code"):
        stem = word.removesuffix(glued)
        for name in (stem, f"functions.{stem}", stem.removeprefix("functions.")):
            if name in known:
                return name, glued
    begun = [n for n in known if word.startswith(n) and not re.match(r"[\w\-]", word[len(n) :])]
    return max(begun, key=len, default=word), ""


def _malformed(kind: Anomaly, text: bytes) -> Malformed:
    return Malformed(kind, _text(text).strip())


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
