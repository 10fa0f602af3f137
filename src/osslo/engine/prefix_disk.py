"""Prefixes on disk: pages of texts that outlive the process, in a folder of bounded size.

It owns the folder, the index of what stands there, and a thread that writes. `kv_memory` decides
what is written and where pages go that are read. The folder's files are the truth: their times are
the order of eviction, their sizes what is counted, so that several processes may share it. A file
that is truncated, damaged or of another format is deleted and counted; its text is computed again.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from osslo.engine.prefix_cache import Scope
from osslo.engine.prefix_file import (
    Bytes,
    DamagedRunError,
    NewRun,
    Run,
    next_digest,
    read_pages,
    read_run,
    root_digest,
    write_run,
)
from osslo.model.forward import PageKind

RUN_PAGES = 8
"""Pages of one file, at most: 6 MB of each kind for gpt-oss-20b, copied in a few milliseconds."""

SUFFIX = ".prefix"
_QUEUED_RUNS = 2
"""Runs in memory that wait to be written; more are not taken."""

_ABANDONED_S = 3600.0
"""Age at which a file that is still being written is what a killed process left."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page stands: in which run, at which number."""

    path: Path
    run: Run
    index: int

    @property
    def has_window(self) -> bool:
        return self.run.window_checksums[self.index] is not None


@dataclass(slots=True)
class DiskCounters:
    """Totals since the start. `damaged_files` were deleted; `failed_writes` left nothing."""

    read_pages: int = 0
    written_pages: int = 0
    evicted_files: int = 0
    damaged_files: int = 0
    failed_writes: int = 0


