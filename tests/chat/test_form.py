"""Which grammar a request gets."""

from __future__ import annotations

import pytest

from osslo.chat.form import grammar_for
from osslo.chat.request import ChatRequest, JsonObject, JsonSchema, UserText
from osslo.errors import GrammarError
from osslo.harmony.grammar import ToolChoice, ToolMode, untuned_grammar
from osslo.harmony.messages import FunctionTool
from osslo.types import Grammar, SamplingParams
from tests.chat.conftest import ServeScript


def lark(
    serve: ServeScript, model: dict[str, object] | None = None, **fields: object
) -> str | None:
    asked = ChatRequest("r", (UserText("Hi"),), SamplingParams(9), **fields)  # type: ignore[arg-type]  # as a test writes them
    grammar = grammar_for(serve(**(model or {})), asked)
    return None if grammar is None else grammar.lark


def test_a_plain_answer_is_free(serve: ServeScript) -> None:
    assert lark(serve) is None


def test_a_plain_answer_follows_the_models_default(serve: ServeScript) -> None:
    assert lark(serve, {"default_grammar": Grammar("start: /x/")}) == "start: /x/"


def test_a_model_that_does_not_reason_answers_at_once(serve: ServeScript) -> None:
    assert lark(serve, {"reasons": False}) == untuned_grammar().lark
    assert lark(serve, reasoning=False) == untuned_grammar().lark


def test_tools_bring_a_grammar_with_their_names_and_schemas(serve: ServeScript) -> None:
    tool = FunctionTool("f", parameters={"type": "object", "properties": {"q": {"const": "zz"}}})
    text = lark(serve, tools=(tool,))
    assert text is not None
    assert "functions.f" in text
    assert "zz" in text
    forced = lark(serve, tools=(tool,), tool_choice=ToolChoice(ToolMode.REQUIRED))
    assert forced is not None
    assert "final" not in forced
    none = lark(serve, tools=(tool,), tool_choice=ToolChoice(ToolMode.NONE))
    assert none is not None
    assert "functions.f" not in none


def test_output_formats_bring_a_grammar(serve: ServeScript) -> None:
    assert "%json" in (lark(serve, output_format=JsonObject()) or "")
    schema = JsonSchema("x", {"type": "object", "properties": {"qq": {"type": "integer"}}})
    assert "qq" in (lark(serve, output_format=schema) or "")


def test_what_cannot_be_enforced_is_refused_only_when_strict(serve: ServeScript) -> None:
    schema = JsonSchema("x", {"type": "array", "uniqueItems": True})
    assert lark(serve, output_format=schema) is not None
    with pytest.raises(GrammarError, match="uniqueItems"):
        lark(serve, output_format=schema, strict=True)
