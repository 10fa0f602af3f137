"""What a message's content may be, as pieces of a grammar in llguidance's Lark dialect.

Owns the kinds of content and the checks of patterns and choices; `schemas` checks JSON schemas,
`callers_lark` a caller's own grammars. All are checked before they get near the engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher, regex_to_lark

from osslo.errors import GrammarError
from osslo.harmony.callers_lark import checked_lark
from osslo.harmony.schema_cost import fixed_chars_of_pattern
from osslo.harmony.schemas import MAX_FIXED_CHARS, checked_schema, last_line

MAX_CHOICES = 10_000
MAX_PATTERN_CHARS = 10_000

_ANY_TEXT = r"/(.|\n)*/"

JSON_OBJECT: Mapping[str, Any] = {"type": "object"}


@dataclass(frozen=True, slots=True)
class TextBody:
    """Any text, up to `max_chars` characters if given."""

    max_chars: int | None = None


@dataclass(frozen=True, slots=True)
class JsonBody:
    """Compact JSON that follows a schema, properties in the schema's order.

    With `lenient`, keywords that cannot be enforced are left out, with a warning, instead of
    refused, and `oneOf` reads `anyOf`.
    """

    schema: Mapping[str, Any] | bool
    lenient: bool = False


@dataclass(frozen=True, slots=True)
class RegexBody:
    """Text that a regular expression matches as a whole (Rust syntax: no look-around)."""

    pattern: str


@dataclass(frozen=True, slots=True)
class LarkBody:
    """Text that follows a caller's grammar in llguidance's Lark dialect, from its rule `start`."""

    grammar: str


@dataclass(frozen=True, slots=True)
class ChoiceBody:
    """One of the given texts."""

    choices: tuple[str, ...]


Body = TextBody | JsonBody | RegexBody | LarkBody | ChoiceBody


@dataclass(frozen=True, slots=True)
class BodyRule:
    """The right-hand side of a rule that matches a body; `warnings` name what it leaves out.

    `long_runs`: it may leave no choice about very much text, which is then better sampled token
    by token than written out in one go.
    """

    lark: str
    warnings: tuple[str, ...] = ()
    long_runs: bool = False


def lark_body(body: Body, *, param: str) -> BodyRule:
    """The rule of a body. `param` is what an error or a warning blames. Raises `GrammarError`."""
    match body:
        case TextBody(None):
            return BodyRule(_ANY_TEXT)
        case TextBody(max_chars):
            return BodyRule(rf"/(.|\n){{0,{max_chars}}}/")
        case JsonBody(schema, lenient):
            checked = checked_schema(schema, param, lenient=lenient)
            return BodyRule(f"%json {checked.text}", checked.warnings, checked.long_runs)
        case RegexBody(pattern):
            long_runs = fixed_chars_of_pattern(pattern) > MAX_FIXED_CHARS
            return BodyRule(_checked_pattern(pattern, param), long_runs=long_runs)
        case LarkBody(grammar):
            nested = f"%lark {{\n{checked_lark(grammar, param)}\n}}"
            return BodyRule(nested, long_runs=True)  # how long, only its parser could say
        case ChoiceBody(choices):
            if not choices or len(choices) > MAX_CHOICES:
                message = f"{param} needs between 1 and {MAX_CHOICES} choices"
                raise GrammarError(message, param=param)
            return BodyRule(" | ".join(map(lark_string, choices)))


def lark_string(text: str) -> str:
    """A Lark literal that matches `text` exactly: JSON's escapes, and DEL, which JSON leaves."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return json.dumps(whole).replace("\x7f", "\\u007f")


def _checked_pattern(pattern: str, param: str) -> str:
    if len(pattern) > MAX_PATTERN_CHARS:
        raise GrammarError(f"{param} is longer than {MAX_PATTERN_CHARS} characters", param=param)
    lark = f"/{regex_to_lark(pattern)}/" if pattern else '""'
    error = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(f"start: {lark}"))
    if error:
        raise GrammarError(
            f"{param} is not a pattern that can be enforced: {last_line(error)}", param=param
        )
    return lark
