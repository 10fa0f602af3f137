"""Which grammar a turn's output follows, if any.

A plain answer of a tuned model is left free: the parser copes with whatever comes. Tools, output
formats, a budget of reasoning and models that do not know harmony get a grammar over the whole
turn.
"""

from __future__ import annotations

from osslo.chat.models import ServedModel
from osslo.chat.request import (
    ChatRequest,
    ChoiceText,
    JsonObject,
    JsonSchema,
    LarkText,
    OutputFormat,
    PlainText,
    RegexText,
)
from osslo.errors import RequestError
from osslo.harmony.bodies import (
    JSON_OBJECT,
    Body,
    ChoiceBody,
    JsonBody,
    LarkBody,
    RegexBody,
    TextBody,
)
from osslo.harmony.grammar import GrammarOptions, ToolMode, TurnGrammar, text_grammar


def form_for(model: ServedModel, request: ChatRequest) -> TurnGrammar | None:
    """The grammar that tools and output format ask for, else the model's default; None where
    output is free.

    Raises `GrammarError` naming what cannot be enforced and is not to be left out, `RequestError`
    for a `prefill` where the turn must be a call.
    """
    if request.prefill and request.tool_choice.mode is ToolMode.REQUIRED:
        raise RequestError(
            "the answer's beginning is given, but tool_choice requires a call; leave one out",
            param="tool_choice",
        )
    reasons = model.reasons and request.reasoning and not request.prefill
    if request.is_free and (reasons or request.prefill or model.default_grammar is not None):
        return None if model.default_grammar is None else TurnGrammar(model.default_grammar)
    return model.grammars.turn_grammar(
        GrammarOptions(
            tools=request.tools,
            custom_tools=request.custom_tools,
            tool_choice=request.tool_choice,
            parallel_tool_calls=request.parallel_tool_calls,
            final=_final_body(request),
            analysis="free" if reasons else "skip",
            analysis_max_tokens=request.reasoning_max_tokens,
            max_calls=request.max_tool_calls,
            lenient_schemas=not request.strict,
        )
    )


def text_form(output_format: OutputFormat) -> TurnGrammar | None:
    """The grammar of a bare text in that form, without any chat format around it; None where it is
    free. What a schema holds that cannot be enforced is left out, with a warning."""
    if isinstance(output_format, PlainText):
        return None
    return text_grammar(_body(output_format, strict=False), param="the answer's form")


def _final_body(request: ChatRequest) -> Body:
    return _body(request.output_format, strict=request.strict)


def _body(output_format: OutputFormat, *, strict: bool) -> Body:
    """What a text in that form is; `strict` for formats that do not say."""
    match output_format:
        case PlainText():
            return TextBody()
        case JsonObject():
            return JsonBody(JSON_OBJECT)
        case JsonSchema(schema=schema, strict=own):
            return JsonBody(schema, lenient=not (strict if own is None else own))
        case RegexText(pattern):
            return RegexBody(pattern)
        case LarkText(grammar):
            return LarkBody(grammar)
        case ChoiceText(choices):
            return ChoiceBody(choices)
