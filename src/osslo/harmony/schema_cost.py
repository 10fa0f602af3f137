"""What a JSON schema would cost to enforce, estimated before anything compiles it.

llguidance bounds the size of a grammar and the work of a mask, but not three things, which are
estimated here from above: the product automaton of patterns and `multipleOf`s that hold for one
value (`allOf`), a `$ref` that leads to itself, and the length of text that a schema leaves no
choice about, which would be written out in one go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from math import lcm
from typing import Any

MAX_LEVELS = 250
"""Of nesting and references together; the walk uses Python's stack."""

_REPEAT = re.compile(r"\{(\d+)")
_CHILDREN = ("additionalProperties", "unevaluatedProperties", "contains", "additionalItems")


@dataclass(frozen=True, slots=True)
class Cost:
    """Upper bounds: `patterns` and formats that hold for one value together, the least common
    multiple of its `multipleOf`s (their digits), the characters of `fixed` text in one run."""

    patterns: int = 0
    multiple: int = 1
    fixed_chars: int = 0

    def both(self, other: Cost) -> Cost:
        """Both hold for one value."""
        return Cost(
            self.patterns + other.patterns,
            lcm(self.multiple, other.multiple),
            self.fixed_chars + other.fixed_chars,
        )

    def either(self, other: Cost) -> Cost:
        """The worse of the two in each respect."""
        return Cost(
            max(self.patterns, other.patterns),
            max(self.multiple, other.multiple),
            max(self.fixed_chars, other.fixed_chars),
        )


class UnboundedSchemaError(Exception):
    """A schema that has no end; its text says why."""


def fixed_chars_of_pattern(pattern: str) -> int:
    """At most so many characters of a match are without choice."""
    chars = len(pattern)
    for count in _REPEAT.findall(pattern):
        chars *= max(1, int(count[:9]))
    return chars


def schema_cost(schema: Mapping[str, Any]) -> Cost:
    """The cost of a schema given as plain JSON. Raises `UnboundedSchemaError`."""
    return _Walk(schema).cost(schema, 0)


class _Walk:
    """One walk over a schema; what a reference costs is found once."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._known: dict[str, Cost] = {}
        self._open: set[str] = set()  # references being followed
        self._here: set[str] = set()  # those followed for this very value

    def cost(self, schema: Any, level: int) -> Cost:
        if level > MAX_LEVELS:
            raise UnboundedSchemaError(f"goes through more than {MAX_LEVELS} levels")
        if not isinstance(schema, Mapping):
            return Cost()
        total = self._value(schema)
        for member in _list(schema.get("allOf")):
            total = total.both(self.cost(member, level + 1))
        reference = schema.get("$ref")
        if isinstance(reference, str):
            total = total.both(self._reference(reference, level + 1))
        for key in ("anyOf", "oneOf"):
            branches = Cost()
            for member in _list(schema.get(key)):
                branches = branches.either(self.cost(member, level + 1))
            total = total.both(branches)
        here, self._here = self._here, set()
        try:
            return total.both(self._object(schema, level + 1)).either(self._array(schema, level))
        finally:
            self._here = here

    def _value(self, schema: Mapping[str, Any]) -> Cost:
        cost = Cost(patterns=int("pattern" in schema) + int("format" in schema))
        if isinstance(pattern := schema.get("pattern"), str):
            cost = replace(cost, fixed_chars=fixed_chars_of_pattern(pattern))
        literals = [schema["const"]] if "const" in schema else _list(schema.get("enum"))
        if literals:
            longest = max(len(json.dumps(literal)) for literal in literals)
            cost = replace(cost, fixed_chars=longest)
        step = schema.get("multipleOf")
        if isinstance(step, int | float) and not isinstance(step, bool) and step:
            cost = replace(cost, multiple=abs(int("".join(map(str, _digits(step))))) or 1)
        return cost

    def _reference(self, reference: str, level: int) -> Cost:
        if reference in self._here:
            raise UnboundedSchemaError("has a '$ref' that leads to itself")
        if reference in self._known:
            return self._known[reference]
        if reference in self._open:
            return Cost()  # recursion through a member: counted where it began
        self._open.add(reference)
        self._here.add(reference)
        try:
            cost = self.cost(self._resolve(reference), level)
        finally:
            self._open.discard(reference)
            self._here.discard(reference)
        self._known[reference] = cost
        return cost

    def _resolve(self, reference: str) -> Any:
        """What a local reference points to; None for others, which compiling refuses."""
        if not reference.startswith("#"):
            return None
        place: Any = self._root
        for part in reference[1:].split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(place, Mapping):
                place = place.get(key)
            elif isinstance(place, list) and key.isascii() and key.isdigit():
                place = place[int(key[:9])] if int(key[:9]) < len(place) else None
            else:
                return None
        return place

    def _object(self, schema: Mapping[str, Any], level: int) -> Cost:
        """Required members follow each other without choice."""
        required = {name for name in _list(schema.get("required")) if isinstance(name, str)}
        fixed, worst = 0, Cost()
        for name, member in _mapping(schema.get("properties")).items():
            cost = self.cost(member, level)
            chars = cost.fixed_chars + len(name) + 4
            fixed += chars if name in required else 0
            worst = worst.either(replace(cost, fixed_chars=chars))
        for member in _mapping(schema.get("patternProperties")).values():
            worst = worst.either(self.cost(member, level))
        for key in _CHILDREN:
            worst = worst.either(self.cost(schema.get(key), level))
        return replace(worst, fixed_chars=max(fixed, worst.fixed_chars))

    def _array(self, schema: Mapping[str, Any], level: int) -> Cost:
        items = schema.get("items")
        places = [*_list(schema.get("prefixItems")), *_list(items)]
        fixed, worst = 0, Cost()
        for place in places:
            cost = self.cost(place, level + 1)
            fixed, worst = fixed + cost.fixed_chars + 1, worst.either(cost)
        repeated = self.cost(items, level + 1)
        least = schema.get("minItems")
        count = max(1, least) if isinstance(least, int) else 1
        fixed += count * (repeated.fixed_chars + 1) if isinstance(items, Mapping) else 0
        return replace(worst.either(repeated), fixed_chars=fixed)


def _digits(step: float) -> tuple[int, ...]:
    return Decimal(str(step)).normalize().as_tuple().digits


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
