"""The cache of grammars: the same options are built once, other options never share."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from osslo.errors import GrammarError
from osslo.harmony.bodies import JsonBody
from osslo.harmony.grammar import GrammarOptions, turn_grammar
from osslo.harmony.grammar_cache import GrammarCache
from osslo.harmony.messages import FunctionTool


def options(schema: Any, **fields: Any) -> GrammarOptions:
    return GrammarOptions(tools=(FunctionTool("f", parameters=schema),), **fields)


def test_the_same_options_give_the_same_object() -> None:
    cache = GrammarCache()
    first = cache.turn_grammar(options({"properties": {"a": {"type": "string"}}}))
    assert cache.turn_grammar(options({"properties": {"a": {"type": "string"}}})) is first
    assert first == turn_grammar(options({"properties": {"a": {"type": "string"}}}))
    assert len(cache) == 1


def test_whatever_differs_is_built_anew() -> None:
    cache = GrammarCache()
    schema = {"properties": {"a": {"const": 1}, "b": {"const": 2}}}
    turned = {"properties": {"b": {"const": 2}, "a": {"const": 1}}}
    asked = [
        options(schema),
        options(turned),
        options({"properties": {"a": {"const": True}, "b": {"const": 2}}}),
        options(schema, parallel_tool_calls=True),
        options(schema, lenient_schemas=True),
        options(schema, final=JsonBody({"type": "object"})),
    ]
    for one in asked:
        assert cache.turn_grammar(one) == turn_grammar(one)
    assert len(cache) == len(asked)


def test_refusals_are_remembered_and_raised_anew() -> None:
    cache = GrammarCache()
    errors = []
    for _ in range(2):
        with pytest.raises(GrammarError, match="uniqueItems") as refused:
            cache.turn_grammar(options({"properties": {"a": {"uniqueItems": True}}}))
        errors.append(refused.value)
    assert errors[0] is not errors[1]
    assert errors[0].param == errors[1].param == "parameters of tool f"
    assert len(cache) == 1


def test_it_is_bounded_in_number_and_in_text() -> None:
    few = GrammarCache(max_grammars=3)
    short = GrammarCache(max_chars=5000)
    for number in range(10):
        one = options({"properties": {"a": {"const": f"{number}" * 500}}})
        few.turn_grammar(one)
        short.turn_grammar(one)
    assert len(few) == 3
    assert 1 <= len(short) <= 4


def test_a_schema_too_deep_to_write_down_is_refused_as_ever() -> None:
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"items": schema}
    with pytest.raises(GrammarError, match="deeper"):
        GrammarCache().turn_grammar(options(schema))


def test_threads_share_it() -> None:
    cache = GrammarCache()
    found: list[object] = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        found.append(cache.turn_grammar(options({"properties": {"a": {"type": "string"}}})))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(one == found[0] for one in found)
    assert len(cache) == 1
