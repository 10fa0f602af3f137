"""Parsing JSON objects, and typed access to the values of a parsed file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osslo.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Fields:
    """Typed access to the values of one parsed file; what is missing or of another type is a
    CheckpointError that names source and field. `null` counts as missing."""

    source: str
    values: Mapping[str, Any]
    prefix: str = ""

    def below(self, prefix: str) -> Fields:
        """The fields whose names begin with `prefix`, under the rest of their names."""
        start = len(prefix)
        inner = {name[start:]: v for name, v in self.values.items() if name.startswith(prefix)}
        return Fields(self.source, inner, prefix)

    def fail(self, name: str, what: str) -> CheckpointError:
        return CheckpointError(f"{self.source}: {self.prefix}{name} {what}")

    def expect(self, name: str, value: object) -> None:
        if self.values.get(name) != value:
            raise self.fail(name, f"is {self.values.get(name)!r}, but must be {value!r}")

    def expect_only(self, names: set[str]) -> None:
        unknown = sorted(set(self.values) - names)
        if unknown:
            raise self.fail(unknown[0], "is not a known field")

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(name, "an integer")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > 1e300:
            raise self._wrong(name, "a number")
        return float(value)

    def boolean(self, name: str, *, default: bool | None = None) -> bool:
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def strings(self, name: str) -> list[str]:
        value = self.values.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(name, "a list of names")
        return value

    def token_ids(self, name: str) -> tuple[int, ...]:
        """One id, a list of ids, or nothing."""
        value = self.values.get(name)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if any(not isinstance(token, int) or isinstance(token, bool) for token in ids):
            raise self._wrong(name, "a token id or a list of them")
        return tuple(ids)

    def group(self, name: str) -> Fields | None:
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self._wrong(name, "an object")
        return Fields(self.source, value, f"{self.prefix}{name}.")

    def _wrong(self, name: str, expected: str) -> CheckpointError:
        value = self.values.get(name)
        if value is None:
            return self.fail(name, f"is missing; {expected} is needed")
        shown = repr(value)
        return self.fail(
            name, f"is {shown if len(shown) < 60 else shown[:60] + '...'}, but must be {expected}"
        )


def read_json_object(path: Path) -> dict[str, Any]:
    """Read and parse a file. Raises CheckpointError if it can't be read or is no JSON object."""
    try:
        return parse_json_object(path, path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


def parse_json_object(path: Path, text: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises CheckpointError if `text` is anything else."""
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name appears twice in one object")
    return values
