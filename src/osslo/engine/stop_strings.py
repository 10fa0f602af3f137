"""Stop strings over streamed text: hold back what may become a stop, cut where one is found."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Feeds on pieces of text; what it emits never contains a stop string nor anything after it.

    With several stops, the one that ends first wins, and of those that end together the longest:
    the result does not depend on how the text was cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(sorted({stop for stop in stops if stop}, key=len, reverse=True))
        self._held = ""
        self._hit: str | None = None

    @property
    def hit(self) -> str | None:
        """The stop string that was found."""
        return self._hit

    def feed(self, text: str) -> tuple[str, bool]:
        """(text that can be shown now, whether a stop was found). After a hit, nothing more."""
        if self._hit is not None:
            return "", True
        if not self._stops:
            return text, False
        text = self._held + text
        found = self._find(text)
        if found is not None:
            place, self._hit = found
            self._held = ""
            return text[:place], True
        keep = self._possible_start(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def finish(self) -> str:
        """The text ended: what was held back after all."""
        held, self._held = self._held, ""
        return held

    def _find(self, text: str) -> tuple[int, str] | None:
        places = [(text.find(stop), stop) for stop in self._stops]
        ends = [(place + len(stop), place, stop) for place, stop in places if place >= 0]
        if not ends:
            return None
        _, place, stop = min(ends, key=lambda end: (end[0], end[1]))
        return place, stop

    def _possible_start(self, text: str) -> int:
        """Length of the longest end of `text` that is the beginning of a stop."""
        longest = min(len(text), max(len(stop) for stop in self._stops) - 1)
        for size in range(longest, 0, -1):
            end = text[-size:]
            if any(len(stop) > size and stop.startswith(end) for stop in self._stops):
                return size
        return 0
