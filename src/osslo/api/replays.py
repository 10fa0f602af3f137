"""Answers that can be given again, in memory: for a time, and up to so many bytes.

What an answer is kept under, and when it is given, is `idempotency`'s subject.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import Message

from osslo.api.sse import Again

_LARGEST_FRACTION = 4
"""One answer may take this part of the memory; a larger one is not kept."""

_ENTRY_BYTES, _CHUNK_BYTES = 2048, 64
"""What an entry and a chunk take beside their own bytes, roughly."""

_FAILED_EVENTS = (b'data: {"error":', b"event: error\n", b"event: response.failed\n")
"""How a stream says that it failed: OpenAI's protocols, Anthropic's, Responses."""


@dataclass(slots=True)
class Recording:
    """An answer as it was sent."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    size_bytes: int = 0
    complete: bool = False
    failed: bool = False

    def note(self, message: Message) -> None:
        """Take over what is sent."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = list(message.get("headers", ()))
            self.size_bytes += _ENTRY_BYTES
        elif message["type"] == "http.response.body":
            chunk: bytes = message.get("body", b"")
            self.chunks.append(chunk)
            self.size_bytes += len(chunk) + _CHUNK_BYTES
            self.failed = self.failed or chunk.startswith(_FAILED_EVENTS)
            self.complete = not message.get("more_body", False)

    @property
    def good(self) -> bool:
        return self.complete and not self.failed and 200 <= self.status < 300


@dataclass(slots=True)
class Entry:
    """One key's request: running, or with its answer. `again` answers it another time without it
    being run, where what it began goes on without whoever asked."""

    name: bytes
    fingerprint: bytes
    done: asyncio.Event = field(default_factory=asyncio.Event)
    recording: Recording | None = None
    again: Again | None = None
    expires_at: float = 0.0
    size_bytes: int = 0


class Replays:
    """The answers that can be given again, the oldest forgotten first.

    Each is kept for `ttl_s`, all together up to `max_bytes`; 0 keeps none.
    """

    def __init__(
        self, *, ttl_s: float, max_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self.size_bytes = 0

    @property
    def largest_bytes(self) -> int:
        """The largest answer that is kept."""
        return self._max_bytes // _LARGEST_FRACTION

    def find(self, name: bytes) -> Entry | None:
        """The request that came under `name`, if it runs or its answer is kept."""
        self._forget_expired()
        return self._entries.get(name)

    def claim(self, name: bytes, fingerprint: bytes) -> Entry:
        """A request begins under `name`, which must be free."""
        entry = self._entries[name] = Entry(name, fingerprint)
        return entry

    def settle(self, entry: Entry, recording: Recording | None) -> None:
        """The request of `entry` was answered with `recording`, or with nothing to be kept. Whoever
        waits goes on."""
        entry.done.set()
        if self._entries.get(entry.name) is not entry or entry.recording is not None:
            return  # forgotten, or answered by another connection
        if recording is not None and recording.good and recording.size_bytes <= self.largest_bytes:
            entry.recording = recording
            self._keep(entry, recording.size_bytes)
        elif entry.again is not None and (recording is None or not recording.complete):
            self._keep(entry, _ENTRY_BYTES)
        else:
            self._forget(entry)

    def _keep(self, entry: Entry, size_bytes: int) -> None:
        self.size_bytes += size_bytes - entry.size_bytes
        entry.size_bytes = size_bytes
        entry.expires_at = self._clock() + self._ttl_s
        self._entries.move_to_end(entry.name)
        finished = [other for other in self._entries.values() if other.done.is_set()]
        while self.size_bytes > self._max_bytes and finished:
            self._forget(finished.pop(0))

    def _forget_expired(self) -> None:
        now = self._clock()
        expired: list[Entry] = []
        for entry in self._entries.values():
            if not entry.done.is_set():
                continue
            if entry.expires_at > now:
                break  # the other answers are younger
            expired.append(entry)
        for entry in expired:
            self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        del self._entries[entry.name]
        self.size_bytes -= entry.size_bytes
