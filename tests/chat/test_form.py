"""Which grammar a request gets."""

from __future__ import annotations

import pytest

from osslo.chat.form import form_for
from osslo.chat.request import ChatRequest, JsonObject, JsonSchema, UserText
from osslo.errors import GrammarError
from osslo.harmony.grammar import ToolChoice, ToolMode, TurnGrammar, untuned_grammar
from osslo.harmony.messages import FunctionTool
from osslo.types import Grammar, SamplingParams
from tests.chat.conftest import ServeScript


def form(
    serve: ServeScript, model: dict[str, object] | None = None, **fields: object
) -> TurnGrammar | None:
    asked = ChatRequest("r", (UserText("Hi"),), SamplingParams(9), **fields)  # type: ignore[arg-type]  # as a test writes them
    return form_for(serve(**(model or {})), asked)


def lark(
    serve: ServeScript, model: dict[str, object] | None = None, **fields: object
) -> str | None:
    found = form(serve, model, **fields)
    return None if found is None else found.grammar.lark


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


def test_what_cannot_be_enforced_is_refused_if_strict_and_else_left_out_with_a_warning(
    serve: ServeScript,
) -> None:
    schema = JsonSchema("x", {"type": "array", "uniqueItems": True})
    lenient = form(serve, output_format=schema)
    assert lenient is not None
    assert "uniqueItems" in lenient.warnings[0]
    with pytest.raises(GrammarError, match="uniqueItems"):
        form(serve, output_format=schema, strict=True)
    good = JsonSchema("x", {"type": "array"})
    fine = form(serve, output_format=good)
    assert fine is not None
    assert fine.warnings == ()
