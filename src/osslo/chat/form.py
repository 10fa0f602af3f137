"""Which grammar a turn's output follows, if any.

A plain answer of a tuned model is left free: the parser copes with whatever comes. Tools, output
formats and models that do not know harmony get a grammar over the whole turn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from osslo.chat.models import ServedModel
from osslo.chat.request import ChatRequest, JsonObject, JsonSchema, OutputFormat, PlainText
from osslo.errors import GrammarError
from osslo.harmony.bodies import JSON_OBJECT, Body, JsonBody, TextBody
from osslo.harmony.grammar import GrammarOptions, build_grammar
from osslo.types import Grammar


@dataclass(frozen=True, slots=True)
class Form:
    """A turn's grammar, None where output is free. `warnings` name what it does not enforce."""

    grammar: Grammar | None
    warnings: tuple[str, ...] = ()


def form_for(model: ServedModel, request: ChatRequest) -> Form:
    """The form that tools and output format ask for, else the model's default.

    Raises `GrammarError` naming the keyword of a schema that cannot be enforced, if the request is
    strict; otherwise that keyword is left out with a warning.
    """
    reasons = model.reasons and request.reasoning
    plain = isinstance(request.output_format, PlainText) and not request.tools
    if plain and (reasons or model.default_grammar is not None):
        return Form(model.default_grammar)
    options = GrammarOptions(
        tools=request.tools,
        tool_choice=request.tool_choice,
        parallel_tool_calls=request.parallel_tool_calls,
        final=_final_body(request.output_format),
        analysis="free" if reasons else "skip",
    )
    try:
        return Form(build_grammar(options))
    except GrammarError as error:
        if request.strict:
            raise
        return Form(build_grammar(_lenient(options)), (f"Not enforced: {error.message}",))


def _lenient(options: GrammarOptions) -> GrammarOptions:
    final = options.final
    if isinstance(final, JsonBody):
        final = replace(final, lenient=True)
    return replace(options, final=final, lenient_schemas=True)


def _final_body(output: OutputFormat) -> Body:
    match output:
        case PlainText():
            return TextBody()
        case JsonObject():
            return JsonBody(JSON_OBJECT)
        case JsonSchema(schema=schema):
            return JsonBody(schema)
