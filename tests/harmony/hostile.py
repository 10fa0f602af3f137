"""Schemas, patterns and grammars made to hurt: each must cost a bounded time and memory."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from osslo.engine.constraint import ConstraintCompiler
from osslo.errors import GrammarError
from osslo.harmony.bodies import Body, JsonBody, LarkBody, RegexBody
from osslo.harmony.grammar import GrammarOptions, build_grammar
from tests.scripted import ByteVocabulary

Schema = dict[str, Any]


def _nest(levels: int, wrap: Callable[[Any], Schema]) -> Schema:
    schema: Schema = {"type": "string"}
    for _ in range(levels):
        schema = wrap(schema)
    return schema


def _pair(member: Any) -> Schema:
    return {
        "type": "object",
        "properties": {"x": member, "y": member},
        "required": ["x", "y"],
        "additionalProperties": False,
    }


def _doubling(levels: int, leaf: Schema) -> Schema:
    defs: dict[str, Any] = {f"a{n}": _pair({"$ref": f"#/$defs/a{n + 1}"}) for n in range(levels)}
    return {"$defs": {**defs, f"a{levels}": leaf}, "$ref": "#/$defs/a0"}


def _all_of_any(parts: int, branches: int) -> Schema:
    def branch(part: int, n: int) -> Schema:
        name = f"p{part}_{n}"
        return {"type": "object", "properties": {name: {"const": n}}, "required": [name]}

    return {"allOf": [{"anyOf": [branch(p, n) for n in range(branches)]} for p in range(parts)]}


SCHEMAS: Mapping[str, Schema] = {
    "numbers beyond every float": {
        "type": "object",
        "properties": {"n": {"type": "integer", "maximum": 10**400}, "m": {"const": 10**400}},
        "default": 10**400,
    },
    "product of alternatives": _all_of_any(8, 6),
    "longer product of alternatives": _all_of_any(12, 4),
    "nested alternatives": _nest(
        7, lambda s: {"anyOf": [s, {"type": "array", "items": s}, {"properties": {"k": s}}]}
    ),
    "overlapping alternatives": {
        "oneOf": [
            {"type": "object", "properties": {f"k{n}": {"type": "string"}}, "required": [f"k{n}"]}
            for n in range(300)
        ]
    },
    "ambiguous alternatives": {
        "anyOf": [{"type": "array", "items": {"anyOf": [{"type": "string"}] * 40}}] * 40
    },
    "references that double": _doubling(30, {"type": "string"}),
    "fixed text that doubles": _doubling(16, {"const": "x" * 1000}),
    "recursion without end": {
        "$defs": {
            "n": {
                "type": "object",
                "properties": {"c": {"$ref": "#/$defs/n"}},
                "required": ["c"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/n",
    },
    "a reference to itself": {"$defs": {"n": {"$ref": "#/$defs/n"}}, "$ref": "#/$defs/n"},
    "a reference to itself by way of alternatives": {
        "$defs": {"n": {"anyOf": [{"$ref": "#/$defs/m"}]}, "m": {"$ref": "#/$defs/n"}},
        "$ref": "#/$defs/n",
    },
    "a long chain of references": {
        "$defs": {f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(2000)}
        | {"a2000": {"type": "string"}},
        "$ref": "#/$defs/a0",
    },
    "many optional members": {
        "type": "object",
        "properties": {f"p{n}": {"type": "string"} for n in range(2000)},
    },
    "many required members": {
        "type": "object",
        "properties": {f"p{n}": {"type": "string"} for n in range(2000)},
        "required": [f"p{n}" for n in range(2000)],
    },
    "a huge enum": {"enum": [f"v{n * 7919 % 100003}" for n in range(15_000)]},
    "long enum members": {"enum": ["x" * 20_000 + str(n) for n in range(10)]},
    "a huge constant": {"const": [list(range(2000))] * 10},
    "a huge maxLength": {"type": "string", "maxLength": 10**9},
    "a huge minLength": {"type": "string", "minLength": 10**6},
    "a huge maxItems": {"type": "array", "items": {"type": "string"}, "maxItems": 10**6},
    "a huge minItems": {"type": "array", "items": {"type": "string"}, "minItems": 10**6},
    "a huge minItems of fixed text": {
        "type": "array",
        "items": {"const": "x y " * 250},
        "minItems": 10_000,
    },
    "a huge minProperties": {"type": "object", "minProperties": 1000, "maxProperties": 5000},
    "nested repetitions": {"type": "string", "pattern": "^(([a-z]{1,100}){1,100}){1,100}$"},
    "nested repetitions of nothing": {"type": "string", "pattern": "^((a{0,50}){0,50}){0,50}$"},
    "a fixed text of 10^8 letters": {"type": "string", "pattern": "^(((a){1000}){1000}){100}$"},
    "an exponential automaton": {"type": "string", "pattern": "(a|b)*a(a|b){100}"},
    "a larger exponential automaton": {"type": "string", "pattern": "(.|\n)*a(.|\n){400}"},
    "long runs of letters": {"type": "string", "pattern": "^(\\p{L}{1,200}\\p{N}{1,200}){1,50}$"},
    "patterns at once": {
        "allOf": [{"type": "string", "pattern": f".*{c}.*{c}.*"} for c in "abcdefghijklmnop"]
    },
    "patterns at once through references": {
        "$defs": {c: {"pattern": f".*{c}.*{c}.*"} for c in "abcdefghijklmnop"},
        "allOf": [{"$ref": f"#/$defs/{c}"} for c in "abcdefghijklmnop"],
    },
    "a multiple in a huge range": {
        "type": "integer",
        "multipleOf": 997,
        "minimum": -(10**15),
        "maximum": 10**15,
    },
    "multiples at once": {"allOf": [{"type": "integer", "multipleOf": m} for m in (97, 89, 83)]},
    "a tiny fraction": {"type": "number", "multipleOf": 1e-300},
    "many ranges": {
        "type": "array",
        "prefixItems": [
            {"type": "integer", "minimum": -123456789012345 - n, "maximum": 987654321098765 + n}
            for n in range(100)
        ],
    },
    "anything of anything": {"type": "object", "additionalProperties": {"$ref": "#"}},
}

GRAMMARS: Mapping[str, str] = {
    "doubling rules": "start: a0\n"
    + "".join(f"a{n}: a{n + 1} a{n + 1}\n" for n in range(30))
    + 'a30: "x"',
    "doubling long rules": "start: a0\n"
    + "".join(f"a{n}: a{n + 1} a{n + 1}\n" for n in range(20))
    + f'a20: "{"x" * 500}"',
    "a rule of itself": "start: start start",
    "a rule that is itself": "start: a\na: a",
    "no end": 'start: "a" start',
    "ambiguous": 'start: e\ne: e e e | e e | "x" |',
    "nested repetitions": 'start: (("a"{1000}){1000}){1000}',
    "terminals that double": 'start: A\nA: B{1000}\nB: C{1000}\nC: "x"{1000}',
    "a fixed text of 10^8 letters": "start: /(((abc){1000}){1000}){100}/",
    "deep brackets": "start: " + "(" * 20_000 + '"a"' + ")" * 20_000,
    "nested stars": 'start: a*\na: b*\nb: c*\nc: "x"?',
}

PATTERNS: Mapping[str, str] = {
    "a fixed text of 10^8 letters": "(((abc){1000}){1000}){100}",
    "nested repetitions": "(([a-z]{1,100}){1,100}){1,100}",
    "an exponential automaton": "(.|\n)*a(.|\n){400}",
    "nested stars": "((a*)*)*b",
}

BODIES: Mapping[str, Body] = {
    **{f"schema: {name}": JsonBody(schema) for name, schema in SCHEMAS.items()},
    **{f"lenient schema: {name}": JsonBody(schema, True) for name, schema in SCHEMAS.items()},
    **{f"grammar: {name}": LarkBody(lark) for name, lark in GRAMMARS.items()},
    **{f"pattern: {name}": RegexBody(pattern) for name, pattern in PATTERNS.items()},
}


class ByteTable(ByteVocabulary):
    def token_table(self) -> list[bytes]:
        return [self.token_bytes(token) for token in range(self.vocab_size)]


def byte_compiler() -> ConstraintCompiler:
    vocabulary = ByteTable()
    ends = [vocabulary.specials["<|return|>"], vocabulary.specials["<|call|>"]]
    return ConstraintCompiler(vocabulary, ends)


def run_hostile(body: Body, compiler: ConstraintCompiler, *, tokens: int) -> dict[str, float]:
    """Seconds of the preparing thread (`prepare_s`) and of the slowest step (`step_s`). What is
    refused with a `GrammarError`, before or while running, is answered well."""
    took = {"prepare_s": 0.0, "step_s": 0.0}
    begun = time.process_time()
    try:
        grammar = build_grammar(GrammarOptions(final=body, analysis="skip"))
        constraint = compiler.compile(grammar)
    except GrammarError:
        return took | {"prepare_s": time.process_time() - begun}
    took["prepare_s"] = time.process_time() - begun
    random = np.random.default_rng(0)
    row = np.zeros(ByteVocabulary.vocab_size, dtype=np.float32)
    done = 0
    while done < tokens:
        begun = time.process_time()
        try:
            forced = constraint.forced()
            if not forced:
                if constraint.finished:
                    break
                row[:] = 0.0
                constraint.mask(row)
                forced = [int(random.choice(np.flatnonzero(np.isfinite(row))))]
            for token in forced:
                constraint.advance(token)
        except GrammarError:
            break
        finally:
            took["step_s"] = max(took["step_s"], time.process_time() - begun)
        done += len(forced)
    return took


def peak_megabytes() -> float:
    """Peak memory of a process that runs the whole corpus; for a process of its own."""
    compiler = byte_compiler()
    for body in BODIES.values():
        run_hostile(body, compiler, tokens=60)
    # Not `ru_maxrss`: Linux keeps in it what the process was before it ran this program, which is
    # a copy of its parent.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024
