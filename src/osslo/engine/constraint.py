"""Grammar constraints by llguidance: which tokens may follow, and which must.

The compiler owns the vocabulary's trie (a second or two to build, so once and lazily) and a small
cache of compiled grammars. A `Constraint` belongs to one sequence.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Protocol

import llguidance
import numpy as np
from llguidance import TokenizerWrapper
from numpy.typing import NDArray

from osslo.errors import EngineError, GrammarError
from osslo.types import Grammar, TokenId

CACHED_GRAMMARS = 64

STEP_LEXER_FUEL = 100_000
"""Work of one mask on the lexer; llguidance counts about 14,000 a millisecond."""

STEP_MAX_ITEMS = 20_000
"""Parser items of one mask, or of one run of forced text; about 20,000 a millisecond."""

MAX_LEXER_STATES = 25_000
"""States a sequence may give its lexer: about 1 kB each."""

_ENCODED_CHARS = 1024
"""Forced text is encoded in pieces of this size: byte-pair encoding is quadratic in long words."""


_TOO_COMPLEX = re.compile(
    r"too many (items|expressions|states)|items; max is|TooComplex|fuel|too (big|large)",
    re.IGNORECASE,
)
_DEAD_END = re.compile(r"^NoExtension")


class GrammarVocabulary(Protocol):
    """The part of `osslo.model.tokenizer.Tokenizer` that constraints use."""

    @property
    def specials(self) -> Mapping[str, TokenId]:
        """Ids of the special tokens by their text."""
        ...

    def token_table(self) -> list[bytes]:
        """The bytes of every id, in order; a special token's are its text."""
        ...

    def encode(self, text: str) -> list[TokenId]:
        """Token ids of `text`; special tokens are never among them."""
        ...


class ConstraintCompiler:
    """Turns grammars into constraints over one vocabulary. Safe to use from several threads.

    `eos_ids`, at least one, are all tokens that may end an answer (harmony: `<|return|>` and
    `<|call|>`).
    """

    def __init__(self, vocabulary: GrammarVocabulary, eos_ids: Sequence[TokenId]) -> None:
        self._vocabulary = vocabulary
        self._eos_ids = list(eos_ids)
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._compiled: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def warm_up(self) -> None:
        """Build the trie now rather than with the first grammar, which waits if it comes meanwhile.

        llguidance holds the interpreter while it builds: nothing else in this process runs.
        """
        with self._lock:
            self._get_tokenizer()

    def compile(self, grammar: Grammar) -> Constraint:
        """A constraint at its start. Raises GrammarError with the first line of what is wrong."""
        with self._lock:
            tokenizer = self._get_tokenizer()
            matcher = self._compiled.get(grammar.lark)
        if matcher is None:  # outside the lock: nobody waits for another's grammar
            matcher = _compile(tokenizer, grammar.lark)
        with self._lock:
            self._compiled[grammar.lark] = matcher
            self._compiled.move_to_end(grammar.lark)
            if len(self._compiled) > CACHED_GRAMMARS:
                self._compiled.popitem(last=False)
            return Constraint(matcher.deep_copy(), tokenizer.vocab_size)

    def _get_tokenizer(self) -> llguidance.LLTokenizer:
        if self._tokenizer is None:
            source = TokenizerWrapper(_TokenSource(self._vocabulary, self._eos_ids[0]))
            self._tokenizer = llguidance.LLTokenizer(source, eos_token=self._eos_ids)
        return self._tokenizer


class _TokenSource:
    """A vocabulary as llguidance asks for one: half the time of reading a `tokenizer.json`."""

    bos_token_id = None

    def __init__(self, vocabulary: GrammarVocabulary, eos_id: TokenId) -> None:
        self.eos_token_id = eos_id
        self.tokens = vocabulary.token_table()
        self.special_token_ids = sorted(vocabulary.specials.values())
        self._encode = vocabulary.encode

    def __call__(self, text: bytes) -> list[TokenId]:
        """Ids of what a grammar forces; llguidance passes whole characters only."""
        whole = text.decode()
        pieces = range(0, len(whole), _ENCODED_CHARS)
        return [id_ for at in pieces for id_ in self._encode(whole[at : at + _ENCODED_CHARS])]


def _compile(tokenizer: llguidance.LLTokenizer, lark: str) -> llguidance.LLMatcher:
    limits = llguidance.LLParserLimits(
        step_lexer_fuel=STEP_LEXER_FUEL,
        step_max_items=STEP_MAX_ITEMS,
        max_lexer_states=MAX_LEXER_STATES,
        precompute_large_lexemes=False,  # measured: slower to compile and no faster to mask
        verbose_errors=False,  # no user text in errors or logs
    )
    source = llguidance.LLMatcher.grammar_from_lark(lark)
    matcher = llguidance.LLMatcher(tokenizer, source, log_level=0, limits=limits)
    if matcher.is_error():
        raise GrammarError(f"the grammar cannot be enforced: {_first_line(matcher)}")
    return matcher


class Constraint:
    """The state of one grammar after the tokens so far."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._bits = np.zeros((vocab_size + 31) // 32, dtype=np.int32)

    @property
    def finished(self) -> bool:
        """The grammar is complete: nothing but an end token could follow."""
        return self._matcher.is_stopped()

    def mask(self, row: NDArray[np.float32]) -> None:
        """Set the logits `[V]` of all tokens that may not follow to -inf, in place.

        Tokens beyond the tokenizer's vocabulary (padding of the head) may never follow.
        """
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        size = min(self._vocab_size, row.size)
        allowed = np.unpackbits(self._bits.view(np.uint8), count=size, bitorder="little")
        np.putmask(row[:size], allowed == 0, -np.inf)
        row[size:] = -np.inf

    def advance(self, token: TokenId) -> None:
        """A token was appended. Raises EngineError if the grammar does not allow it."""
        self._matcher.consume_token(token)
        self._check()

    def read(self, tokens: Sequence[TokenId]) -> None:
        """Pass over tokens that the prompt holds. Raises GrammarError if they do not fit."""
        if tokens and not self._matcher.consume_tokens(list(tokens)):
            raise GrammarError(
                "the answer's beginning, as given, does not fit the form that was asked for"
            )

    def forced(self) -> list[TokenId]:
        """The tokens that must come next, if there is no choice; they are not consumed.

        Raises GrammarError where finding them takes too much work.
        """
        if self._matcher.is_stopped():
            self._check()
            return []
        tokens = self._matcher.compute_ff_tokens()
        self._check()
        return tokens

    def _check(self) -> None:
        """Raises GrammarError where the grammar is to blame, EngineError otherwise."""
        if not self._matcher.is_error():
            return
        reason = _first_line(self._matcher)
        if _TOO_COMPLEX.search(reason):
            raise GrammarError(
                f"the schema or grammar is too complex to enforce ({reason}); a step may make "
                f"{STEP_MAX_ITEMS} parser items and its text {MAX_LEXER_STATES} lexer states: "
                "simplify its patterns, repetitions or alternatives"
            )
        if _DEAD_END.search(reason):
            raise GrammarError(f"the schema or grammar allows nothing at all here ({reason})")
        raise EngineError(f"the grammar failed while running: {reason}")


def _first_line(matcher: llguidance.LLMatcher) -> str:
    return matcher.get_error().strip().split("\n", 1)[0]
