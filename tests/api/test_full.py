"""A backend that is full: refused at the door, before anything is rendered or reserved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from osslo.types import BackendStats
from tests.api.conftest import make_stage
from tests.scripted import ScriptedBackend

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
ASKED: list[tuple[str, dict[str, Any], int]] = [
    ("/v1/chat/completions", CHAT, 503),
    ("/v1/responses", {"input": "Hi"}, 503),
    ("/v1/completions", {"prompt": "Hi"}, 503),
    ("/v1/messages", CHAT | {"max_tokens": 9}, 529),
    ("/v1/complete", {"prompt": "\n\nHuman: Hi\n\nAssistant:", "max_tokens_to_sample": 9}, 529),
]


class FullBackend(ScriptedBackend):
    """Says that it is full."""

    def stats(self) -> BackendStats:
        return replace(super().stats(), full_for_s=7.2)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("path", "fields", "status"), ASKED)
async def test_is_refused_before_any_work(
    path: str, fields: dict[str, Any], status: int, *, streamed: bool
) -> None:
    stage = make_stage()
    stage.backend.__class__ = FullBackend
    body = {"model": "gpt-oss-20b", "stream": streamed} | fields
    async with stage.client() as client:
        reply = await client.post(path, json=body)
    assert reply.status_code == status
    assert reply.headers["retry-after"] == "8"
    assert stage.backend.requests == []
