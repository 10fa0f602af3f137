"""The official `openai` client for Node against a real server.

Node is needed for these tests only. The client is installed as its lock file says, into a folder
under build/ that is named by that file's content.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from osslo.errors import EngineError
from osslo.types import FinishReason
from tests.api.conftest import KEY
from tests.api.test_chat_completions import CALL
from tests.contract.conftest import StartServer
from tests.scripted import ByteVocabulary, Gate, Script

HERE = Path(__file__).parent / "node"
FILES = ("package.json", "package-lock.json", "client.mjs")
VOCABULARY = ByteVocabulary()
Node = Callable[[str, str], Any]


@pytest.fixture(scope="module")
def installed(build_cache: Path) -> Path:
    """The folder with the client and the scenarios."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("platform: there is no Node here")
    content = b"".join((HERE / name).read_bytes() for name in FILES)
    folder = build_cache / f"node-client-{hashlib.sha256(content).hexdigest()[:16]}"
    if not folder.exists():
        scratch = folder.with_suffix(f".{os.getpid()}")
        scratch.mkdir()
        for name in FILES:
            shutil.copy(HERE / name, scratch)
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
        subprocess.run(command, cwd=scratch, check=True, timeout=120)
        scratch.rename(folder)
    return folder


@pytest.fixture
def node(installed: Path) -> Node:
    """Run one scenario against a base URL; what it saw."""

    def run(url: str, scenario: str) -> Any:
        command = ["node", "client.mjs", url + "/v1", KEY, scenario]
        done = subprocess.run(
            command, cwd=installed, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    return run


def test_chat(start_server: StartServer, node: Node) -> None:
    url, _ = start_server()
    assert node(url, "chat") == {"text": "Oslo.", "header": "scripted-model"}


def test_chat_streamed(start_server: StartServer, node: Node) -> None:
    url, _ = start_server()
    seen = node(url, "chat_stream")
    assert (seen["text"], seen["whole"]) == ("Oslo.", "Oslo.")
    assert seen["tokens"] > 0


@pytest.mark.parametrize("scenario", ["chat_tools", "responses_tools"])
def test_a_tool_loop(start_server: StartServer, node: Node, scenario: str) -> None:
    left = iter([CALL, "<|channel|>final<|message|>12 degrees.<|return|>"])
    url, stage = start_server()
    stage.backend.script = lambda _: Script((VOCABULARY.tokens(next(left)),))
    assert node(url, scenario) == {
        "name": "get_weather",
        "arguments": '{"city":"Oslo"}',
        "text": "12 degrees.",
    }
    second = VOCABULARY.text(stage.backend.requests[1].prompt)
    assert "<|message|>12<|end|>" in second
    if scenario == "chat_tools":  # the whole message was handed back, reasoning and all
        assert "<|channel|>analysis<|message|>Look.<|end|>" in second


def test_structured_output(start_server: StartServer, node: Node) -> None:
    answer = '{"name":"Oslo","country":"Norway"}'
    url, stage = start_server(f"<|channel|>final<|message|>{answer}<|return|>")
    assert node(url, "chat_structured") == json.loads(answer)
    assert stage.backend.requests[0].grammar is not None


def test_responses(start_server: StartServer, node: Node) -> None:
    url, _ = start_server()
    assert node(url, "responses") == {"text": "Oslo.", "again": "Oslo.", "gone": "deleted"}


def test_responses_streamed(start_server: StartServer, node: Node) -> None:
    url, _ = start_server()
    assert node(url, "responses_stream") == {
        "text": "Oslo.",
        "whole": "Oslo.",
        "status": "completed",
    }


def test_completions(start_server: StartServer, node: Node) -> None:
    url, _ = start_server(" upon<|return|>")
    assert node(url, "completions") == {"text": " upon"}


def test_errors_become_the_clients_own(start_server: StartServer, node: Node) -> None:
    url, _ = start_server()
    assert node(url, "errors") == [
        ["AuthenticationError", "invalid_api_key", None],
        ["NotFoundError", "model_not_found", "model"],
        ["BadRequestError", "invalid_type", "temperature"],
    ]


def test_a_failure_within_a_stream_is_raised(start_server: StartServer, node: Node) -> None:
    script = Script(
        (VOCABULARY.tokens("<|channel|>final<|message|>Os"),),
        finish=FinishReason.ERROR,
        error=EngineError("The engine broke."),
    )
    url, _ = start_server(script=script)
    seen = node(url, "error_in_stream")
    assert seen["text"] == "Os"
    assert seen["name"] == "APIError"
    assert "The engine broke" in seen["error"]


def test_leaving_a_stream_stops_the_generation(start_server: StartServer, node: Node) -> None:
    begun = VOCABULARY.tokens("<|channel|>final<|message|>Os")
    url, stage = start_server(script=Script((begun, Gate())))
    assert node(url, "cancel") == {"aborted": True}
    assert stage.backend.abandoned.wait(10)
