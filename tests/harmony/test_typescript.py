"""Details of the TypeScript-like dialect; whole prompts are compared in `test_render`."""

from __future__ import annotations

from typing import Any

import pytest

from osslo.harmony.messages import FunctionTool
from osslo.harmony.typescript import Namespace, json_text, split_lines, tools_section, type_of


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "string"}, "string"),
        ({"type": "integer"}, "number"),
        ({"type": ["integer", "null"]}, "number | null"),
        ({"type": "string", "enum": ["a", "b"]}, '"a" | "b"'),
        ({"type": "array", "items": {"type": "array", "items": {}}}, "any[][]"),
        ({"type": "array"}, "Array<any>"),
        ({"type": "object"}, "{\n}"),
        ({"anyOf": [{"type": "string"}]}, "any"),
        ({"$ref": "#/$defs/a"}, "any"),
        ({"const": 1}, "any"),
        ({"oneOf": [{"type": "string"}, {"type": "number", "default": 1}]},
         "\n | string\n | number // default: 1"),
        (True, "any"),
        (None, "any"),
        ([], "any"),
        ({"type": 3, "properties": None}, "any"),
        ({"type": "object", "properties": [], "required": 1}, "{\n}"),
    ],
)  # fmt: skip
def test_types(schema: Any, text: str) -> None:
    assert type_of(schema) == text


def test_properties_say_what_is_optional_and_why() -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "string", "description": "first", "nullable": True},
            "b": {"type": "boolean", "default": False},
        },
        "required": ["a"],
    }
    assert type_of(schema) == "{\n// first\na: string | null,\nb?: boolean, // default: false\n}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-5, "0.00001"),
        (1.25e-05, "0.0000125"),
        (1e-6, "1e-6"),
        (-2.5e-07, "-2.5e-7"),
        (1e15, "1000000000000000.0"),
        (1e16, "1e16"),
        (-0.0, "-0.0"),
        (2**64 - 1, "18446744073709551615"),
        (2**64, "1.8446744073709552e19"),
        (10**400, f"1{'0' * 400}"),
        (True, "true"),
        (float("inf"), "null"),
        ({"a": [None, "é\n"]}, '{"a":[null,"é\\n"]}'),
    ],
)
def test_numbers_are_spelled_as_rust_spells_them(value: object, text: str) -> None:
    assert json_text(value) == text


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("\n", [""]),
        ("a\r\nb", ["a", "b"]),
        ("a\n\n", ["a", ""]),
        ("a\r", ["a\r"]),
        ("a\x0bb\u2028c", ["a\x0bb\u2028c"]),
    ],
)
def test_lines(text: str, lines: list[str]) -> None:
    assert split_lines(text) == lines


def test_a_namespace_without_tools_is_described_in_plain_text() -> None:
    assert tools_section([Namespace("x", description="One.\nTwo.")]) == (
        "# Tools\n\n## x\n\nOne.\nTwo."
    )
    assert tools_section([Namespace("x", [FunctionTool("f")], "One.")]) == (
        "# Tools\n\n## x\n\n// One.\nnamespace x {\n\ntype f = () => any;\n\n} // namespace x"
    )
