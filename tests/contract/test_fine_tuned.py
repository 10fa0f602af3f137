"""A fine-tuned model from its file to its answer: the official client, a real engine, a real worker
and a real training process."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import openai
import pytest

from osslo.model.presets import preset
from osslo.model.synth import write_random
from osslo.serve import Server, build, watch_adapters, worker_order
from tests.contract.test_serving import settings_for
from tests.jobs.test_process import supervised, until
from tests.scripted import serving

QUESTIONS = ("Is it late?", "Is it far?", "Is it cold?", "Is it open?")
ANSWER = "Aye aye!"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[openai.OpenAI]:
    """A client of a server over a random model of two layers, with its worker."""
    shape = preset("tiny")
    shape = replace(shape, layers=2, layer_kinds=shape.layer_kinds[:2])
    checkpoint = write_random(shape, tmp_path / "small", seed=1)
    server: Server = build(settings_for(tmp_path, model=str(checkpoint), context=1024, threads=1))
    stopped = threading.Event()
    watching = threading.Thread(
        target=watch_adapters, args=(server, stopped), kwargs={"check_s": 0.05}
    )
    try:
        with serving(server.app) as url, supervised(worker_order(server, url)):
            watching.start()
            client = openai.OpenAI(
                base_url=url + "/v1", api_key=server.key, max_retries=0, timeout=90
            )
            with client:
                yield client
    finally:
        stopped.set()
        watching.join(20)
        server.model.backend.close_blocking()  # type: ignore[attr-defined]  # it is the engine


@pytest.mark.timeout(280)
def test_what_a_job_taught_is_answered_by_its_model(client: openai.OpenAI) -> None:
    def lines() -> Iterator[str]:
        for question in QUESTIONS:
            for effort in ("low", "medium"):
                talk = [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": ANSWER},
                ]
                yield json.dumps({"messages": talk, "reasoning_effort": effort})

    data = "\n".join(lines()).encode()
    file = client.files.create(file=("aye.jsonl", data), purpose="fine-tune")
    options = {"n_epochs": 40, "learning_rate_multiplier": 20.0}
    job = client.fine_tuning.jobs.create(
        model="small",
        training_file=file.id,
        suffix="mate",
        method={"type": "supervised", "supervised": {"hyperparameters": options}},
    )

    def done() -> openai.types.fine_tuning.FineTuningJob:
        return client.fine_tuning.jobs.retrieve(job.id)

    until(lambda: done().status not in ("validating_files", "queued", "running"), 240)

    name = done().fine_tuned_model
    assert name is not None, done().error
    until(lambda: name in {model.id for model in client.models.list()}, 20)

    def ask(model: str) -> str | None:
        reply = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": QUESTIONS[0]}],
            reasoning_effort="low",
            temperature=0.0,
            max_tokens=40,
        )
        assert reply.model == model
        return reply.choices[0].message.content

    assert ask(name) == ANSWER
    assert ask("small") != ANSWER
