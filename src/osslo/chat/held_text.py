"""Visible text that waits for its stop strings, together with the records of its tokens."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from osslo.engine.stop_strings import StopMatcher

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Piece(Generic[T]):
    """Text that may be shown, and the records of the tokens that begin in it. May be empty."""

    text: str
    records: tuple[T, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.text or self.records)


class HeldText(Generic[T]):
    """The text of one message: held back where it may begin a stop string, cut where one is found.

    Records (log-probabilities) come out with the text of their tokens, and not at all for tokens
    behind the cut.
    """

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._matcher = StopMatcher(stop)
        self._fed = 0
        self._emitted = 0
        self._records: deque[tuple[int, T]] = deque()

    @property
    def hit(self) -> str | None:
        """The stop string that was found."""
        return self._matcher.hit

    @property
    def fed_chars(self) -> int:
        """Characters fed so far, shown or not."""
        return self._fed

    def expect(self, record: T) -> None:
        """Note a token before its text is fed; it belongs to the next character at the latest."""
        self._records.append((self._fed + 1, record))

    def feed(self, text: str) -> tuple[Piece[T], bool]:
        """What may be shown, and whether a stop string was met."""
        self._fed += len(text)
        shown, hit = self._matcher.feed(text)
        return self._take(shown), hit

    def finish(self) -> Piece[T]:
        """What is still held back; it turned out not to be a stop string."""
        piece = self._take(self._matcher.finish())
        rest = tuple(record for _, record in self._records)
        self._records.clear()
        return Piece(piece.text, piece.records + rest)

    def _take(self, text: str) -> Piece[T]:
        self._emitted += len(text)
        records: list[T] = []
        while self._records and self._records[0][0] <= self._emitted:
            records.append(self._records.popleft()[1])
        return Piece(text, tuple(records))
