"""Output formats as vLLM spells them: `guided_*`, and the same under `structured_outputs`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import Field

from osslo.api.body import StrictSchema, refused
from osslo.api.parameters import Spelling, check_schema, same
from osslo.chat.request import ChoiceText, JsonObject, JsonSchema, LarkText, OutputFormat, RegexText
from osslo.errors import GrammarError, RequestError, UnsupportedError
from osslo.settings import LimitSettings

MAX_GUIDED_CHOICES = 10_000

_FORM_PARAMS = ("response_format", "the answer's form")
"""What turns and raw completions call the answer's form."""

Choices = list[str]


class StructuredOutputs(StrictSchema):
    """One of them: what the whole answer is."""

    json_: dict[str, Any] | str | None = Field(None, alias="json", description="A JSON schema.")
    json_object: bool | None = Field(None, description="Some JSON object.")
    regex: str | None = Field(None, description="A regular expression, Rust's syntax.")
    choice: Choices | None = Field(None, min_length=1, max_length=MAX_GUIDED_CHOICES)
    grammar: str | None = Field(None, description="A grammar in llguidance's Lark dialect.")
    whitespace_pattern: Any = refused("JSON is compact here")


class GuidedFields(StrictSchema):
    """The parameters, for request schemas to inherit."""

    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = Field(None, min_length=1, max_length=MAX_GUIDED_CHOICES)
    guided_grammar: str | None = Field(None, description="In llguidance's Lark dialect.")
    guided_decoding_backend: Any = refused("there is one backend")
    guided_whitespace_pattern: Any = refused("JSON is compact here")


def guided_format(body: GuidedFields, limits: LimitSettings) -> OutputFormat | None:
    """The format that `body` asks for in vLLM's spelling; None if it asks for none.

    Raises `RequestError` for two formats at once or a schema that is no JSON, `UnsupportedError`
    for what cannot apply.
    """
    _refuse(body)
    found = _given(body)
    if len(found) > 1:
        first, second = found[0][1].name, found[1][1].name
        raise RequestError(
            f"'{first}' and '{second}' both say what the answer is; send one of them.",
            param=second,
        )
    return _format(*found[0], limits) if found else None


@contextmanager
def blaming_guided(body: GuidedFields) -> Iterator[None]:
    """Let an error about the answer's form name the parameter that the caller used for it."""
    try:
        yield
    except GrammarError as error:
        given = _given(body)
        if not given or error.param not in _FORM_PARAMS:
            raise
        name = given[0][1].name
        message = error.message.replace(error.param, name)
        raise GrammarError(message, param=name, code=error.code) from None


def _given(body: GuidedFields) -> list[tuple[str, Spelling]]:
    """Each kind of format that `body` asks for, with the parameter that does."""
    nested = body.structured_outputs or StructuredOutputs.model_validate({})
    spellings = {
        "json": same(
            Spelling("guided_json", body.guided_json),
            Spelling("structured_outputs.json", nested.json_),
        ),
        "object": same(Spelling("structured_outputs.json_object", nested.json_object or None)),
        "regex": same(
            Spelling("guided_regex", body.guided_regex),
            Spelling("structured_outputs.regex", nested.regex),
        ),
        "choice": same(
            Spelling("guided_choice", body.guided_choice),
            Spelling("structured_outputs.choice", nested.choice),
        ),
        "grammar": same(
            Spelling("guided_grammar", body.guided_grammar),
            Spelling("structured_outputs.grammar", nested.grammar),
        ),
    }
    return [(kind, given) for kind, given in spellings.items() if given is not None]


def _refuse(body: GuidedFields) -> None:
    nested = body.structured_outputs or StructuredOutputs.model_validate({})
    refused = {
        "guided_decoding_backend": (body.guided_decoding_backend, "there is one backend"),
        "guided_whitespace_pattern": (body.guided_whitespace_pattern, "JSON is compact here"),
        "structured_outputs.whitespace_pattern": (
            nested.whitespace_pattern,
            "JSON is compact here",
        ),
    }
    for name, (value, why) in refused.items():
        if value is not None:
            raise UnsupportedError(f"'{name}' is not supported: {why}.", param=name)


def _format(kind: str, given: Spelling, limits: LimitSettings) -> OutputFormat:
    match kind:
        case "json":
            schema = _schema(given)
            check_schema(schema, given.name, limits)
            return JsonSchema("answer", schema)
        case "object":
            return JsonObject()
        case "regex":
            return RegexText(given.value)
        case "choice":
            return ChoiceText(tuple(given.value))
        case _:
            if len(given.value) > limits.max_schema_bytes:
                raise RequestError(
                    f"'{given.name}' is larger than {limits.max_schema_bytes} bytes.",
                    param=given.name,
                )
            return LarkText(given.value)


def _schema(given: Spelling) -> dict[str, Any]:
    schema = given.value
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError):
            schema = None
    if not isinstance(schema, dict):
        raise RequestError(
            f"'{given.name}' must be a JSON schema: an object, or the text of one.",
            param=given.name,
        )
    return schema
