"""Adapters over HTTP, by the official client against a real engine: named as models, added and
removed while the server answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from osslo.model.adapters.catalogue import FOLDER, remove_adapter
from osslo.model.checkpoints import open_checkpoint
from osslo.model.synth import synthesize
from osslo.serve import Server, build, watch_adapters
from tests.api.conftest import ask
from tests.contract.test_serving import settings_for
from tests.model.random_adapters import ATTENTION, write_adapter
from tests.scripted import serving


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize("tiny", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def server(checkpoint: Path, tmp_path: Path) -> Iterator[Server]:
    settings = settings_for(tmp_path, model=str(checkpoint), context=1024, threads=1)
    config = open_checkpoint(checkpoint).config
    write_adapter(settings.folders.home / FOLDER / "one", config, seed=1)
    write_adapter(settings.folders.home / FOLDER / "broken", config, settings={"bias": "all"})
    built = build(settings)
    yield built
    built.model.backend.close_blocking()  # type: ignore[attr-defined]  # it is the engine


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with serving(server.app) as url:
        client = openai.OpenAI(base_url=url + "/v1", api_key=server.key, max_retries=0, timeout=60)
        with client:
            yield client


def answer(client: openai.OpenAI, model: str) -> str:
    asked = {**ask(max_tokens=12), "model": model}
    reply = client.chat.completions.create(**asked, temperature=0.0)
    assert reply.model == f"tiny:{model.split(':')[1]}"
    return str(reply.choices[0].message.model_dump())


def test_an_adapter_is_a_model_by_name(server: Server, client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["tiny", "gpt-oss-20b", "tiny:one", "gpt-oss-20b:one"]
    assert client.models.retrieve("gpt-oss-20b:one").id == "gpt-oss-20b:one"
    by_id, by_alias = answer(client, "tiny:one"), answer(client, "gpt-oss-20b:one")
    assert by_id == by_alias
    raw = {"prompt": "Where is Oslo?", "max_tokens": 20, "temperature": 0.0}
    texts = [client.completions.create(model=name, **raw) for name in ("tiny", "tiny:one")]
    assert texts[0].choices[0].text != texts[1].choices[0].text
    assert texts[1].model == "tiny:one"
    for name, status in (("tiny:two", 404), ("other:one", 404), ("tiny:broken", 404)):
        with pytest.raises(openai.APIStatusError) as caught:
            answer(client, name)
        assert caught.value.status_code == status
        assert caught.value.code == "model_not_found"
    assert dict(server.memory.rows())["adapters"].endswith("MiB")


def test_the_plan_counts_adapters(server: Server) -> None:
    status = server.adapters.status()
    assert [s.name for s in status] == ["broken", "one"]
    assert server.memory.adapter_bytes == status[1].resident_bytes > 0
    assert server.memory.total_bytes > server.memory.adapter_bytes + server.memory.kv_bytes


def test_one_comes_and_goes_under_a_running_stream(server: Server, client: openai.OpenAI) -> None:
    stopped = threading.Event()
    watching = threading.Thread(
        target=watch_adapters, args=(server, stopped), kwargs={"check_s": 0.01}
    )
    watching.start()
    try:
        asked = {**ask(max_tokens=300), "model": "tiny:one", "seed": 3, "stream": True}
        stream = client.chat.completions.create(**asked, extra_body={"ignore_eos": True})
        chunks = [next(iter(stream))]
        root = server.settings.folders.home / FOLDER
        write_adapter(root / "two", server.native.config, seed=2, targets=ATTENTION)
        remove_adapter(root, "one")
        wait_for(lambda: names_of(client) >= {"tiny:two"} and "tiny:one" not in names_of(client))
        answer(client, "tiny:two")
        with pytest.raises(openai.NotFoundError):
            answer(client, "tiny:one")
        chunks += list(stream)
        assert chunks[-1].choices[0].finish_reason is not None
        assert server.adapters.wait_unused("one", 20)
    finally:
        stopped.set()
        watching.join(20)


def names_of(client: openai.OpenAI) -> set[str]:
    return {model.id for model in client.models.list()}


def wait_for(condition: Callable[[], bool]) -> None:
    """The watcher looks a hundred times a second."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
