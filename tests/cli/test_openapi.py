"""`osslo openapi`: the document of the very application that serves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from openapi_spec_validator import OpenAPIV31SpecValidator

from osslo.cli.main import run


def test_json_on_stdout_with_every_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["openapi"]) == 0
    document = json.loads(capsys.readouterr().out)
    OpenAPIV31SpecValidator(document).validate()
    assert document["servers"] == [{"url": "http://127.0.0.1:8000"}]
    paths = document["paths"]
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/tokenize"):
        assert path in paths


def test_yaml_to_a_file_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "osslo.yaml"
    server = "https://llm.example.org"
    assert run(["openapi", "-o", str(target), "--server", server + "/"]) == 0
    assert run(["openapi", "--server", server]) == 0
    document = yaml.safe_load(target.read_text(encoding="utf-8"))
    assert document == json.loads(capsys.readouterr().out)
    assert document["servers"] == [{"url": server}]


def test_a_file_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["openapi", "-o", str(tmp_path / "missing" / "x.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err
