"""Tools as the model reads them: JSON schemas in the TypeScript-like dialect of harmony.

gpt-oss was trained on one exact spelling, so the output equals openai-harmony's character for
character, oddities included: `anyOf`, `const` and `$ref` read `any`, and a union that already
mentions `null` anywhere gets no second one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from osslo.harmony.messages import FunctionTool

Schema = Any  # JSON: most often an object, but `true` and malformed schemas must pass too


@dataclass(frozen=True, slots=True)
class Namespace:
    """A group of tools under one name: `functions`, `browser`, `python`."""

    name: str
    tools: Sequence[FunctionTool] = ()
    description: str = ""


def tools_section(namespaces: Iterable[Namespace]) -> str:
    """The `# Tools` section that declares every namespace, in the order given."""
    return "\n\n".join(["# Tools", *map(_namespace, namespaces)])


def _namespace(namespace: Namespace) -> str:
    lines = [f"## {namespace.name}\n"]
    comment = "// " if namespace.tools else ""
    lines += [f"{comment}{line}" for line in split_lines(namespace.description)]
    if namespace.tools:
        lines.append(f"namespace {namespace.name} {{\n")
        for tool in namespace.tools:
            lines += [f"// {line}" for line in split_lines(tool.description)]
            lines.append(_declaration(tool))
        lines.append(f"}} // namespace {namespace.name}")
    return "\n".join(lines)


def _declaration(tool: FunctionTool) -> str:
    if tool.parameters is None:
        return f"type {tool.name} = () => any;\n"
    return f"type {tool.name} = (_: {type_of(tool.parameters)}) => any;\n"


def split_lines(text: str) -> list[str]:
    """Lines by `\\n` or `\\r\\n`, without an empty one after a trailing line end."""
    lines = text.split("\n")
    last = lines.pop()
    lines = [line.removesuffix("\r") for line in lines]
    return [*lines, last] if last else lines


# --- types ----------------------------------------------------------------------------------------


def type_of(schema: Schema, indent: str = "") -> str:
    """The type a JSON schema describes; nested members are commented at `indent`."""
    variants = _get(schema, "oneOf")
    if isinstance(variants, list):
        return _union(variants, indent)
    declared = _get(schema, "type")
    if isinstance(declared, list):
        names = ["number" if name == "integer" else name for name in declared if _is_str(name)]
        return " | ".join(names) or "any"
    match declared:
        case "object":
            return _object(schema, indent)
        case "array":
            items = _get(schema, "items", _ABSENT)
            return "Array<any>" if items is _ABSENT else f"{type_of(items, indent)}[]"
        case "string":
            values = _get(schema, "enum")
            names = [f'"{v}"' for v in values if _is_str(v)] if isinstance(values, list) else []
            return " | ".join(names) or "string"
        case "integer" | "number":
            return "number"
        case "boolean":
            return "boolean"
        case _:
            return "any"


def _union(variants: list[Schema], indent: str) -> str:
    """A `oneOf` where a type is expected: one variant a line, remarks behind each."""
    out = ""
    for variant in variants:
        remarks = _strings(_get(variant, "description"))
        remarks += _default(variant, quote_enum=True)
        out += f"\n{indent} | {_nullable(variant, f'{indent}   ')}{_trailing(remarks)}"
    return out


def _object(schema: Schema, indent: str) -> str:
    out = "".join(f"{indent}// {text}\n" for text in _strings(_get(schema, "description")))
    out += "{\n"
    properties = _get(schema, "properties")
    if isinstance(properties, Mapping):
        required = _get(schema, "required")
        names = set(_strings_in(required))
        for name, member in properties.items():
            out += _member(name if name in names else f"{name}?", member, indent)
    return f"{out}{indent}}}"


def _member(label: str, member: Schema, indent: str) -> str:
    """One property: its comments, its type, its default."""
    out = "".join(f"{indent}// {t}\n{indent}//\n" for t in _strings(_get(member, "title")))
    has_one_of = _get(member, "oneOf", _ABSENT) is not _ABSENT
    if not has_one_of:
        out += "".join(f"{indent}// {t}\n" for t in _strings(_get(member, "description")))
    examples = _get(member, "examples")
    if isinstance(examples, list) and examples:
        out += f"{indent}// Examples:\n"
        out += "".join(f'{indent}// - "{text}"\n' for text in _strings_in(examples))
    variants = _get(member, "oneOf")
    if isinstance(variants, list):
        return out + _union_member(label, member, variants, indent)
    remarks = [] if has_one_of else _default(member, quote_enum=False)
    return f"{out}{indent}{label}: {_nullable(member, f'{indent}    ')},{_trailing(remarks)}\n"


def _union_member(label: str, member: Schema, variants: list[Schema], indent: str) -> str:
    """A property whose schema is a `oneOf`. Its description stands above, unless the first variant
    says the same; where it does stand above, the first variant's own is left out."""
    described = _strings(_get(member, "description"))
    first = _strings(_get(variants[0], "description")) if variants else []
    above = described if described != first else []
    out = "".join(f"{indent}// {text}\n" for text in above + _default(member, quote_enum=False))
    out += f"{indent}{label}:\n"
    for number, variant in enumerate(variants):
        remarks = _strings(_get(variant, "description"))
        if (number == 0 and above) or remarks == described:
            remarks = []
        remarks = remarks + _default(variant, quote_enum=False)
        out += f"{indent} | {_nullable(variant, f'{indent}   ')}{_trailing(remarks)}\n"
    return f"{out}{indent},\n"


