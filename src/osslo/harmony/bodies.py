"""What a message's content may be, as pieces of a grammar in llguidance's Lark dialect.

Checks every schema and pattern of a caller before it gets near the engine: bounded size and depth,
and a refusal that names the keyword which cannot be enforced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher, regex_to_lark

from osslo.errors import GrammarError

MAX_SCHEMA_BYTES = 256 * 1024
MAX_SCHEMA_DEPTH = 64
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

    With `lenient`, keywords that cannot be enforced are left out instead of refused.
    """

    schema: Mapping[str, Any] | bool
    lenient: bool = False


@dataclass(frozen=True, slots=True)
class RegexBody:
    """Text that a regular expression matches as a whole (Rust syntax: no look-around)."""

    pattern: str


@dataclass(frozen=True, slots=True)
class ChoiceBody:
    """One of the given texts."""

    choices: tuple[str, ...]


Body = TextBody | JsonBody | RegexBody | ChoiceBody


def lark_body(body: Body, *, param: str) -> str:
    """The right-hand side of a rule that matches `body`. `param` is what an error blames.

    Raises `GrammarError`.
    """
    match body:
        case TextBody(None):
            return _ANY_TEXT
        case TextBody(max_chars):
            return rf"/(.|\n){{0,{max_chars}}}/"
        case JsonBody():
            return f"%json {_checked_schema(body, param)}"
        case RegexBody(pattern):
            return _checked_pattern(pattern, param)
        case ChoiceBody(choices):
            if not choices or len(choices) > MAX_CHOICES:
                raise _refusal(param, f"needs between 1 and {MAX_CHOICES} choices")
            return " | ".join(map(lark_string, choices))


def lark_string(text: str) -> str:
    """A Lark literal that matches `text` exactly: JSON's escapes, and DEL, which JSON leaves."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return json.dumps(whole).replace("\x7f", "\\u007f")


# --- patterns -------------------------------------------------------------------------------------


def _checked_pattern(pattern: str, param: str) -> str:
    if len(pattern) > MAX_PATTERN_CHARS:
        raise _refusal(param, f"is longer than {MAX_PATTERN_CHARS} characters")
    lark = f"/{regex_to_lark(pattern)}/" if pattern else '""'
    error = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(f"start: {lark}"))
    if error:
        raise _refusal(param, f"is not a pattern that can be enforced: {_last_line(error)}")
    return lark


# --- schemas --------------------------------------------------------------------------------------

_KEYWORD_OF_MESSAGE = (
    (re.compile(r"Unknown format: (.*)"), "format"),
    (re.compile(r"(oneOf) constraints are not supported"), "oneOf"),
    (re.compile(r"regex parse error"), "pattern"),
    (re.compile(r"(Resource|Pointer|retrieving)"), "$ref"),
    (re.compile(r"Invalid type"), "type"),
)


def _checked_schema(body: JsonBody, param: str) -> str:
    """The schema as JSON with our options in it, proven to compile."""
    text = _serialised(body.schema, param)
    if len(text) > MAX_SCHEMA_BYTES:
        raise _refusal(param, f"is larger than {MAX_SCHEMA_BYTES // 1024} KiB")
    if body.schema is False:
        raise _refusal(param, "allows nothing at all")
    schema = {} if body.schema is True else json.loads(text)
    if not isinstance(schema, dict):
        raise _refusal(param, "is not a JSON schema (an object)")
    options = {"whitespace_flexible": False, "lenient": body.lenient}
    compiled = json.dumps({**schema, "x-guidance": options})
    error = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(compiled))
    if error:
        raise _refusal(param, _schema_reason(error))
    return compiled


def _serialised(schema: object, param: str) -> str:
    _check_depth(schema, param)
    try:
        return json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise _refusal(param, f"is not JSON ({error})") from error


def _check_depth(schema: object, param: str) -> None:
    """Without recursion: a schema may be deeper than Python's stack."""
    level, depth = [schema], 0
    while level:
        if depth > MAX_SCHEMA_DEPTH:
            raise _refusal(param, f"is nested deeper than {MAX_SCHEMA_DEPTH} levels")
        depth += 1
        below: list[object] = []
        for value in level:
            if isinstance(value, Mapping):
                below += value.values()
            elif isinstance(value, list | tuple):
                below += value
        level = below


def _schema_reason(error: str) -> str:
    if unimplemented := re.search(r"Unimplemented keys: (\[.*\])", error):
        names = ", ".join(f"'{name}'" for name in json.loads(unimplemented[1]))
        return f"uses {names}, which cannot be enforced; leave it out or set strict to false"
    for pattern, keyword in _KEYWORD_OF_MESSAGE:
        if pattern.search(error):
            return f"has a '{keyword}' that cannot be enforced: {_last_line(error)}"
    return f"cannot be enforced: {_last_line(error)}"


def _last_line(error: str) -> str:
    """llguidance explains before it concludes; keep the conclusion, one line of bounded length."""
    return error.strip().split("\n")[-1].removeprefix("error: ")[:300]


def _refusal(param: str, reason: str) -> GrammarError:
    return GrammarError(f"{param} {reason}", param=param)
