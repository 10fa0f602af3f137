"""The input of a batch: JSON Lines, each a request. Pure, but for reading the file."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from osslo.store.batches import BatchProblem

ENDPOINTS = ("/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/moderations")
"""What the requests of a batch may go to."""

MAX_PROBLEMS = 50
"""After so many wrong lines the rest is not looked at."""

MAX_CUSTOM_ID_CHARS = 512
_NO_PLACE = {
    "stream": "results of a batch are files",
    "background": "a batch runs in the background anyway",
}


@dataclass(frozen=True, slots=True)
class InputRules:
    """What the input may be."""

    endpoint: str
    max_lines: int
    max_line_bytes: int


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One request; `number` counts the file's lines from 1."""

    number: int
    custom_id: str
    body: Mapping[str, Any]


@dataclass(slots=True)
class CheckedInput:
    """What a check found: `model` is the one that all lines name, if they agree."""

    total: int = 0
    model: str | None = None
    problems: list[BatchProblem] = field(default_factory=list)


def check_input(path: Path, rules: InputRules) -> CheckedInput:
    """Look at every line. Nothing is raised; what is wrong is in `problems`."""
    found = CheckedInput()
    seen: set[str] = set()
    models: set[str] = set()
    for number, raw in _raw_lines(path, rules.max_line_bytes):
        found.total += 1
        if found.total > rules.max_lines:
            message = f"The file holds more than {rules.max_lines} requests; split it."
            found.problems.append(BatchProblem("too_many_requests", message))
            break
        line = _parsed(number, raw, rules, seen)
        if isinstance(line, BatchProblem):
            found.problems.append(line)
            if len(found.problems) >= MAX_PROBLEMS:
                break
        else:
            models.add(line.body["model"] if isinstance(line.body.get("model"), str) else "")
    if not found.total:
        found.problems.append(BatchProblem("empty_file", "The file holds no requests."))
    found.model = models.pop() or None if len(models) == 1 else None
    return found


def read_lines(path: Path, rules: InputRules, *, skip: Container[int]) -> Iterator[BatchLine]:
    """The requests of a file that `check_input` found good, without the lines in `skip`."""
    for number, raw in _raw_lines(path, rules.max_line_bytes):
        if number not in skip:
            data = from_json(raw)
            yield BatchLine(number, data["custom_id"], data["body"])


def _raw_lines(path: Path, limit_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank. One over the limit is cut, which makes it no JSON."""
    number = 0
    with path.open("rb") as file:
        while raw := file.readline(limit_bytes + 1):
            number += 1
            whole = raw
            while not whole.endswith(b"\n") and (whole := file.readline(1 << 16)):
                pass
            if raw.strip():
                yield number, raw


def _parsed(number: int, raw: bytes, rules: InputRules, seen: set[str]) -> BatchLine | BatchProblem:
    if len(raw) > rules.max_line_bytes:
        return BatchProblem(
            "line_too_long", f"The line is longer than {rules.max_line_bytes} bytes.", number
        )
    try:
        data = from_json(raw, allow_inf_nan=False)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        return BatchProblem("invalid_json_line", "The line is not a JSON object.", number)
    problem = _problem(data, rules)
    if problem is not None:
        param, code, message = problem
        return BatchProblem(code, message, number, param)
    custom_id = data["custom_id"]
    if custom_id in seen:
        message = f"The custom_id {custom_id[:64]!r} was used by an earlier line."
        return BatchProblem("duplicate_custom_id", message, number, "custom_id")
    seen.add(custom_id)
    return BatchLine(number, custom_id, data["body"])


def _problem(data: Mapping[str, Any], rules: InputRules) -> tuple[str, str, str] | None:
    """What is wrong with a line's fields: the field, a code and a sentence."""
    for name in ("custom_id", "method", "url", "body"):
        if name not in data:
            return name, "missing_required_parameter", f"'{name}' is missing."
    for name in data:
        if name not in ("custom_id", "method", "url", "body"):
            return name[:64], "unknown_parameter", f"'{name[:64]}' is not a field of a request."
    custom_id, body = data["custom_id"], data["body"]
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID_CHARS:
        message = f"'custom_id' must be a text of 1 to {MAX_CUSTOM_ID_CHARS} characters."
        return "custom_id", "invalid_custom_id", message
    if data["method"] != "POST":
        return "method", "invalid_method", "'method' can only be POST."
    if data["url"] != rules.endpoint:
        message = f"'url' must be the batch's endpoint, {rules.endpoint}."
        return "url", "mismatched_endpoint", message
    if not isinstance(body, dict):
        return "body", "invalid_body", "'body' must be a JSON object."
    for name, why in _NO_PLACE.items():
        if body.get(name):
            return f"body.{name}", "unsupported_parameter", f"'{name}' is not supported: {why}."
    return None