def _nullable(schema: Schema, indent: str) -> str:
    text = type_of(schema, indent)
    if _get(schema, "nullable") is True and "null" not in text:
        return f"{text} | null"
    return text


def _default(schema: Schema, *, quote_enum: bool) -> list[str]:
    """The remark on a default value, as a list of none or one."""
    value = _get(schema, "default", _ABSENT)
    if value is _ABSENT:
        return []
    if not isinstance(value, str):
        return [f"default: {json_text(value)}"]
    values = _get(schema, "enum")
    if isinstance(values, list) and values:
        return [f"default: {json_text(value) if quote_enum else value}"]
    return [f'default: "{value}"']


def _trailing(remarks: list[str]) -> str:
    return f" // {' '.join(remarks)}" if remarks else ""


# --- JSON -----------------------------------------------------------------------------------------

_ABSENT = object()


def _get(schema: Schema, key: str, default: object = None) -> Any:
    return schema.get(key, default) if isinstance(schema, Mapping) else default


def _is_str(value: object) -> bool:
    return isinstance(value, str)


def _strings(value: object) -> list[str]:
    return [value] if isinstance(value, str) else []


def _strings_in(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def json_text(value: object) -> str:
    """Compact JSON with numbers spelled as Rust's serde_json spells them (`1e-7`, `1e16`)."""
    match value:
        case Mapping():
            items = (f"{json_text(str(key))}:{json_text(item)}" for key, item in value.items())
            return f"{{{','.join(items)}}}"
        case list() | tuple():
            return f"[{','.join(map(json_text, value))}]"
        case float():
            return _float_text(value)
        case int() if not isinstance(value, bool) and not -(2**63) <= value < 2**64:
            return _large_text(value)
        case _:
            return json.dumps(value, ensure_ascii=False)


def _large_text(value: int) -> str:
    """An integer of more than 64 bits, which serde_json reads as a float; one that no float holds
    it cannot read, so that its digits stand as they are."""
    try:
        return _float_text(float(value))
    except OverflowError:
        return json.dumps(value)


def _float_text(value: float) -> str:
    if not math.isfinite(value):
        return "null"
    text = repr(value)
    if text.endswith("e-05"):  # Rust writes exponents from -6 on
        return f"{Decimal(text):f}"
    return re.sub(r"e([+-]?)0*", lambda sign: f"e{sign[1].strip('+')}", text)
