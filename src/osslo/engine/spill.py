"""What of the prefix cache goes to disk: texts that ended, page by page, between the steps.

The engine's thread copies at most a run of pages at a time, and none while the disk has no room, so
that decoding hardly waits; the disk's own thread does the rest. Pages that the cache gives up
before their turn are not written.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from osslo.engine.prefix_cache import PrefixNode
from osslo.engine.prefix_disk import RUN_PAGES, PrefixDisk
from osslo.engine.prefix_file import Bytes, NewRun
from osslo.model.forward import KvCache, PageKind

_WAITING_TEXTS = 256
"""Texts that wait to be written; beyond that the oldest are forgotten."""


@dataclass(slots=True)
class _Text:
    """A text by its last whole page, and the number of pages that are done with."""

    end: PrefixNode
    done: int = 0


class Spill:
    """The texts that wait to be written, first come first."""

    def __init__(self, disk: PrefixDisk, kv: KvCache) -> None:
        self._disk = disk
        self._kv = kv
        self._texts: deque[_Text] = deque(maxlen=_WAITING_TEXTS)

    @property
    def is_due(self) -> bool:
        """Whether `copy_some` would do anything."""
        return bool(self._texts) and self._disk.has_room

    @property
    def is_empty(self) -> bool:
        return not self._texts

    def add(self, end: PrefixNode) -> None:
        """A text ended whose last whole page is `end`."""
        self._texts.append(_Text(end))

    def copy_some(self) -> None:
        """Hand at most one run over to the disk."""
        if not self.is_due:
            return
        text = self._texts[0]
        path = text.end.path()
        chain = self._disk.chain(text.end.scope, [node.key for node in path])
        first = self._disk.first_missing(chain, text.done)
        last = min(first + RUN_PAGES, len(chain))
        if first < last:
            nodes = path[first:last]
            full = tuple(self._copy(PageKind.FULL, node.full_page) for node in nodes)
            window = tuple(self._copy_window(node) for node in nodes)
            self._disk.write(NewRun(chain[:last], full, window))
        text.done = last
        if last == len(chain):
            self._texts.popleft()

    def _copy(self, kind: PageKind, page: int) -> Bytes:
        return self._kv.page(kind, page).copy()

    def _copy_window(self, node: PrefixNode) -> Bytes | None:
        return None if node.window_page < 0 else self._copy(PageKind.WINDOW, node.window_page)
