"""The OpenAPI document in API testers: Postman's importer takes it, and what it makes can be sent.

Both programs are Postman's own, as a lock file pins them. What other testers need of the document
is in `tests/api/test_openapi.py`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import KEY
from tests.contract.conftest import StartServer, npm_folder

SENT = ("chat", "responses", "messages", "completions", "models", "files", "server")
"""Folders whose requests are sent; a scripted model has neither verdicts nor gpt-oss's tokens."""


@pytest.fixture(scope="module")
def postman(build_cache: Path) -> Path:
    """A folder with Postman's importer and runner."""
    return npm_folder(Path(__file__).parent / "importers", build_cache)


def test_postman_imports_what_can_be_sent(
    start_server: StartServer, postman: Path, tmp_path: Path
) -> None:
    url, stage = start_server()
    document, collection = tmp_path / "openapi.json", tmp_path / "collection.json"
    document.write_text(json.dumps(stage.app.openapi()))
    options = "folderStrategy=Tags,parametersResolution=Example,enableOptionalParameters=false"
    _run(postman, "openapi2postmanv2", "-s", document, "-o", collection, "-O", options)
    imported = json.loads(collection.read_text())
    assert imported["auth"]["bearer"][0] | {"type": ""} == {
        "key": "token",
        "type": "",
        "value": "{{bearerToken}}",
    }
    assert [variable["key"] for variable in imported["variable"]] == ["baseUrl"]
    assert [folder["name"] for folder in imported["item"]][:3] == ["chat", "responses", "messages"]
    for name, request in requests(imported):
        enabled = [field for field in request["url"].get("query", []) if not field.get("disabled")]
        assert all(field["key"] == "start_time" for field in enabled), name  # the one required

    report = tmp_path / "report.json"
    variables = ["--env-var", f"baseUrl={url}", "--env-var", f"bearerToken={KEY}"]
    folders = [word for name in SENT for word in ("--folder", name)]
    _run(
        *(postman, "newman", "run", collection, *variables, *folders),
        *("--reporters", "json", "--reporter-json-export", report),
    )
    ran = json.loads(report.read_text())["run"]["executions"]
    statuses = {execution["item"]["name"]: execution["response"]["code"] for execution in ran}
    for name in (
        "Chat completion",
        "Create a response",
        "Count a response's input tokens",
        "Create a conversation",
        "Create a message",
        "Count a message's tokens",
        "Complete a prompt (Anthropic's old API)",
        "Completion of a raw prompt",
        "List models",
        "One model",
        "List kept chat completions",
        "List files",
        "Liveness",
    ):
        assert statuses[name] == 200, name
    assert statuses["Retrieve a response"] == 404  # its id is for the user to fill in


def requests(imported: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every request of a collection, with its name."""
    for item in imported["item"]:
        if "item" in item:
            yield from requests(item)
        else:
            yield item["name"], item["request"]


def _run(folder: Path, program: str, *arguments: str | Path) -> None:
    command = [str(folder / "node_modules" / ".bin" / program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
