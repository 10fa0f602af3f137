"""What a server notes outside its own memory, so that it can be read after a SIGKILL.

One append-only file of lines, written by one `write` each: the kernel keeps what was written
whatever happens to the process. Beside it a gauge in shared memory, for whoever waits for a moment.

    up URL                   it listens
    a ID PROMPT MOST         the engine was asked for a request, with so many output tokens granted
    p ID CACHED              so much of its prompt was in the prefix cache
    t ID COUNT               so many of its tokens were handed to the turn, this moment included
    u ID PROMPT CACHED COUNT the engine's own count at its end
    c ID                     nobody reads it any more
    > KINDS                  a transaction of the ledger with such operations begins
    <                        it has ended, well or not
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from osslo.accounts.ledger.operations import End, Operation, Progress, Reserve, Sweep

RESERVE, SETTLE, SWEEP, PROGRESS = 1, 2, 4, 8
_KINDS: dict[type, int] = {Reserve: RESERVE, End: SETTLE, Sweep: SWEEP, Progress: PROGRESS}
_GAUGE = struct.Struct("QQQ")
"""Which kinds the open transaction has (0: none is open), how many there were, live streams."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The gauge at one moment."""

    kinds: int
    transactions: int
    live: int


class Gauge:
    """The shared page: written by the server, read by whoever waits for its phases."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_GAUGE.size))
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), _GAUGE.size)

    def read(self) -> Reading:
        return Reading(*_GAUGE.unpack_from(self._page))

    def write(self, reading: Reading) -> None:
        _GAUGE.pack_into(self._page, 0, reading.kinds, reading.transactions, reading.live)


class Recorder:
    """The server's side. Used from its event loop only."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._gauge = Gauge(path.with_suffix(".gauge"))
        self._kinds = self._transactions = self._live = 0

    def line(self, text: str) -> None:
        os.write(self._file, text.encode() + b"\n")

    def observe(self, operations: Sequence[Operation], begins: bool) -> None:
        """What the ledger's writer tells of its transactions."""
        kinds = 0
        for operation in operations:
            kinds |= _KINDS.get(type(operation), 0)
        self.line(f"> {kinds}" if begins else "<")
        self._transactions += begins
        self._kinds = kinds if begins else 0
        self._tell()

    def streams(self, change: int) -> None:
        """A stream began to give tokens, or ended."""
        self._live += change
        self._tell()

    def _tell(self) -> None:
        self._gauge.write(Reading(self._kinds, self._transactions, self._live))


@dataclass(slots=True)
class Witnessed:
    """One request, as its black box has it."""

    prompt_tokens: int
    granted_tokens: int
    handed_tokens: int = 0
    cached_tokens: int | None = None
    counted_tokens: int | None = None
    closed: bool = False

    @property
    def is_live(self) -> bool:
        """It has given tokens, and could have given more."""
        return bool(self.handed_tokens) and self.counted_tokens is None and not self.closed


@dataclass(slots=True)
class Box:
    """All that one process wrote down. `open_kinds` is the transaction in which it died, if any."""

    url: str | None = None
    requests: dict[str, Witnessed] = field(default_factory=dict)
    open_kinds: int = 0

    @property
    def live(self) -> int:
        return sum(request.is_live for request in self.requests.values())


def read_box(path: Path) -> Box:
    """The box of a process, dead or alive. A line that was cut off does not count."""
    box = Box()
    content = path.read_bytes() if path.exists() else b""
    for line in content[: content.rfind(b"\n") + 1].decode().splitlines():
        _take(box, line.split())
    return box


def _take(box: Box, words: list[str]) -> None:
    match words:
        case ["up", url]:
            box.url = url
        case ["a", name, prompt, most]:
            box.requests[name] = Witnessed(int(prompt), int(most))
        case ["p", name, cached]:
            box.requests[name].cached_tokens = int(cached)
        case ["t", name, handed]:
            box.requests[name].handed_tokens = int(handed)
        case ["u", name, _, cached, counted]:
            box.requests[name].cached_tokens = int(cached)
            box.requests[name].counted_tokens = int(counted)
        case ["c", name]:
            box.requests[name].closed = True
        case [">", kinds]:
            box.open_kinds = int(kinds)
        case ["<"]:
            box.open_kinds = 0