class PrefixDisk:
    """The runs in `folder`, of at most `max_bytes` together. Thread-safe.

    `identity` stands for all that pages depend on beside text and adapter; runs of another one are
    not read, but count and are evicted like all others. `page_bytes` are a page's, by kind.
    """

    def __init__(
        self, folder: Path, *, max_bytes: int, identity: str, page_bytes: dict[PageKind, int]
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._identity = identity
        self._page_bytes = (page_bytes[PageKind.FULL], page_bytes[PageKind.WINDOW])
        self._changed = threading.Condition()  # guards everything below
        self._places: dict[bytes, Place] = {}
        self._runs: dict[Path, Run] = {}  # whose places to forget with a file
        self._queue: deque[NewRun] = deque()
        self._writing: set[bytes] = set()  # digests of what is queued
        self._closing = False
        self._on_room: Callable[[], None] = lambda: None
        self.counters = DiskCounters()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._open_all()
        self._thread = threading.Thread(target=self._work, name="osslo-prefix-disk", daemon=True)
        self._thread.start()

    # --- finding and reading ---------------------------------------------------------------------

    def chain(self, scope: Scope, keys: Sequence[bytes]) -> tuple[bytes, ...]:
        """The digests of a text's whole pages, given the tokens of each."""
        digests, last = [], root_digest(self._identity, scope)
        for key in keys:
            last = next_digest(last, key)
            digests.append(last)
        return tuple(digests)

    def find(self, chain: Sequence[bytes]) -> list[Place]:
        """Where these pages stand, up to the first that does not."""
        places = []
        with self._changed:
            for digest in chain:
                place = self._places.get(digest)
                if place is None:
                    break
                places.append(place)
        return places

    def read(self, kind: PageKind, wanted: Sequence[tuple[Place, Bytes]]) -> bool:
        """Read pages of a kind into memory, run by run. False if one could not be had: its file is
        forgotten, and the memory holds anything."""
        for path, group in groupby(wanted, key=lambda entry: entry[0].path):
            parts = list(group)
            place = parts[0][0]
            try:
                read_pages(path, place.run, kind, place.index, [page for _, page in parts])
            except (DamagedRunError, OSError):
                self._discard(path, damaged=path.exists())
                return False
            self.counters.read_pages += len(parts)
        return True

    def touch(self, chain: Sequence[bytes]) -> None:
        """A text was used: its files go last, and of those its beginning last."""
        with self._changed:
            found = (self._places.get(digest) for digest in reversed(chain))
            paths = dict.fromkeys(place.path for place in found if place is not None)
        now = time.time_ns()
        for order, path in enumerate(paths):
            try:
                os.utime(path, ns=(now + order, now + order))
            except OSError:
                self._discard(path, damaged=False)

    # --- writing ---------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether another run may be handed over to be written."""
        with self._changed:
            return len(self._queue) < _QUEUED_RUNS

    def on_room(self, call: Callable[[], None]) -> None:
        """Call this whenever there is room again, from the thread that writes."""
        self._on_room = call

    def first_missing(self, chain: Sequence[bytes], start: int) -> int:
        """The first number from `start` on of a page that neither stands there nor is on its way;
        the chain's length if all do."""
        with self._changed:
            for index in range(start, len(chain)):
                if chain[index] not in self._places and chain[index] not in self._writing:
                    return index
        return len(chain)

    def write(self, run: NewRun) -> None:
        """Write a run in the background. A run that cannot be written is counted and dropped."""
        with self._changed:
            self._queue.append(run)
            self._writing.update(run.digests)
            self._changed.notify_all()

    def close(self) -> None:
        """Write what was handed over, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if not self._queue:
                    return
                run = self._queue[0]
            try:
                self._store(run)
            except OSError:
                self.counters.failed_writes += 1
            with self._changed:
                self._queue.popleft()
                self._writing.difference_update(run.digests)
            self._on_room()

    def _store(self, new: NewRun) -> None:
        if not self._make_room(new.nbytes):
            return
        path = self._folder / f"{new.digests[-1].hex()}{SUFFIX}"
        run = write_run(path, new, self._identity, self._page_bytes)
        self._index(path, run)
        self.counters.written_pages += len(new.full)
        self.touch(new.chain)

    def _make_room(self, needed: int) -> bool:
        """Delete the files used longest ago until `needed` bytes fit; False if they never do."""
        files = sorted(self._files(), key=lambda entry: entry[1].st_mtime_ns, reverse=True)
        total = sum(status.st_size for _, status in files)
        while files and total + needed > self._max_bytes:
            path, status = files.pop()
            self._discard(path, damaged=False)
            self.counters.evicted_files += 1
            total -= status.st_size
        return needed <= self._max_bytes

    # --- the folder ------------------------------------------------------------------------------

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        """The runs that stand in the folder, whoever wrote them. Other files are left alone."""
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                try:
                    if entry.name.endswith(SUFFIX) and entry.is_file(follow_symlinks=False):
                        found.append((Path(entry.path), entry.stat()))
                except FileNotFoundError:  # another process evicted it
                    continue
        return found

    def _open_all(self) -> None:
        """Index what is there, and delete what killed processes left half written."""
        for partial in self._folder.glob(f".*{SUFFIX}.*.partial"):
            if time.time() - partial.stat().st_mtime > _ABANDONED_S:
                partial.unlink(missing_ok=True)
        for path, _ in self._files():
            try:
                run = read_run(path)
            except DamagedRunError:
                self._discard(path, damaged=True)
            except OSError:
                continue
            else:
                if (run.identity, run.page_bytes) == (self._identity, self._page_bytes):
                    self._index(path, run)

    def _index(self, path: Path, run: Run) -> None:
        with self._changed:
            self._forget(path)  # a run that begins earlier took this one's place
            self._runs[path] = run
            for index, digest in enumerate(run.digests):
                self._places.setdefault(digest, Place(path, run, index))

    def _discard(self, path: Path, *, damaged: bool) -> None:
        self.counters.damaged_files += damaged
        path.unlink(missing_ok=True)
        with self._changed:
            self._forget(path)

    def _forget(self, path: Path) -> None:
        run = self._runs.pop(path, None)
        for digest in run.digests if run is not None else ():
            place = self._places.get(digest)
            if place is not None and place.path == path:
                del self._places[digest]
