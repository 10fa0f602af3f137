"""Hostile schemas, patterns and grammars: bounded time and memory, and errors that say why."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from osslo.engine.constraint import ConstraintCompiler
from osslo.errors import GrammarError
from osslo.harmony.bodies import JsonBody, LarkBody, RegexBody, lark_body
from osslo.harmony.grammar import GrammarOptions, build_grammar, text_grammar
from osslo.harmony.messages import FunctionTool
from osslo.harmony.schema_cost import Cost, schema_cost
from tests.harmony.hostile import BODIES, SCHEMAS, byte_compiler, peak_megabytes, run_hostile

PREPARE_S = 3.0  # of a thread of its own; 0.7 s measured
STEP_S = 0.3  # of the engine's thread; 0.04 s measured
MEGABYTES = 600


@pytest.fixture(scope="module")
def compiler() -> ConstraintCompiler:
    return byte_compiler()


@pytest.mark.parametrize("name", BODIES)
def test_costs_a_bounded_time(name: str, compiler: ConstraintCompiler) -> None:
    took = run_hostile(BODIES[name], compiler, tokens=150)
    assert took["prepare_s"] < PREPARE_S
    assert took["step_s"] < STEP_S


def test_the_corpus_costs_a_bounded_memory() -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        assert pool.submit(peak_megabytes).result() < MEGABYTES


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a reference to itself", r"\$ref"),
        ("a reference to itself by way of alternatives", r"\$ref"),
        ("a long chain of references", "levels"),
        ("patterns at once", "16 'pattern's"),
        ("patterns at once through references", "16 'pattern's"),
        ("multiples at once", "'multipleOf'"),
        ("product of alternatives", "too large"),
    ],
)
def test_refusals_name_the_cause(name: str, words: str) -> None:
    for lenient in (False, True):
        with pytest.raises(GrammarError, match=words):
            lark_body(JsonBody(SCHEMAS[name], lenient), param="parameters of tool f")


def test_tools_together_are_bounded() -> None:
    schema = {"enum": [f"{n:050d}" for n in range(4000)]}
    parameters = {"type": "object", "properties": {"x": schema}}
    tools = tuple(FunctionTool(f"f{n}", parameters=parameters) for n in range(8))
    with pytest.raises(GrammarError, match="together"):
        build_grammar(GrammarOptions(tools=tools))


def test_only_what_could_run_on_is_left_unforced() -> None:
    def forces(body: JsonBody | RegexBody | LarkBody) -> bool:
        return "no_forcing" not in build_grammar(GrammarOptions(final=body)).lark

    assert forces(JsonBody({"type": "object", "properties": {"id": {"format": "uuid"}}}))
    assert forces(JsonBody({"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"}))
    assert forces(RegexBody("[0-9]{3}-[0-9]{4}"))
    assert not forces(JsonBody(SCHEMAS["a huge minItems of fixed text"]))
    assert not forces(RegexBody("((abc){300}){300}"))
    assert not forces(LarkBody('start: "x"'))
    bare = text_grammar(RegexBody("((abc){300}){300}"), param="guided_regex")
    assert "no_forcing" in bare.grammar.lark


@pytest.mark.parametrize(
    ("schema", "cost"),
    [
        ({"type": "string"}, Cost()),
        ({"pattern": "ab{3}c"}, Cost(patterns=1, fixed_chars=18)),
        ({"allOf": [{"multipleOf": 4}, {"multipleOf": 0.6}]}, Cost(multiple=12)),
        ({"anyOf": [{"pattern": "a"}, {"format": "email"}]}, Cost(patterns=1, fixed_chars=1)),
        ({"enum": ["a", "bcd"]}, Cost(fixed_chars=5)),
        (
            {"properties": {"ab": {"const": 1}, "c": {"const": 2}}, "required": ["ab", "c"]},
            Cost(fixed_chars=13),
        ),
        ({"type": "array", "minItems": 9, "items": {"const": 1}}, Cost(fixed_chars=18)),
        (
            {"$defs": {"a": {"properties": {"n": {"$ref": "#/$defs/a"}}}}, "$ref": "#/$defs/a"},
            Cost(fixed_chars=5),
        ),
        ({"items": {"pattern": "a"}, "format": "x"}, Cost(patterns=1, fixed_chars=2)),
    ],
)
def test_costs(schema: dict[str, object], cost: Cost) -> None:
    assert schema_cost(schema) == cost
