"""A caller's JSON schemas, checked before they get near the engine.

Bounded in size and depth, proven to compile, and refused by the name of the keyword that cannot
be enforced; or, where the caller is lenient, left without that keyword and with a warning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llguidance import LLMatcher, regex_to_lark

from osslo.errors import GrammarError
from osslo.harmony.schema_cost import UnboundedSchemaError, schema_cost

MAX_SCHEMA_BYTES = 256 * 1024
MAX_SCHEMA_DEPTH = 64
MAX_WARNINGS = 8

MAX_PATTERNS_TOGETHER = 12
"""Patterns and formats for one value: 12 take 40 ms to intersect, 16 more than a second."""

MAX_MULTIPLE = 1000
"""Of all `multipleOf`s for one value: an automaton has so many states; 716,000 took 6 s, 350 MB."""

MAX_FIXED_CHARS = 16 * 1024
"""More text without a choice than this is not written out in one go (by 100,000: 0.3 s)."""

_KEYWORD_OF_MESSAGE = (
    (re.compile(r"Unknown format: (.*)"), "format"),
    (re.compile(r"(oneOf) constraints are not supported"), "oneOf"),
    (re.compile(r"regex parse error|lookarounds? not supported"), "pattern"),
    (re.compile(r"(Resource|Pointer|retrieving)"), "$ref"),
    (re.compile(r"Invalid type"), "type"),
)
_UNIMPLEMENTED = re.compile(r"Unimplemented keys: (\[.*\])")


@dataclass(frozen=True, slots=True)
class CheckedSchema:
    """A schema that compiles, as JSON with our options in it, and what it does not enforce.

    `long_runs`: it may leave no choice about more than `MAX_FIXED_CHARS` of text.
    """

    text: str
    warnings: tuple[str, ...] = ()
    long_runs: bool = False


def checked_schema(schema: Mapping[str, Any] | bool, param: str, *, lenient: bool) -> CheckedSchema:
    """The schema ready for a grammar. `param` is what errors and warnings name.

    With `lenient` what cannot be enforced is left out, with a warning; `oneOf` then reads `anyOf`.
    Raises `GrammarError`.
    """
    text = _serialised(schema, param)
    if len(text) > MAX_SCHEMA_BYTES:
        raise _refusal(param, f"is larger than {MAX_SCHEMA_BYTES // 1024} KiB")
    if schema is False:
        raise _refusal(param, "allows nothing at all")
    parsed = {} if schema is True else json.loads(text)
    if not isinstance(parsed, dict):
        raise _refusal(param, "is not a JSON schema (an object)")
    long_runs = _check_cost(parsed, param)
    if not lenient:
        return replace(_compiled(parsed, param, lenient=False), long_runs=long_runs)
    try:
        return replace(_compiled(parsed, param, lenient=True), long_runs=long_runs)
    except GrammarError:
        dropped: list[str] = []
        loosened = _without_bad_patterns(parsed, dropped)
        if not dropped:
            raise
        checked = _compiled(loosened, param, lenient=True)
        warnings = (*_bad_patterns(dropped, param), *checked.warnings)
        return CheckedSchema(checked.text, warnings, long_runs)


def _check_cost(schema: dict[str, Any], param: str) -> bool:
    """Whether the schema has long runs of fixed text. Raises `GrammarError` if it costs too much.

    llguidance itself bounds the size of a grammar and the work of each mask.
    """
    try:
        cost = schema_cost(schema)
    except UnboundedSchemaError as error:
        raise _refusal(param, str(error)) from error
    if cost.patterns > MAX_PATTERNS_TOGETHER:
        raise _refusal(
            param,
            f"asks one value to match {cost.patterns} 'pattern's or 'format's at once; the most is "
            f"{MAX_PATTERNS_TOGETHER}",
        )
    if cost.multiple > MAX_MULTIPLE:
        raise _refusal(
            param,
            f"has a 'multipleOf' (or several for one value) of {cost.multiple} steps; the most is "
            f"{MAX_MULTIPLE}",
        )
    return cost.fixed_chars > MAX_FIXED_CHARS


def _compiled(schema: dict[str, Any], param: str, *, lenient: bool) -> CheckedSchema:
    options = {"whitespace_flexible": False, "lenient": lenient, "coerce_one_of": lenient}
    text = json.dumps({**schema, "x-guidance": options})
    grammar = LLMatcher.grammar_from_json_schema(text)
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    if failed:
        raise _refusal(param, _schema_reason(messages[0]))
    told = dict.fromkeys(_warning(message) for message in messages)
    return CheckedSchema(text, tuple(f"{param}: {what}" for what in told)[:MAX_WARNINGS])


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


# --- lenient --------------------------------------------------------------------------------------


def _without_bad_patterns(schema: Any, dropped: list[str]) -> Any:
    """The schema without `pattern`s that cannot be enforced; collects those. As deep as
    `MAX_SCHEMA_DEPTH`."""
    if isinstance(schema, list):
        return [_without_bad_patterns(item, dropped) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "pattern" and isinstance(value, str) and not _is_enforceable(value):
            dropped.append(value)
        else:
            kept[key] = _without_bad_patterns(value, dropped)
    return kept


def _is_enforceable(pattern: str) -> bool:
    lark = f"start: /{regex_to_lark(pattern)}/" if pattern else 'start: ""'
    return not LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(lark))


def _bad_patterns(patterns: list[str], param: str) -> list[str]:
    return [
        f"{param}: 'pattern' {pattern[:80]!r} is not enforced"
        for pattern in dict.fromkeys(patterns)
    ][:MAX_WARNINGS]


def _warning(message: str) -> str:
    if unimplemented := _UNIMPLEMENTED.search(message):
        names = ", ".join(f"'{name}'" for name in json.loads(unimplemented[1]))
        return f"{names} is not enforced"
    if message.startswith("oneOf"):
        return "'oneOf' is enforced as 'anyOf'"
    if unknown := re.match(r"Unknown format: (.*)", message):
        return f"'format' {unknown[1][:80]!r} is not enforced"
    return last_line(message)


# --- refusals -------------------------------------------------------------------------------------


def _schema_reason(error: str) -> str:
    if unimplemented := _UNIMPLEMENTED.search(error):
        names = ", ".join(f"'{name}'" for name in json.loads(unimplemented[1]))
        return f"uses {names}, which cannot be enforced; leave it out or set strict to false"
    for pattern, keyword in _KEYWORD_OF_MESSAGE:
        if pattern.search(error):
            return f"has a '{keyword}' that cannot be enforced: {last_line(error)}"
    return f"cannot be enforced: {last_line(error)}"


def last_line(error: str) -> str:
    """llguidance explains before it concludes; keep the conclusion, one line of bounded length."""
    return error.strip().split("\n")[-1].removeprefix("error: ")[:300]


def _refusal(param: str, reason: str) -> GrammarError:
    return GrammarError(f"{param} {reason}", param=param)
