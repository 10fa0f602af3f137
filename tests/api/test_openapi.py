"""The OpenAPI document: valid, complete, and with names that tools can work with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel, create_model

from osslo.api.body import REFUSED_MARK, StrictSchema
from osslo.api.openapi import REFS, Operation, Shapes, _query_parameters, _Schemas, operation
from tests.api.conftest import Stage, make_stage


@pytest.fixture
def document(stage: Stage) -> dict[str, Any]:
    return stage.app.openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, described in item.items():
            yield f"{method.upper()} {path}", described


def test_the_document_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    problems = [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()]
    assert problems == []


def test_every_operation_says_what_it_takes_and_gives(document: dict[str, Any]) -> None:
    """A route that forgets `operation(...)` leaves FastAPI's guesses, which this finds."""
    for name, described in operations(document):
        assert described["summary"], name
        assert described["description"], name
        assert described["tags"], name
        assert "422" not in described["responses"] or "HTTPValidationError" not in str(described)
        for status, response in described["responses"].items():
            for media in response.get("content", {}).values():
                assert media["schema"], f"{name} {status} has an empty schema"
        for media in described.get("requestBody", {}).get("content", {}).values():
            assert media["schema"], f"{name} has a body without a schema"


def test_operation_ids_are_short_and_unique(document: dict[str, Any]) -> None:
    ids = [described["operationId"] for _, described in operations(document)]
    assert sorted(set(ids)) == sorted(ids)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in ids)


def test_summaries_tell_the_operations_of_a_tag_apart(document: dict[str, Any]) -> None:
    """API testers name a folder's requests, and their files, by them."""
    names = [
        (tag, described["summary"])
        for _, described in operations(document)
        for tag in described["tags"]
    ]
    assert sorted(set(names)) == sorted(names)
    assert all(re.fullmatch(r"[A-Z][A-Za-z0-9 ,'()-]*", summary) for _, summary in names)


def test_a_key_goes_into_the_bearer_header_first(document: dict[str, Any]) -> None:
    """API testers take the first scheme for the whole collection."""
    (first,) = document["security"][0]
    scheme = document["components"]["securitySchemes"][first]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")


def test_tags_are_explained(document: dict[str, Any]) -> None:
    explained = {tag["name"] for tag in document["tags"]}
    used = {tag for _, described in operations(document) for tag in described["tags"]}
    assert used <= explained


