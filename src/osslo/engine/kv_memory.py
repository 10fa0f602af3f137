"""KV memory: which pages each sequence has, and what of them the prefix cache keeps.

The only owner of both page pools, the prefix cache and the model's `KvCache`. Sequences get pages
by `attach_prefix` and `grow`, hand finished ones over by `settle`, and give everything back by
`release`. A page that someone else can read is never written: hits in the middle of a page are
copied first, and a sequence writes only behind what it has published.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from osslo.engine.pages import PagePool, pages_for, window_span_pages
from osslo.engine.prefix_cache import NO_MATCH, Match, PrefixCache, token_key, token_keys
from osslo.engine.prefix_disk import Place, PrefixDisk
from osslo.engine.prefix_file import Bytes
from osslo.engine.sequence import Sequence
from osslo.engine.spill import Spill
from osslo.errors import EngineError
from osslo.model.forward import PAGE_TOKENS, ForwardModel, KvCache, PageKind


class KvMemory:
    """Pages of all sequences of one model."""

    def __init__(
        self,
        model: ForwardModel,
        *,
        full_pages: int,
        window_pages: int,
        prefix_cache: bool,
        disk: PrefixDisk | None = None,
    ) -> None:
        self.window_tokens = model.sliding_window
        self.full = PagePool(PageKind.FULL, full_pages)
        self.window = PagePool(PageKind.WINDOW, window_pages if self.window_tokens else 0)
        self.kv: KvCache = model.new_kv(full_pages, self.window.capacity)
        self.cache = PrefixCache(self.full, self.window, self.window_tokens)
        self.releases = 0  # sequences that gave their pages back
        self.disk = disk if prefix_cache else None
        self.spill = None if self.disk is None else Spill(self.disk, self.kv)
        self._prefix_cache = prefix_cache
        self._span_pages = window_span_pages(self.window_tokens)

    # --- getting pages ---------------------------------------------------------------------------

    def attach_prefix(self, seq: Sequence, running: Iterable[Sequence]) -> bool:
        """Let a starting sequence share what is cached, if all it needs to prefill then fits.

        `running` have first claim on the pages that their prefills still need. On False nothing
        has changed. A hit leaves at least the last token to compute.
        """
        others = list(running)
        if self.disk is not None and self._attach_stored(seq, others, self.disk):
            return True
        if self._attach(seq, self._match(seq), others):
            return True
        # Alone, only the page pinned for copying can be what is missing: start from nothing.
        return not others and self._attach(seq, NO_MATCH, others)

    def _attach(
        self, seq: Sequence, match: Match, running: list[Sequence], resume: int | None = None
    ) -> bool:
        """Share the pages of a match. `resume` is where the sequence will go on, if that is not at
        the match's end: the windows before it are what counts."""
        whole, partial = divmod(match.tokens, PAGE_TOKENS)
        first_window = self._first_window(match.tokens if resume is None else resume)
        for index, node in enumerate(match.nodes):
            self.full.share(node.full_page)
            if self.window_tokens and index >= first_window:
                self.window.share(node.window_page)
        if not self._fits(seq, whole, max(0, whole - first_window), running):
            self._unshare(match, first_window, from_index=0)
            return False
        self.cache.touch(match)
        seq.window_first = first_window
        for index, node in enumerate(match.nodes[:whole]):
            seq.full_pages[index] = node.full_page
            if self.window_tokens and index >= first_window:
                seq.window_pages[index] = node.window_page
        seq.page_count = seq.settled_pages = whole
        seq.cache_node = match.nodes[whole - 1] if whole else None
        if partial:
            self._copy_partial(seq, match, partial)
            self._unshare(match, first_window, from_index=whole)
        seq.computed = match.tokens
        if match.longest > match.tokens:
            seq.resume_points = (seq.prompt_tokens, match.longest)
        return True

    def _first_window(self, position: int) -> int:
        return self.cache.first_window_page(position) if self.window_tokens else 0

    # --- what stands on disk ---------------------------------------------------------------------

    def _attach_stored(self, seq: Sequence, running: list[Sequence], disk: PrefixDisk) -> bool:
        """Share what is in memory and read what the disk has beyond it, in whole pages. False, with
        nothing changed, if that is nothing, does not fit or cannot be read."""
        if not seq.uses_cache:
            return False
        keys = token_keys(seq.tokens[: (seq.length - 1) // PAGE_TOKENS * PAGE_TOKENS])
        chain = disk.chain(seq.scope, keys)
        match = self._match(seq)
        whole = match.tokens // PAGE_TOKENS
        places = disk.find(chain[whole:])
        end = self._stored_end(match, whole, places)
        if end * PAGE_TOKENS <= match.tokens:
            return False
        shared = Match(match.nodes[:whole], whole * PAGE_TOKENS, match.longest)
        if not self._attach(seq, shared, running, resume=end * PAGE_TOKENS):
            return False
        if not self._read_stored(seq, places[: end - whole], disk):
            self._give_back(seq)
            return False
        seq.computed = end * PAGE_TOKENS
        seq.resume_points = (seq.prompt_tokens, seq.computed)
        self.settle(seq)
        disk.touch(chain[:end])
        return True

    def _stored_end(self, match: Match, whole: int, places: list[Place]) -> int:
        """The last page's end up to which all pages can be had, and the windows before it."""
        if not self.window_tokens:
            return whole + len(places)
        windows = [node.window_page >= 0 for node in match.nodes[:whole]]
        windows += [place.has_window for place in places]
        for end in range(len(windows), whole, -1):
            if all(windows[self._first_window(end * PAGE_TOKENS) : end]):
                return end
        return 0

    def _read_stored(self, seq: Sequence, places: list[Place], disk: PrefixDisk) -> bool:
        """Read pages behind those that `seq` has, and the window pages it will see."""
        full: list[tuple[Place, Bytes]] = []
        window: list[tuple[Place, Bytes]] = []
        for place in places:
            index = seq.page_count
            if not self._add_page(seq, windowed=index >= seq.window_first):
                raise EngineError("there is no page to read to, although room was checked before")
            full.append((place, self.kv.page(PageKind.FULL, int(seq.full_pages[index]))))
            if self.window_tokens and index >= seq.window_first:
                page = int(seq.window_pages[index])
                window.append((place, self.kv.page(PageKind.WINDOW, page)))
        return disk.read(PageKind.FULL, full) and disk.read(PageKind.WINDOW, window)

    # --- more pages ------------------------------------------------------------------------------

    def cached_tokens(self, seq: Sequence) -> int:
        """How much of a waiting sequence the cache could give at this moment."""
        return self._match(seq).tokens

    def _match(self, seq: Sequence) -> Match:
        if not (self._prefix_cache and seq.uses_cache):
            return NO_MATCH
        return self.cache.match(seq.scope, seq.tokens[: seq.length - 1])

    def _fits(self, seq: Sequence, full: int, window: int, others: list[Sequence]) -> bool:
        """Whether `seq`, with so many shared pages, can prefill beside all that run, and each can
        then still write one more page. Alone it needs no such room: its limit fits the pools."""
        growth = 1 + len(others) if others else 0
        full_need = pages_for(seq.length) - full + growth
        window_need = min(self._span_pages, pages_for(seq.length)) - window + growth
        for other in others:
            target = pages_for(max(other.prefill_target, other.length))
            full_need += max(0, target - other.page_count)
            window_held = other.page_count - other.window_first
            window_need += max(0, min(self._span_pages, target) - window_held)
        return full_need <= self.full.available_count and (
            not self.window_tokens or window_need <= self.window.available_count
        )

    def _unshare(self, match: Match, first_window: int, *, from_index: int) -> None:
        for index in range(len(match.nodes) - 1, from_index - 1, -1):
            node = match.nodes[index]
            if self.window_tokens and index >= first_window:
                self._drop(self.window, node.window_page)
            self._drop(self.full, node.full_page)

    def _copy_partial(self, seq: Sequence, match: Match, tokens: int) -> None:
        """Copy on write: the sequence goes on in the middle of somebody's page."""
        node = match.nodes[-1]
        if not self._add_page(seq):
            raise EngineError("there is no page to copy to, although room was checked before")
        index = seq.page_count - 1
        self.kv.copy_page(PageKind.FULL, node.full_page, int(seq.full_pages[index]), tokens)
        if self.window_tokens:
            target = int(seq.window_pages[index])
            self.kv.copy_page(PageKind.WINDOW, node.window_page, target, tokens)

    def grow(self, seq: Sequence, tokens: int) -> int:
        """Make room for the next `tokens` positions; returns for how many there is room now."""
        wanted = pages_for(seq.computed + tokens)
        while seq.page_count < wanted and self._add_page(seq):
            pass
        return min(tokens, seq.page_count * PAGE_TOKENS - seq.computed)

    def _add_page(self, seq: Sequence, *, windowed: bool = True) -> bool:
        index = seq.page_count
        full = self._take(self.full)
        if full is None:
            return False
        if self.window_tokens and windowed:
            window = self._take(self.window)
            if window is None:
                self.full.drop(full)
                return False
            seq.window_pages[index] = window
        seq.full_pages[index] = full
        seq.page_count = index + 1
        return True

    def _take(self, pool: PagePool) -> int | None:
        page = pool.take()
        if page is None and self.cache.evict(pool.kind):
            page = pool.take()
        return page

    # --- handing pages over ----------------------------------------------------------------------

    def settle(self, seq: Sequence) -> None:
        """After a step: publish pages that are complete, give up windows that have passed."""
        complete = seq.computed // PAGE_TOKENS
        if complete == seq.settled_pages:
            return
        if self._prefix_cache and seq.uses_cache:
            for index in range(seq.settled_pages, complete):
                self._publish(seq, index)
        seq.settled_pages = complete
        if self.window_tokens:
            first = self.cache.first_window_page(seq.computed)
            for index in range(seq.window_first, first):
                self._drop(self.window, int(seq.window_pages[index]))
                seq.window_pages[index] = -1
            seq.window_first = first

    def _publish(self, seq: Sequence, index: int) -> None:
        """Show one page to the cache. If its text was known, use the known page from now on."""
        own = int(seq.full_pages[index])
        key = token_key(seq.tokens[index * PAGE_TOKENS : (index + 1) * PAGE_TOKENS])
        is_prompt = index * PAGE_TOKENS < seq.prompt_tokens
        node = self.cache.insert(seq.scope, seq.cache_node, key, own, prompt=is_prompt)
        if node.full_page != own:
            self.full.share(node.full_page)
            self.full.drop(own)
            seq.full_pages[index] = node.full_page
        if self.window_tokens and index >= seq.window_first:
            resume = self._is_before_resume_point(seq, index)
            self.cache.attach_window(node, int(seq.window_pages[index]), resume=resume)
        seq.cache_node = node

    def _is_before_resume_point(self, seq: Sequence, index: int) -> bool:
        return any(
            self.cache.first_window_page(point) <= index and index * PAGE_TOKENS < point
            for point in seq.resume_points
        )

    # --- giving pages back -----------------------------------------------------------------------

    def release(self, seq: Sequence, *, publish: bool) -> None:
        """Take all pages from a sequence. With `publish`, the cache keeps what was computed."""
        if publish and self._prefix_cache and seq.uses_cache:
            self.settle(seq)
            seen = seq.settled_pages - self.cache.first_window_page(seq.computed)
            self.cache.mark_resume(seq.cache_node, seen)
            self._publish_partial(seq)
            if self.spill is not None and seq.cache_node is not None:
                self.spill.add(seq.cache_node)
        self._give_back(seq)
        self.releases += 1

    def _give_back(self, seq: Sequence) -> None:
        for index in range(seq.page_count - 1, -1, -1):
            if self.window_tokens and index >= seq.window_first:
                self._drop(self.window, int(seq.window_pages[index]))
            self._drop(self.full, int(seq.full_pages[index]))
        seq.forget_pages()

    def _publish_partial(self, seq: Sequence) -> None:
        start = seq.settled_pages * PAGE_TOKENS
        key = token_key(seq.tokens[start : seq.computed])
        if not key or self.cache.covers(seq.scope, seq.cache_node, key):
            return
        index = seq.settled_pages
        own = int(seq.full_pages[index])
        is_prompt = start < seq.prompt_tokens
        node = self.cache.insert(seq.scope, seq.cache_node, key, own, prompt=is_prompt)
        if self.window_tokens and node.full_page == own:
            self.cache.attach_window(node, int(seq.window_pages[index]), resume=True)

    def _drop(self, pool: PagePool, page: int) -> None:
        if pool.drop(page):
            self.cache.page_idle(pool.kind, page)

    # --- integrity -------------------------------------------------------------------------------

    def check_integrity(self, sequences: Iterable[Sequence]) -> None:
        """Page conservation: every page is held by these sequences, kept, or free, as counted.

        Raises EngineError. Walks everything, so it is for tests and diagnosis.
        """
        full: Counter[int] = Counter()
        window: Counter[int] = Counter()
        for seq in sequences:
            full.update(seq.full_pages[: seq.page_count].tolist())
            if self.window_tokens:
                window.update(seq.window_pages[seq.window_first : seq.page_count].tolist())
            self._check_next_page(seq)
        kept_full, kept_window = self.cache.kept()
        self.full.check(full, kept_full)
        self.window.check(window, kept_window)

    def _check_next_page(self, seq: Sequence) -> None:
        """The page that a sequence writes next is its own and nobody else's."""
        index = seq.computed // PAGE_TOKENS
        if index >= seq.page_count:
            return
        shared = self.full.is_shared(int(seq.full_pages[index]))
        if self.window_tokens:
            shared = shared or self.window.is_shared(int(seq.window_pages[index]))
        if shared:
            raise EngineError(f"page {index} of {seq.request_id} is written while others read it")
