"""Grammars that were built before: an agent sends the same tools with every turn.

Building checks every schema, which takes up to tens of milliseconds; the key is a hash of the
options. What was refused is remembered too. Bounded in number and in text.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

from osslo.errors import GrammarError
from osslo.harmony.grammar import GrammarOptions, TurnGrammar, turn_grammar

MAX_GRAMMARS = 256
MAX_CHARS = 16 * 1024 * 1024


class GrammarCache:
    """`turn_grammar` with a memory; least recently used first out. Safe to share by threads."""

    def __init__(self, *, max_grammars: int = MAX_GRAMMARS, max_chars: int = MAX_CHARS) -> None:
        self._max_grammars = max_grammars
        self._max_chars = max_chars
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, TurnGrammar | GrammarError] = OrderedDict()
        self._chars = 0

    def __len__(self) -> int:
        return len(self._known)

    def turn_grammar(self, options: GrammarOptions) -> TurnGrammar:
        """The grammar of these options. Raises `GrammarError` as `turn_grammar` does."""
        key = _key(options)
        if key is None:
            return turn_grammar(options)
        with self._lock:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
        if found is None:  # outside the lock: nobody waits for another's schema
            found = _build(options)
            self._keep(key, found)
        if isinstance(found, GrammarError):
            raise GrammarError(found.message, param=found.param)
        return found

    def _keep(self, key: bytes, built: TurnGrammar | GrammarError) -> None:
        with self._lock:
            if key in self._known:  # somebody else built the same meanwhile
                return
            self._known[key] = built
            self._chars += _chars(built)
            while len(self._known) > self._max_grammars or self._chars > self._max_chars:
                _, dropped = self._known.popitem(last=False)
                self._chars -= _chars(dropped)


def _build(options: GrammarOptions) -> TurnGrammar | GrammarError:
    try:
        return turn_grammar(options)
    except GrammarError as error:
        return error.with_traceback(None)


def _chars(built: TurnGrammar | GrammarError) -> int:
    return len(built.grammar.lark) if isinstance(built, TurnGrammar) else len(built.message)


def _key(options: GrammarOptions) -> bytes | None:
    """A hash over all that the options say, members of schemas in their order, which counts. None
    for schemas too deep to write down, which building refuses."""
    try:
        text = repr(options)
    except RecursionError:
        return None
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