def test_keys_are_declared_and_public_routes_say_so(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"]
    assert all(name in schemes for rule in document["security"] for name in rule)
    public = {n for n, described in operations(document) if described.get("security") == []}
    assert {"GET /health", "GET /ready", "GET /metrics", "GET /"} <= public
    assert {name for name in public if "/v1/" in name} == {
        "POST /v1/setup",
        "POST /v1/sign_up",
        "POST /v1/sessions",
        "POST /v1/password_resets",
        "GET /v1/prices",
    }


def test_whatever_streams_takes_an_idempotency_key(document: dict[str, Any]) -> None:
    streaming = {
        name: described
        for name, described in operations(document)
        if name.startswith("POST") and "text/event-stream" in str(described["responses"])
    }
    for name, described in streaming.items():
        parameters = [parameter["name"] for parameter in described.get("parameters", [])]
        assert "Idempotency-Key" in parameters, name
        assert "422" in described["responses"], name
    assert {"POST /v1/chat/completions", "POST /v1/completions"} <= set(streaming)


def test_schema_names_suit_generators(document: dict[str, Any]) -> None:
    names = list(document["components"]["schemas"])
    assert all(re.fullmatch(r"[A-Za-z0-9_]+", name) for name in names)
    assert not any("__" in name for name in names), "two classes share a name"


def test_what_is_always_refused_is_not_offered(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    chat = schemas["ChatCompletionRequest"]["properties"]
    assert {"audio", "functions", "prediction"} & set(chat) == set()
    assert {"messages", "tools", "guided_regex", "store"} <= set(chat)
    assert REFUSED_MARK not in str(document)
    assert "enum" in str(chat["service_tier"])


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            if "discriminator" in node:
                yield from node["discriminator"]["mapping"].values()
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    names = {ref.removeprefix(REFS) for ref in references(document)}
    assert names == set(document["components"]["schemas"]), "missing, or used by nothing"
    assert "ChatCompletionRequest" in names


def test_titles_are_the_names(document: dict[str, Any]) -> None:
    """Generators name classes by titles and drop those of a name that was there already."""
    for name, schema in document["components"]["schemas"].items():
        assert schema["title"] == name


def bodies(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every operation with a body, its media type and what is said of it."""
    for name, described in operations(document):
        for kind, media in described.get("requestBody", {}).get("content", {}).items():
            yield name, kind, media


def test_every_body_has_an_example_that_fits(document: dict[str, Any]) -> None:
    """Without one, API testers make bodies up, and change everything that may be changed."""
    for name, kind, media in bodies(document):
        schema = {**media["schema"], "components": document["components"]}
        if kind == "application/json":
            assert "example" in media, name
            Draft202012Validator(schema).validate(media["example"])
        else:  # of a form they read the schema's own
            form = document["components"]["schemas"][media["schema"]["$ref"].removeprefix(REFS)]
            for example in form["examples"]:
                Draft202012Validator(schema).validate(example)


async def test_examples_can_be_sent_as_they_are(document: dict[str, Any]) -> None:
    """Those that need nothing but a model, of which the scripted one has no verdicts, no account
    and no vocabulary of gpt-oss's size."""
    sent = set()
    async with make_stage().client() as client:
        for name, _, media in bodies(document):
            method, path = name.split()
            tag = document["paths"][path][method.lower()]["tags"][0]
            if tag not in ("chat", "responses", "messages", "completions", "tokens"):
                continue
            if "{" not in path and "detokenize" not in path:
                reply = await client.request(method, path, json=media["example"])
                assert reply.status_code == 200, (name, reply.text)
                sent.add(path)
    assert {"/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/complete"} <= sent
    assert {"/v1/completions", "/v1/tokenize", "/v1/conversations"} <= sent


async def test_the_form_can_be_sent_as_it_is(document: dict[str, Any], stage: Stage) -> None:
    media = document["paths"]["/v1/files"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert media["encoding"] == {"expires_after": {"style": "deepObject", "explode": True}}
    (example,) = document["components"]["schemas"]["FileUpload"]["examples"]
    fields = {
        "purpose": example["purpose"],
        "expires_after[anchor]": "created_at",
        "expires_after[seconds]": "3600",
    }
    async with stage.client() as client:
        reply = await client.post(
            "/v1/files", data=fields, files={"file": ("notes.txt", example["file"])}
        )
    assert reply.status_code == 200, reply.text
    assert reply.json()["expires_at"] == reply.json()["created_at"] + 3600


def test_the_first_example_is_the_request_that_osslo_is_for(document: dict[str, Any]) -> None:
    chat = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    example = chat["content"]["application/json"]["example"]
    assert example["model"] == "gpt-oss-20b"
    assert example["messages"][0] == {"role": "system", "content": "Reasoning: high"}


def test_queries_have_no_null(document: dict[str, Any]) -> None:
    """API testers would send a default of null as the word."""
    checked = 0
    for name, described in operations(document):
        for parameter in described.get("parameters", []):
            if parameter["in"] == "query":
                assert "null" not in json.dumps(parameter["schema"]), (name, parameter["name"])
                checked += 1
    assert checked


class _Query(StrictSchema):
    after: str | None = None
    metadata: dict[str, str] | None = None


def test_query_models_become_parameters() -> None:
    schemas = _Schemas.of([_Query])
    parameters = {p["name"]: p for p in _query_parameters(_Query, schemas)}
    assert parameters["after"]["required"] is False
    assert parameters["after"]["schema"] == {"title": "After", "type": "string"}
    assert parameters["metadata"]["style"] == "deepObject"


def test_classes_of_one_name_are_told_apart_by_their_package() -> None:
    def made(module: str, field: str) -> type[BaseModel]:
        return create_model("Thing", __base__=StrictSchema, __module__=module, **{field: (int, 1)})

    models = [made("osslo.api.responses.schema", "a"), made("osslo.api.files.schema", "b")]
    assert set(_Schemas.of(models).definitions) == {"ResponsesThing", "FilesThing"}


def test_shapes_travel_in_an_empty_dict() -> None:
    declared = operation(body=_Query, idempotent=True)
    assert isinstance(declared, Operation)
    assert isinstance(declared.shapes, Shapes)
    assert dict(declared) == {}
