"""Which grammar a turn's output follows, if any.

A plain answer of a tuned model is left free: the parser copes with whatever comes. Tools, output
formats and models that do not know harmony get a grammar over the whole turn.
"""

from __future__ import annotations

from osslo.chat.models import ServedModel
from osslo.chat.request import ChatRequest, JsonObject, JsonSchema, OutputFormat, PlainText
from osslo.harmony.bodies import JSON_OBJECT, Body, JsonBody, TextBody
from osslo.harmony.grammar import GrammarOptions, build_grammar
from osslo.types import Grammar


def grammar_for(model: ServedModel, request: ChatRequest) -> Grammar | None:
    """The grammar that tools and output format ask for, else the model's default, else None.

    Raises `GrammarError` naming the keyword of a schema that cannot be enforced.
    """
    reasons = model.reasons and request.reasoning
    plain = isinstance(request.output_format, PlainText) and not request.tools
    if plain and (reasons or model.default_grammar is not None):
        return model.default_grammar
    return build_grammar(
        GrammarOptions(
            tools=request.tools,
            tool_choice=request.tool_choice,
            parallel_tool_calls=request.parallel_tool_calls,
            final=_final_body(request.output_format, strict=request.strict),
            analysis="free" if reasons else "skip",
            lenient_schemas=not request.strict,
        )
    )


def _final_body(output: OutputFormat, *, strict: bool) -> Body:
    match output:
        case PlainText():
            return TextBody()
        case JsonObject():
            return JsonBody(JSON_OBJECT)
        case JsonSchema(schema=schema):
            return JsonBody(schema, lenient=not strict)
