"""What several protocols check alike: spellings of one value, limits, tool choices, token ids.

It knows no protocol's schema: adapters hand over values and the names that errors are to blame.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from osslo.errors import RequestError
from osslo.harmony.grammar import ToolChoice, ToolMode
from osslo.settings import LimitSettings

T = TypeVar("T")

MAX_STOPS = 16
MAX_STOP_CHARS = 1024


@dataclass(frozen=True, slots=True)
class Spelling:
    """One of several names for the same parameter, and its value."""

    name: str
    value: Any


def same(*spellings: Spelling) -> Spelling | None:
    """The one value that was given. Raises `RequestError` if two differ."""
    given = [spelling for spelling in spellings if spelling.value is not None]
    for other in given[1:]:
        if other.value != given[0].value:
            raise RequestError(
                f"'{given[0].name}' and '{other.name}' mean the same here but differ; "
                "send one of them.",
                param=other.name,
            )
    return given[0] if given else None


def given_or(value: T | None, default: T) -> T:
    """`value`, or `default` where none was given."""
    return default if value is None else value


def missing(param: str, why: str = "") -> RequestError:
    """The error for a required parameter that is not there."""
    return RequestError(
        f"'{param}' is required{': ' + why if why else ''}.",
        param=param,
        code="missing_required_parameter",
    )


def output_limit(given: Spelling | None, limits: LimitSettings) -> int | None:
    """The caller's limit on output tokens. Raises `RequestError` above the server's."""
    if given is None:
        return None
    limit: int = given.value
    if limit > limits.max_output_tokens:
        raise RequestError(
            f"'{given.name}' is {limit}, but this server generates at most "
            f"{limits.max_output_tokens} tokens a request.",
            param=given.name,
            code="integer_above_max_value",
        )
    return limit


def stop_strings(given: Spelling | None) -> tuple[str, ...]:
    """Stop strings, checked. Raises `RequestError`."""
    if given is None:
        return ()
    stops: Sequence[str] = given.value
    if len(stops) > MAX_STOPS:
        raise RequestError(
            f"'{given.name}' has {len(stops)} strings; the most is {MAX_STOPS}.", param=given.name
        )
    if any(not text or len(text) > MAX_STOP_CHARS for text in stops):
        raise RequestError(
            f"'{given.name}' holds an empty string or one over {MAX_STOP_CHARS} characters.",
            param=given.name,
        )
    return tuple(stops)


def logit_bias(given: Mapping[str, float] | None, vocabulary: int) -> tuple[tuple[int, float], ...]:
    """Biases by token id, below `vocabulary`. Raises `RequestError`."""
    bias: list[tuple[int, float]] = []
    for token, value in (given or {}).items():
        where = f"logit_bias.{token[:32]}"
        if not (token.isascii() and token.isdigit()) or len(token) > 9 or int(token) >= vocabulary:
            raise RequestError(
                f"'{where}' is not a token id of this model (0 to {vocabulary - 1}).", param=where
            )
        if not -100 <= value <= 100:
            raise RequestError(f"'{where}' must be from -100 to 100.", param=where)
        bias.append((int(token), value))
    return tuple(bias)


def check_count(what: str, count: int, most: int) -> None:
    """Raise `RequestError` if a list of `what` holds more than `most`."""
    if count > most:
        raise RequestError(f"'{what}' holds {count}; the most is {most}.", param=what)


def check_schema(schema: Mapping[str, Any] | None, where: str, limits: LimitSettings) -> None:
    """Raise `RequestError` for a JSON schema larger than the server's limit."""
    if schema is not None and len(json.dumps(schema)) > limits.max_schema_bytes:
        raise RequestError(
            f"'{where}' is larger than {limits.max_schema_bytes} bytes.", param=where
        )


def check_tool_names(names: Iterable[tuple[str, str]]) -> None:
    """Raise `RequestError` if two tools share a name; `names` are pairs of name and place."""
    seen: set[str] = set()
    for name, where in names:
        if name in seen:
            raise RequestError(f"Two tools are called '{name}'.", param=where)
        seen.add(name)


def check_tool_choice(choice: ToolChoice, declared: Iterable[str]) -> ToolChoice:
    """`choice`, if the declared tools allow it. Raises `RequestError`."""
    names = set(declared)
    if not names and choice.mode is not ToolMode.NONE:
        raise RequestError("'tool_choice' needs 'tools'.", param="tool_choice")
    unknown = set(choice.names or ()) - names
    if unknown:
        raise RequestError(
            f"'tool_choice' names {', '.join(sorted(unknown))}, not among 'tools'.",
            param="tool_choice",
        )
    return choice
