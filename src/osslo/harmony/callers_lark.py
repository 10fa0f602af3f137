"""A caller's own grammar, made safe to stand inside ours.

It is nested as a grammar of its own (`%lark { ... }`), so that its rules can neither meet nor
redefine ours. What is left to check: that it is a whole grammar by itself, since one that is not
could close the braces around it, and that it names no tokens by id or special name, since those
would let text leave its message.
"""

from __future__ import annotations

import re

from llguidance import LLMatcher

from osslo.errors import GrammarError
from osslo.harmony.schemas import last_line

MAX_LARK_CHARS = 64 * 1024

_DIRECTIVES = frozenset({"ignore", "import", "json", "regex"})

_PIECES = re.compile(
    r"""
      (?P<quoted> "(?:[^"\\\n]|\\.)*" )
    | (?P<comment> (?://|\#)[^\n]* )
    | (?P<regex> /(?:[^/\\\n]|\\.)+/ )
    | (?P<token> < [^\s>]* >? )
    | (?P<grammar> @\w* )
    | %(?P<directive> \w* )
    """,
    re.VERBOSE,
)


def checked_lark(grammar: str, param: str) -> str:
    """The grammar as it was given. Raises `GrammarError` naming what is wrong with it."""
    if len(grammar) > MAX_LARK_CHARS:
        raise _refusal(param, f"is longer than {MAX_LARK_CHARS} characters")
    for piece in _PIECES.finditer(grammar):
        _check_piece(piece, param)
    error = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(grammar))
    if error:
        raise _refusal(param, f"is not a grammar that can be enforced: {_reason(error)}")
    return grammar


def _check_piece(piece: re.Match[str], param: str) -> None:
    if piece["token"] is not None:
        raise _refusal(param, f"names the token {piece['token'][:40]}; a grammar is about text")
    if piece["grammar"] is not None:
        raise _refusal(param, f"refers to another grammar ({piece['grammar'][:40]})")
    if piece["directive"] is not None and piece["directive"] not in _DIRECTIVES:
        known = ", ".join(f"%{name}" for name in sorted(_DIRECTIVES))
        raise _refusal(param, f"uses %{piece['directive'][:40]}; allowed are {known}")


def _reason(error: str) -> str:
    """The first line has the place and the cause, the others quote the grammar."""
    first = error.strip().split("\n", 1)[0]
    return first[:300] if first else last_line(error)


def _refusal(param: str, reason: str) -> GrammarError:
    return GrammarError(f"{param} {reason}", param=param)
