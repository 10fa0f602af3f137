"""Headers that a model wrote as plain words, glued to the text: `analysisHm.assistantfinal4`.

That is what harmony looks like when the special tokens are missing, as models write it that were
tuned or quantised carelessly. Only what is unambiguous is taken for a header: a channel's name
glued to a beginning that no word has, and inside reasoning `assistantfinal`,
`assistantcommentary` or `assistant to=functions.` glued to what stands before.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from osslo.harmony.messages import Channel

_OPENING = re.compile(
    rb"\s*(?:assistant)?(analysis|commentary|final)(?=[A-Z0-9*#<({\[]|[\x80-\xff])"
)
_INSIDE = re.compile(
    r"(?:(?<=\n)|(?<=[^\s'\"`“‘]))assistant(?:final|commentary| ?to=functions\.)(?!['\"`”’])"
)
_WORDS = (
    "assistantfinal",
    "assistantcommentary",
    "assistant to=functions.",
    "assistantto=functions.",
)


class Opening(NamedTuple):
    """A stream that begins without markers: its channel, and the text behind the name."""

    channel: Channel
    text: bytes


def leaked_opening(raw: bytes) -> Opening | None:
    """The channel that an unmarked beginning names, if it is glued to the text."""
    found = _OPENING.match(raw)
    return Opening(Channel(found[1].decode()), raw[found.end() :]) if found else None


class LeakScanner:
    """Looks for a glued header inside reasoning. Holds back what may yet become one."""

    def __init__(self) -> None:
        self._before = ""  # the last character that was let through
        self._held = ""

    def feed(self, text: str) -> tuple[str, str | None]:
        """The text that may be shown, and from a glued header on the rest, if one was found.

        A header at the very end waits for the next character: a quote would make it a quotation.
        """
        whole = self._before + self._held + text
        start = len(self._before)
        found = _INSIDE.search(whole)
        if found is not None and found.end() < len(whole):
            self._held = ""
            return whole[start : found.start()], whole[found.start() :]
        keep = self._possible_start(whole[start:])
        shown = whole[start : len(whole) - keep]
        self._held = whole[len(whole) - keep :]
        self._before = (self._before + shown)[-1:]
        return shown, None

    def finish(self) -> str:
        """The message ended: what was held back after all."""
        held, self._held = self._held, ""
        return held

    def _possible_start(self, text: str) -> int:
        longest = min(len(text), max(map(len, _WORDS)))
        for size in range(longest, 0, -1):
            if any(word.startswith(text[-size:]) for word in _WORDS):
                return size
        return 0
