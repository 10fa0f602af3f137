"""The official `openai` client for Node against a real server.

Node is needed for these tests only; the fixture installs the client.
"""

from __future__ import annotations

import json

import pytest

from osslo.errors import EngineError
from osslo.types import FinishReason
from tests.api.test_chat_completions import CALL
from tests.contract.conftest import Node, StartServer
from tests.scripted import ByteVocabulary, Gate, Script

VOCABULARY = ByteVocabulary()


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
