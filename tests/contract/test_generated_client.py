"""A client generated from our OpenAPI document, by a generator that others use, talks to us."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import KEY
from tests.contract.conftest import StartServer

GENERATOR = "openapi-python-client==0.29.1"


@pytest.fixture(scope="module")
def generator(build_cache: Path) -> Path:
    """A folder with the generator and what it needs: its pins are not ours."""
    folder = build_cache / GENERATOR.replace("==", "-")
    if not folder.exists():
        scratch = folder.with_suffix(f".{os.getpid()}")
        command = [sys.executable, "-m", "pip", "install", "-qq", "--target", str(scratch)]
        subprocess.run([*command, GENERATOR], check=True)
        scratch.rename(folder)
    return folder


@pytest.mark.slow
def test_a_generated_client_works(
    start_server: StartServer,
    generator: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, stage = start_server()
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(stage.app.openapi()))
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none"]
    command += ["--path", str(document), "--output-path", str(tmp_path / "generated_osslo")]
    made = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(generator)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "WARNING" not in made.stdout + made.stderr
    assert "Unable to" not in made.stdout + made.stderr

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path, str(generator)])
    generated: Any = importlib.import_module("generated_osslo")
    models: Any = importlib.import_module("generated_osslo.models")
    endpoint: Any = importlib.import_module("generated_osslo.api.chat.create_chat_completion")
    request = models.ChatCompletionRequest.from_dict(
        {"model": "gpt-oss-20b", "messages": [{"role": "user", "content": "Capital of Norway?"}]}
    )
    with generated.AuthenticatedClient(base_url=url, token=KEY) as client:
        reply = endpoint.sync(client=client, body=request)
    assert isinstance(reply, models.ChatCompletion)
    assert reply.choices[0].message.content == "Oslo."
