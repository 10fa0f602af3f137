"""The prefix cache: a radix tree over token ids whose edges are pages.

It owns which computed pages are kept, how a prompt finds them, and in what order they are given up
again. It never touches page contents (`kv_memory` copies) and knows no sequences.

Each (tenant, adapter) has a tree of its own. A node stands for one page: its key is the page's
tokens, at most `PAGE_TOKENS`; shorter ones are leaves. A node always has its full-attention page
and may have its window page. A hit at position p needs the full pages of [0, p) and the window
pages that cover [p - window + 1, p), because the token at p sees itself and window - 1 others.

What goes first when pages run out:
- a full page only as a leaf, least recently used first; pages of prompts count as used
  `PROMPT_BONUS_TICKS` later than pages of answers, since reasoning is dropped from later prompts;
- a window page at any node: first those in the middle of a text, then those before a resume point
  (end of a prompt, end of an answer, a place where two prompts parted), oldest first.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from osslo.engine.pages import PagePool
from osslo.errors import EngineError
from osslo.model.forward import PAGE_TOKENS, PageKind

Scope = tuple[str, str | None]
"""Who may share a tree: (tenant, digest of the adapter's contents, or None without one)."""

PROMPT_BONUS_TICKS = 32
"""One tick is one admitted request: an answer's page goes before a prompt's page unless at least
this many requests came in between."""

_TOKEN_BYTES = 4
_PAGE_KEY_BYTES = PAGE_TOKENS * _TOKEN_BYTES


def token_key(tokens: NDArray[np.int32]) -> bytes:
    """Tokens as bytes that sort like the tokens (big endian)."""
    return tokens.astype(">u4").tobytes()


def token_keys(tokens: NDArray[np.int32]) -> list[bytes]:
    """The keys of whole pages of `tokens`, whose number is a multiple of the page's size."""
    whole = token_key(tokens)
    return [whole[at : at + _PAGE_KEY_BYTES] for at in range(0, len(whole), _PAGE_KEY_BYTES)]


def common_tokens(a: bytes, b: bytes) -> int:
    """Length in tokens of the common prefix of two keys."""
    size = min(len(a), len(b))
    differing = int.from_bytes(a[:size], "big") ^ int.from_bytes(b[:size], "big")
    return (size * 8 - differing.bit_length()) // (8 * _TOKEN_BYTES)


class PrefixNode:
    """One page of some text. `keys` and `children` are parallel and sorted by key."""

    __slots__ = (
        "children",
        "full_page",
        "key",
        "keys",
        "parent",
        "resume",
        "scope",
        "stamp",
        "window_page",
    )

    def __init__(
        self, scope: Scope, parent: PrefixNode | None = None, key: bytes = b"", full_page: int = -1
    ) -> None:
        self.scope = scope
        self.parent = parent
        self.key = key
        self.keys: list[bytes] = []
        self.children: list[PrefixNode] = []
        self.full_page = full_page
        self.window_page = -1
        self.stamp = 0
        self.resume = False

    def closest(self, key: bytes) -> tuple[PrefixNode | None, int]:
        """The child that shares the longest beginning with `key`, and its length in tokens.

        Sorted keys put the best match beside the place where `key` would stand.
        """
        place = bisect_left(self.keys, key)
        best: PrefixNode | None = None
        best_rank = (0, False)
        for child in self.children[max(0, place - 1) : place + 1]:
            rank = (common_tokens(child.key, key), child.window_page >= 0)
            if rank[0] and rank > best_rank:
                best, best_rank = child, rank
        return best, best_rank[0]

    def path(self) -> list[PrefixNode]:
        """The nodes from the text's beginning to this one, as far as they have their pages."""
        nodes = []
        node: PrefixNode | None = self
        while node is not None and node.parent is not None:
            if node.full_page >= 0:
                nodes.append(node)
            node = node.parent
        return nodes[::-1]

    def exact(self, key: bytes) -> PrefixNode | None:
        place = bisect_left(self.keys, key)
        if place < len(self.keys) and self.keys[place] == key:
            return self.children[place]
        return None


@dataclass(frozen=True, slots=True)
class Match:
    """What the cache knows of a prompt.

    `nodes` cover positions [0, tokens); if `tokens` is not a multiple of the page size, the last
    node's page must be copied before it is written. `longest` is how far the text itself was
    found; it exceeds `tokens` where window pages were missing.
    """

    nodes: tuple[PrefixNode, ...]
    tokens: int
    longest: int


NO_MATCH = Match((), 0, 0)


class PrefixCache:
    """The trees of all scopes over the two pools, and the order of eviction."""

    def __init__(self, full: PagePool, window: PagePool, window_tokens: int) -> None:
        self._full = full
        self._window = window
        self._window_tokens = window_tokens
        self._roots: dict[Scope, PrefixNode] = {}
        self._full_owner: list[PrefixNode | None] = [None] * full.capacity
        self._window_owner: list[PrefixNode | None] = [None] * window.capacity
        self._full_heap: list[tuple[int, int, PrefixNode]] = []
        self._window_heap: list[tuple[bool, int, int, PrefixNode]] = []
        self._serial = count()
        self._tick = 0

    # --- finding ---------------------------------------------------------------------------------

    def match(self, scope: Scope, tokens: NDArray[np.int32]) -> Match:
        """The longest usable prefix of `tokens`. Changes nothing."""
        node = self._roots.get(scope)
        if node is None:
            return NO_MATCH
        keys = token_key(tokens)
        nodes: list[PrefixNode] = []
        longest = 0
        for start in range(0, len(keys), _PAGE_KEY_BYTES):
            child, common = node.closest(keys[start : start + _PAGE_KEY_BYTES])
            if child is None:
                break
            nodes.append(child)
            longest += common
            if common < PAGE_TOKENS:
                break
            node = child
        usable = self._usable(nodes, longest)
        return Match(tuple(nodes[: -(-usable // PAGE_TOKENS)]), usable, longest)

    def _usable(self, nodes: list[PrefixNode], position: int) -> int:
        """The last resume position up to `position` whose window pages are all there."""
        if self._window_tokens == 0:
            return position
        index = -(-position // PAGE_TOKENS) - 1
        while position > 0:
            first = self.first_window_page(position)
            while index >= first and nodes[index].window_page >= 0:
                index -= 1
            if index < first:
                return position
            position = index * PAGE_TOKENS
            index -= 1
        return 0

    def first_window_page(self, position: int) -> int:
        """Index of the first page that the token at `position` sees through a window."""
        return max(0, position - self._window_tokens + 1) // PAGE_TOKENS

    def touch(self, match: Match) -> None:
        """A request resumes here: refresh the path, and remember the place as a resume point."""
        self._tick += 1
        for node in match.nodes:
            node.stamp = self._tick + PROMPT_BONUS_TICKS
        for node in match.nodes[self.first_window_page(match.tokens) :]:
            node.resume = True

    # --- keeping ---------------------------------------------------------------------------------

    def insert(
        self, scope: Scope, parent: PrefixNode | None, key: bytes, full_page: int, *, prompt: bool
    ) -> PrefixNode:
        """The node for `key` below `parent` (None: the scope's root), made with `full_page` if new.

        The caller compares `node.full_page` with its own to see whether the text was known.
        """
        above = self._roots.setdefault(scope, PrefixNode(scope)) if parent is None else parent
        stamp = self._tick + (PROMPT_BONUS_TICKS if prompt else 0)
        known = above.exact(key)
        if known is not None:
            known.stamp = max(known.stamp, stamp)
            return known
        node = PrefixNode(scope, above, key, full_page)
        node.stamp = stamp
        place = bisect_left(above.keys, key)
        above.keys.insert(place, key)
        above.children.insert(place, node)
        self._full.keep(full_page)
        self._full_owner[full_page] = node
        return node

    def covers(self, scope: Scope, parent: PrefixNode | None, key: bytes) -> bool:
        """Whether a page that begins with `key` is already below `parent`, window and all."""
        above = self._roots.get(scope) if parent is None else parent
        if above is None:
            return False
        child, common = above.closest(key)
        if child is None or common * _TOKEN_BYTES < len(key):
            return False
        return child.window_page >= 0 or self._window_tokens == 0

    def attach_window(self, node: PrefixNode, page: int, *, resume: bool) -> None:
        """Give a node its window page (held by the caller), unless it has one."""
        node.resume = node.resume or resume
        if node.window_page < 0:
            node.window_page = page
            self._window.keep(page)
            self._window_owner[page] = node

    def mark_resume(self, node: PrefixNode | None, pages: int) -> None:
        """A text ended at `node`: its last `pages` window pages are worth keeping."""
        while node is not None and node.full_page >= 0 and pages > 0:
            node.resume = True
            node, pages = node.parent, pages - 1

    # --- giving up -------------------------------------------------------------------------------

    def page_idle(self, kind: PageKind, page: int) -> None:
        """The last holder of a kept page is gone: from now on it may be evicted."""
        node = (self._full_owner if kind is PageKind.FULL else self._window_owner)[page]
        if node is None:
            raise EngineError(f"{kind} page {page} is kept, but by no node of the prefix cache")
        if kind is PageKind.WINDOW:
            entry = (node.resume, node.stamp, next(self._serial), node)
            heapq.heappush(self._window_heap, entry)
            self._compact()
        elif not node.children:
            heapq.heappush(self._full_heap, (node.stamp, next(self._serial), node))
            self._compact()

    def evict(self, kind: PageKind) -> bool:
        """Free the least useful idle page of a kind; False if there is none."""
        return self._evict_full() if kind is PageKind.FULL else self._evict_window()

    def _evict_full(self) -> bool:
        while self._full_heap:
            stamp, _, node = heapq.heappop(self._full_heap)
            if not self._is_idle_leaf(node):
                continue
            if stamp != node.stamp:
                heapq.heappush(self._full_heap, (node.stamp, next(self._serial), node))
                continue
            self._remove_leaf(node)
            return True
        return False

    def _evict_window(self) -> bool:
        while self._window_heap:
            resume, stamp, _, node = heapq.heappop(self._window_heap)
            if not self._is_idle_window(node):
                continue
            if (resume, stamp) != (node.resume, node.stamp):
                entry = (node.resume, node.stamp, next(self._serial), node)
                heapq.heappush(self._window_heap, entry)
                continue
            self._drop_window(node)
            return True
        return False

    def _is_idle_leaf(self, node: PrefixNode) -> bool:
        return node.full_page >= 0 and not node.children and self._full.is_idle(node.full_page)

    def _is_idle_window(self, node: PrefixNode) -> bool:
        return node.window_page >= 0 and self._window.is_idle(node.window_page)

    def _drop_window(self, node: PrefixNode) -> None:
        self._window_owner[node.window_page] = None
        self._window.forget(node.window_page)
        node.window_page = -1

    def _remove_leaf(self, node: PrefixNode) -> None:
        parent = node.parent
        if parent is None or node.children:
            raise EngineError("only leaves of the prefix cache can be removed")
        if node.window_page >= 0:
            self._drop_window(node)
        self._full_owner[node.full_page] = None
        self._full.forget(node.full_page)
        node.full_page = -1
        place = bisect_left(parent.keys, node.key)
        del parent.keys[place], parent.children[place]
        if self._is_idle_leaf(parent):
            heapq.heappush(self._full_heap, (parent.stamp, next(self._serial), parent))
        elif parent.full_page < 0 and not parent.children:
            del self._roots[parent.scope]

    def _compact(self) -> None:
        """Throw stale entries away before they outnumber the pages."""
        if len(self._full_heap) > 2 * self._full.capacity + 64:
            live = {id(node): node for _, _, node in self._full_heap if self._is_idle_leaf(node)}
            self._full_heap = [(n.stamp, next(self._serial), n) for n in live.values()]
            heapq.heapify(self._full_heap)
        if len(self._window_heap) > 2 * self._window.capacity + 64:
            idle = {id(e[3]): e[3] for e in self._window_heap if self._is_idle_window(e[3])}
            self._window_heap = [(n.resume, n.stamp, next(self._serial), n) for n in idle.values()]
            heapq.heapify(self._window_heap)

    # --- integrity -------------------------------------------------------------------------------

    def kept(self) -> tuple[Counter[int], Counter[int]]:
        """Full and window pages that the trees hold; raises EngineError if a tree is unsound."""
        full: Counter[int] = Counter()
        window: Counter[int] = Counter()
        stack = list(self._roots.values())
        while stack:
            node = stack.pop()
            if node.keys != sorted({child.key for child in node.children}):
                raise EngineError("children of a prefix node are out of order or doubled")
            for child in node.children:
                self._check_node(node, child)
                full[child.full_page] += 1
                if child.window_page >= 0:
                    window[child.window_page] += 1
            stack.extend(node.children)
        return full, window

    def _check_node(self, parent: PrefixNode, node: PrefixNode) -> None:
        size = len(node.key)
        sound = (
            node.parent is parent
            and (size == _PAGE_KEY_BYTES or (0 < size < _PAGE_KEY_BYTES and not node.children))
            and self._full_owner[node.full_page] is node
            and (node.window_page < 0 or self._window_owner[node.window_page] is node)
        )
        if not sound:
            raise EngineError(f"the prefix node of full page {node.full_page} is out of joint")
