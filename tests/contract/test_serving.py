"""The composition root: a real (random) model from checkpoint to answer, the key, and draining."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import openai
import pytest
import uvicorn

from osslo.errors import ConfigurationError, MemoryPlanError
from osslo.model.synth import synthesize
from osslo.opening import locate
from osslo.serve import (
    DrainingServer,
    Server,
    build,
    http_config,
    startup_text,
    warm_up_when_idle,
)
from osslo.server_key import api_key
from osslo.settings import Settings, load_settings
from osslo.types import BackendStats
from tests.api.conftest import KEY, ask, make_stage
from tests.scripted import ByteVocabulary, Gate, Script, ScriptedBackend, serving

VOCABULARY = ByteVocabulary()


def settings_for(tmp_path: Path, **overrides: object) -> Settings:
    home = str(tmp_path / "home")
    return load_settings(environment={"HOME": home, "OSSLO_HOME": home}, overrides=overrides)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize("tiny", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def server(checkpoint: Path, tmp_path: Path) -> Iterator[Server]:
    built = build(settings_for(tmp_path, model=str(checkpoint), context=1024, threads=1))
    yield built
    built.model.backend.close_blocking()  # type: ignore[attr-defined]  # it is the engine


def test_a_checkpoint_is_packed_and_served(server: Server) -> None:
    with serving(server.app) as url:
        client = openai.OpenAI(base_url=url + "/v1", api_key=server.key, max_retries=0)
        with client:
            reply = client.chat.completions.create(**ask(max_tokens=20), seed=1)
            schema = {"type": "object", "properties": {"x": {"type": "boolean"}}}
            schema |= {"required": ["x"], "additionalProperties": False}
            wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
            constrained = client.chat.completions.create(
                **ask(max_tokens=300), response_format=wanted, reasoning_effort="none"
            )
    assert reply.usage is not None
    assert 0 < reply.usage.completion_tokens <= 20
    assert reply.model == server.located.id
    assert constrained.choices[0].message.content in ('{"x":true}', '{"x":false}')


def test_an_idle_server_prepares_for_grammars(server: Server) -> None:
    assert server.constraints._tokenizer is None
    warm_up_when_idle(server, threading.Event(), check_s=0.001)
    assert server.constraints._tokenizer is not None


def test_a_busy_server_waits_with_preparing_until_it_stops(server: Server) -> None:
    stats = iter([BackendStats(1, 0, 8, 0, 8), BackendStats(0, 1, 8, 0, 8)])
    stopped = threading.Event()

    class Busy(ScriptedBackend):
        def stats(self) -> BackendStats:
            load = next(stats)
            if load.waiting:
                stopped.set()
            return load

    busy = replace(server.model, backend=Busy(Script(())))
    warm_up_when_idle(replace(server, model=busy), stopped, check_s=0.001)
    assert next(stats, None) is None
    assert server.constraints._tokenizer is None


def test_the_start_text_says_what_a_person_needs(server: Server) -> None:
    text = startup_text(server, "http://127.0.0.1:8000")
    for needed in (
        server.located.id,
        "gpt-oss-20b",
        server.key,
        "curl http://",
        "/docs",
        "1,024",
        "setup?",
    ):
        assert needed in text


def test_packing_reports_progress(checkpoint: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    settings = settings_for(tmp_path, model=str(checkpoint), threads=1)
    built = build(settings, progress=lambda *step: seen.append(step))
    built.model.backend.close_blocking()  # type: ignore[attr-defined]  # it is the engine
    assert seen[-1][0] == "packing"
    assert seen[-1][1] == seen[-1][2] > 0


def test_weights_that_are_there_are_served_without_being_named(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    folder = synthesize("tiny", settings.folders.models / "openai" / "gpt-oss-20b")
    located = locate(settings)
    assert (located.id, located.path, located.stand_in) == ("gpt-oss-20b", folder, False)


def test_a_model_given_by_its_path_is_called_after_it(checkpoint: Path, tmp_path: Path) -> None:
    assert locate(settings_for(tmp_path, model=str(checkpoint))).id == "tiny"


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nonesuch"):
        build(settings_for(tmp_path, model=str(tmp_path / "nonesuch")))


def test_the_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    key, origin = api_key(settings)
    assert key.startswith("sk-")
    assert api_key(settings) == (key, origin)
    assert stat.S_IMODE(Path(origin).stat().st_mode) == 0o600
    assert api_key(settings_for(tmp_path, api_key="sk-mine"))[0] == "sk-mine"


def test_an_unusable_key_file_is_named(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    settings.folders.home.mkdir(parents=True)
    (settings.folders.home / "api-key").mkdir()
    with pytest.raises(ConfigurationError, match="api-key"):
        api_key(settings)


def test_a_signal_lets_running_requests_finish_and_takes_no_new_ones() -> None:
    gate = Gate()
    rest = VOCABULARY.tokens("lo.<|return|>")
    begun = VOCABULARY.tokens("<|channel|>final<|message|>Os")
    stage = make_stage(script=Script((begun, gate, rest)))
    listening = threading.Event()
    urls: list[str] = []

    def on_listening(url: str) -> None:
        urls.append(url)
        listening.set()

    config = uvicorn.Config(stage.app, port=0, log_level="error", timeout_graceful_shutdown=20)
    server = DrainingServer(config, stage.services.lifecycle, on_listening)
    thread = threading.Thread(target=server.run)
    thread.start()
    assert listening.wait(10)
    client = openai.OpenAI(base_url=urls[0] + "/v1", api_key=KEY, max_retries=0, timeout=20)
    with client, httpx.Client(base_url=urls[0]) as other:
        stream = client.chat.completions.create(**ask(), stream=True)
        pieces = iter(stream)
        next(pieces)
        assert gate.reached.wait(10)
        assert other.get("/ready").status_code == 200
        server.handle_exit(signal.SIGTERM, None)
        assert stage.services.lifecycle.draining
        gate.open()
        text = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
    thread.join(20)
    assert not thread.is_alive()
    assert text == "Oslo."
    assert stage.backend.drained.is_set()
    assert not stage.backend.ready


def test_ctrl_c_ends_the_command_without_a_complaint(checkpoint: Path, tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    osslo = str(Path(sys.executable).with_name("osslo"))
    with subprocess.Popen(
        [osslo, "serve", str(checkpoint), "--context", "1024", "--port", "0", "--threads", "1"],
        env={**os.environ, "HOME": home, "OSSLO_HOME": home},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        before = next((line for line in process.stdout if "Stop with Ctrl-C" in line), "")
        process.send_signal(signal.SIGINT)
        after = process.stdout.read()
    assert before
    assert process.returncode == 0
    assert "leaked" not in after
    assert "Traceback" not in after


def test_a_context_that_cannot_fit_is_refused_before_the_engine_starts(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("osslo.opening.available_memory", lambda: 1_000_000)
    before = threading.active_count()
    with pytest.raises(MemoryPlanError):
        build(settings_for(tmp_path, model=str(checkpoint), context=1024))
    assert threading.active_count() == before


def test_idle_connections_outlive_those_of_clients(tmp_path: Path) -> None:
    """With equal times a request now and then crosses the server's close and fails."""
    settings = settings_for(tmp_path)
    limits = openai.DEFAULT_CONNECTION_LIMITS
    assert limits.keepalive_expiry is not None
    config = http_config(make_stage().app, settings)
    assert config.timeout_keep_alive > 2 * limits.keepalive_expiry
