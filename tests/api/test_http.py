"""What is the same on every path: keys, errors, ids, bodies, health, documents."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from osslo.api.app import create_app
from osslo.api.shapes import ErrorReply
from osslo.settings import LimitSettings
from osslo.telemetry import Metrics
from tests.api.conftest import Stage, ask, make_stage

URL = "/v1/chat/completions"


@pytest.mark.parametrize("key", [None, "sk-wrong", "", "sk-tëst"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/gpt-oss-20b"])
async def test_no_key_or_a_wrong_one_is_401(stage: Stage, key: str | None, path: str) -> None:
    async with stage.client(None) as client:
        headers = {} if key is None else {"authorization": f"Bearer {key}".encode()}
        response = await client.get(path, headers=headers)
    error = ErrorReply.model_validate_json(response.text).error
    assert response.status_code == 401
    assert error.code == ("invalid_api_key" if key else "missing_api_key")
    assert response.headers["www-authenticate"] == "Bearer"


async def test_the_key_is_asked_for_before_the_body_is_read(stage: Stage) -> None:
    async with stage.client("sk-wrong") as client:
        assert (await client.post(URL, content=b"{")).status_code == 401


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/metrics", "/docs", "/openapi.json"])
async def test_what_needs_no_key(stage: Stage, path: str) -> None:
    async with stage.client(None) as client:
        assert (await client.get(path)).status_code == 200


async def test_models_say_plainly_what_is_served(stage: Stage) -> None:
    async with stage.client() as client:
        listed = (await client.get("/v1/models")).json()
        alias = (await client.get("/v1/models/gpt-oss-20b")).json()
        missing = await client.get("/v1/models/org/nonesuch")
    assert [model["id"] for model in listed["data"]] == ["scripted-model", "gpt-oss-20b"]
    assert alias["osslo"]["served"] == "scripted-model"
    assert alias["osslo"]["note"] == "A script, not a model."
    assert alias["object"] == "model"
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


async def test_unknown_routes_and_methods_have_the_error_shape(stage: Stage) -> None:
    async with stage.client() as client:
        missing = await client.get("/v1/nonesuch")
        wrong = await client.put(URL)
    assert (missing.status_code, wrong.status_code) == (404, 405)
    assert ErrorReply.model_validate_json(missing.text).error.code == "unknown_url"
    assert ErrorReply.model_validate_json(wrong.text).error.code == "method_not_allowed"
    assert set(wrong.headers["allow"].split(", ")) <= {"GET", "POST"}


async def test_request_ids_are_taken_over_if_plain_and_made_otherwise(stage: Stage) -> None:
    async with stage.client() as client:
        taken = await client.get("/health", headers={"x-request-id": "my-id.1"})
        made = await client.get("/health", headers={"x-request-id": "bad id\t" * 5})
    assert taken.headers["x-request-id"] == "my-id.1"
    assert made.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b"null", "invalid_json"),
        (b'{"model": NaN}', "invalid_json"),
        (b'{"model": "\\ud800"}', "invalid_json"),
        (b'{"model": "\xff"}', "invalid_utf8"),
        (b'{"model": "x", "seed": ' + b"9" * 5000 + b"}", "invalid_json"),
        (b'{"a":' * 100_000, "invalid_json"),
    ],
)
async def test_bodies_that_are_no_json_object(stage: Stage, body: bytes, code: str) -> None:
    async with stage.client() as client:
        response = await client.post(URL, content=body)
    assert response.status_code == 400
    assert ErrorReply.model_validate_json(response.text).error.code == code


async def test_json_needs_no_content_type(stage: Stage) -> None:
    async with stage.client() as client:
        response = await client.post(URL, content=json.dumps(ask()).encode())
    assert response.status_code == 200


async def test_draining_refuses_new_work_and_is_not_ready(stage: Stage) -> None:
    stage.services.lifecycle.drain()
    async with stage.client() as client:
        refused = await client.post(URL, json=ask())
        ready = await client.get("/ready")
        health = await client.get("/health")
    assert (refused.status_code, ready.status_code, health.status_code) == (503, 503, 200)
    assert refused.json()["error"]["code"] == "shutting_down"
    assert refused.headers["retry-after"] == "5"


async def test_not_ready_while_the_backend_is_not(stage: Stage) -> None:
    stage.backend.ready = False
    async with stage.client() as client:
        response = await client.get("/ready")
    assert (response.status_code, response.json()["status"]) == (503, "loading")


async def test_metrics_count_requests_turns_and_tokens(stage: Stage) -> None:
    async with stage.client() as client:
        await client.post(URL, json=ask())
        text = (await client.get("/metrics")).text
    assert (
        'osslo_http_requests_total{method="POST",route="/v1/chat/completions",status="200"} 1.0'
        in text
    )
    assert 'osslo_turns_total{model="scripted-model",reason="stop"} 1.0' in text
    assert 'osslo_tokens_total{kind="reasoning",model="scripted-model"}' in text
    assert 'osslo_engine_pages_total{model="scripted-model"} 10.0' in text
    assert 'osslo_engine_disk_files_damaged{model="scripted-model"} 2.0' in text
    assert "osslo_http_in_flight 1.0" in text


async def test_two_applications_do_not_share_counters() -> None:
    first, second = make_stage(), make_stage()
    async with first.client() as client:
        await client.post(URL, json=ask())
    async with second.client() as client:
        assert "osslo_turns_total{" not in (await client.get("/metrics")).text


async def test_documents_need_no_network(stage: Stage) -> None:
    async with stage.client(None) as client:
        answer = await client.get("/docs")
        page = answer.text
        start = await client.get("/docs/assets/start.js")
        script = await client.get("/docs/assets/swagger-ui-bundle.js")
        missing = await client.get("/docs/assets/other.js")
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "<script>" not in page
    assert start.headers["content-type"].startswith("text/javascript")
    assert "http://" not in page
    assert "https://" not in page
    assert script.status_code == 200
    assert len(script.content) > 500_000
    assert missing.status_code == 404


async def test_every_reference_of_the_openapi_document_resolves(stage: Stage) -> None:
    document = stage.app.openapi()
    schemas = document["components"]["schemas"]

    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [ref for value in node.values() for ref in references(value)]
        if isinstance(node, list):
            return [ref for value in node for ref in references(value)]
        return []

    names = {ref.removeprefix("#/components/schemas/") for ref in references(document)}
    assert names <= set(schemas)
    assert "ChatCompletionRequest" in names
    formats = [name for name in schemas if name.endswith("JsonSchemaFormat")]
    assert len(formats) >= 2  # each protocol has its own
    assert all("schema" in schemas[name]["properties"] for name in formats)


async def test_a_bug_of_ours_is_a_plain_500(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise ValueError("secret detail")

    object.__setattr__(stage.services, "today", broken)
    async with stage.client() as client:
        response = await client.post(URL, json=ask())
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.json()["error"]["type"] == "server_error"
    assert response.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("declared", [True, False])
async def test_oversize_bodies_are_413_with_and_without_a_length(declared: bool) -> None:
    stage = make_stage(limits=LimitSettings(max_body_bytes=2000))

    async def chunks() -> Any:
        for _ in range(10):
            yield b" " * 500

    content: Any = b" " * 5000 if declared else chunks()
    async with stage.client() as client:
        response = await client.post(URL, content=content)
    assert response.status_code == 413
    assert ErrorReply.model_validate_json(response.text).error.code == "body_too_large"


async def _preflight(stage: Stage, origin: str) -> Any:
    headers = {"origin": origin, "access-control-request-method": "POST"}
    async with stage.client(None) as client:
        return await client.options(URL, headers=headers)


async def test_other_origins_are_kept_out_unless_a_setting_names_them(stage: Stage) -> None:
    refused = await _preflight(stage, "https://app.example")
    assert "access-control-allow-origin" not in refused.headers
    services = replace(stage.services, cors_origins=("https://app.example",), metrics=Metrics())
    open_stage = Stage(create_app(services), services, stage.backend)
    allowed = await _preflight(open_stage, "https://app.example")
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-credentials" not in allowed.headers
    assert (
        "access-control-allow-origin"
        not in (await _preflight(open_stage, "https://evil.example")).headers
    )
    async with open_stage.client() as client:
        answer = await client.post(URL, json=ask(), headers={"origin": "https://app.example"})
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/responses", {"input": "Hi"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 400}),
        ("/v1/completions", {"prompt": "Hi"}),
        ("/v1/complete", {"prompt": "Hi", "max_tokens_to_sample": 400}),
    ],
)
async def test_whole_answers_say_where_their_time_went(path: str, fields: dict[str, Any]) -> None:
    async with make_stage().client() as client:
        reply = await client.post(path, json={"model": "gpt-oss-20b"} | fields)
    assert reply.headers["server-timing"] == "queued;dur=100.0, prefill;dur=200.0, decode;dur=300.0"
    assert int(reply.headers["openai-processing-ms"]) >= 0


def test_every_test_that_the_documents_name_is_there() -> None:
    root = Path(__file__).parents[2]
    written = "\n".join(path.read_text() for path in (root / "tests").rglob("test_*.py"))
    named = (root / "docs" / "api.md").read_text()
    assert [
        name for name in re.findall(r"`(test_\w+)`", named) if f"def {name}(" not in written
    ] == []
    files = set(re.findall(r"`(?:tests/)?((?:\w+/)?test_\w+\.py)`", named))
    assert [name for name in files if not list((root / "tests").rglob(name))] == []
