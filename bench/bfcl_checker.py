"""Judges calls by the rules of BFCL's AST checker, written anew from their description.

A call is right if its name is, nothing required is missing, nothing unknown is there, and each
argument has its declared type and one of its accepted values. Whole numbers may stand for numbers
with a fraction, not the other way round. Texts are compared without case, blanks and the marks
`,./-_*^`, and with one kind of quotes. An argument whose accepted values hold `""` may be left out.
Several calls may come in any order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Accepted = Mapping[str, Mapping[str, Sequence[Any]]]
"""A function's name, and for each argument the values accepted for it."""

_MARKS = re.compile(r"[ ,./\-_*^]")


class Fault(StrEnum):
    """What is wrong with an answer."""

    COUNT = "another number of calls"
    NAME = "another function"
    NO_JSON = "arguments that are no object"
    MISSING = "a required argument is missing"
    UNKNOWN = "an argument that is not declared"
    TYPE = "a value of another type"
    VALUE = "another value"
    CALLED = "a call where none was right"


@dataclass(frozen=True, slots=True)
class Declared:
    """A function as the model was shown it."""

    name: str
    parameters: Mapping[str, Any]


def fault_of(
    declared: Sequence[Declared], wanted: Sequence[Accepted], calls: Sequence[tuple[str, Any]]
) -> Fault | None:
    """What is wrong with `calls` (names and parsed arguments); None if they are right. Without
    `wanted` nothing may be called."""
    if not wanted:
        return Fault.CALLED if calls else None
    if len(calls) != len(wanted):
        return Fault.COUNT
    functions = {function.name: function for function in declared}
    left = list(calls)
    for accepted in wanted:
        faults = [_call_fault(functions, accepted, call) for call in left]
        if None not in faults:
            return faults[0]
        left.pop(faults.index(None))
    return None


def _call_fault(
    functions: Mapping[str, Declared], accepted: Accepted, call: tuple[str, Any]
) -> Fault | None:
    ((name, values),) = accepted.items()
    given_name, arguments = call
    if given_name != name:
        return Fault.NAME
    if not isinstance(arguments, Mapping):
        return Fault.NO_JSON
    parameters = functions[name].parameters
    properties = parameters.get("properties", {})
    if any(key not in arguments for key in parameters.get("required", ())):
        return Fault.MISSING
    for key, value in arguments.items():
        if key not in properties or key not in values:
            return Fault.UNKNOWN
        fault = _value_fault(properties[key], values[key], value)
        if fault is not None:
            return fault
    left_out = (key for key in values if key not in arguments)
    return Fault.MISSING if any("" not in values[key] for key in left_out) else None


def _value_fault(schema: Mapping[str, Any], accepted: Sequence[Any], value: Any) -> Fault | None:
    kind = schema.get("type")
    # A variable's name may stand for a value; it is then the accepted text.
    named = isinstance(value, str) and any(isinstance(one, str) and one for one in accepted)
    if kind is not None and not _has_type(kind, value) and not named:
        return Fault.TYPE
    if any(same(value, one) for one in accepted):
        return None
    return Fault.VALUE


def _has_type(kind: str, value: Any) -> bool:
    match kind:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "array":
            return isinstance(value, list)
        case "object":
            return isinstance(value, Mapping)
        case _:
            return True


def same(value: Any, accepted: Any) -> bool:
    """Whether a value is an accepted one."""
    if isinstance(value, str) and isinstance(accepted, str):
        return _plain(value) == _plain(accepted)
    if isinstance(value, bool) or isinstance(accepted, bool):
        return value is accepted
    if isinstance(value, list) and isinstance(accepted, list):
        return len(value) == len(accepted) and all(map(same, value, accepted))
    if isinstance(value, Mapping) and isinstance(accepted, Mapping):
        return _same_object(value, accepted)
    return bool(value == accepted)


def _same_object(value: Mapping[str, Any], accepted: Mapping[str, Any]) -> bool:
    """An accepted object holds a list of accepted values for each key."""
    if any(key not in accepted for key in value):
        return False
    for key, values in accepted.items():
        choices = values if isinstance(values, list) else [values]
        if key not in value:
            if "" not in choices:
                return False
        elif not any(same(value[key], one) for one in choices):
            return False
    return True


def _plain(text: str) -> str:
    return _MARKS.sub("", text).lower().replace("'", '"')
