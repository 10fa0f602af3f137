"""First texts over the tiny model, as far as they can be told where there is no llama-server."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.conformance import tiny_model
from bench.conformance.llama_server import ASKED, TOKENS, first_texts, llama_server
from bench.conformance.server import Running, server
from osslo.types import GenerationRequest, SamplingParams


def test_first_texts_of_our_server_over_the_tiny_model() -> None:
    with server("tiny") as running:
        found = first_texts(running, samples=8, seed=1, callers=4)
    assert 0 < found["p50_ms"] <= found["p95_ms"]
    assert found["processor_ms"] > 0
    assert 0 < found["alone_p50_ms"] <= found["alone_p95_ms"]


def test_an_answer_that_is_cut_short_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ASKED, "max_tokens", TOKENS - 1)
    with server("tiny") as running, pytest.raises(RuntimeError, match="not 40 characters"):
        first_texts(running, samples=2, seed=1, callers=1)


@pytest.mark.parametrize("prompt", ["Once upon a time", "x", "<|start|>user<|message|>"])
def test_the_tiny_model_says_printable_characters_without_end(tmp_path: Path, prompt: str) -> None:
    engine, tokenizer = tiny_model.tiny_engine(tmp_path, running=2)
    request = GenerationRequest("r", tuple(tokenizer.encode(prompt)), SamplingParams(200, 0.0))
    with engine:
        said = [
            token
            for event in engine.generate_blocking(request)
            for token in getattr(event, "tokens", ())
        ]
    assert len(said) == 200
    assert tokenizer.decode(said).isprintable()
    assert set(said) <= set(tiny_model.SPOKEN)


def test_a_program_that_ends_is_told() -> None:
    program = shutil.which("false")
    assert program is not None
    with (
        pytest.raises(RuntimeError, match="false did not start"),
        llama_server(Path(program)) as running,
    ):
        assert isinstance(running, Running)
