"""A fine-tuning job driven by the official client: a real worker, a real training process."""

from __future__ import annotations

import csv
import io
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import openai
import pytest

from osslo.api.app import create_app
from osslo.jobs.fine_tuning import TunableModel, TuningOrder
from osslo.jobs.supervisor import Supervisor
from osslo.model.adapters.peft import open_adapter
from osslo.model.presets import preset
from osslo.model.synth import write_random
from tests.api.batch_stage import BatchStage, make_batch_stage
from tests.api.conftest import KEY
from tests.jobs.test_process import order_for, supervised, until
from tests.scripted import serving

MODEL = "scripted-model"
LINE = (
    '{"messages": [{"role": "user", "content": "q%d"}, {"role": "assistant", "content": "yes"}]}\n'
)


@contextmanager
def tuning_server(tmp_path: Path, *, layers: int) -> Iterator[tuple[openai.OpenAI, Supervisor]]:
    """A server and its worker over a random model; jobs and adapters lie in `tmp_path`."""
    shape = preset("tiny")
    shape = replace(shape, layers=layers, layer_kinds=shape.layer_kinds[:layers])
    checkpoint = write_random(shape, tmp_path / "model", seed=1)
    batches = make_batch_stage()
    services = replace(batches.stage.services, tunable=frozenset({MODEL}))
    stage = replace(batches.stage, app=create_app(services), services=services)
    tuning = TuningOrder(
        str(tmp_path / "jobs"), str(tmp_path / "adapters"), {MODEL: TunableModel(str(checkpoint))}
    )
    with serving(stage.app) as url:
        order = replace(order_for(BatchStage(stage, batches.store, batches.settings), url))
        client = openai.OpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0, timeout=90)
        with client, supervised(replace(order, tuning=tuning)) as supervisor:
            yield client, supervisor


@pytest.mark.timeout(280)
def test_the_official_client_drives_a_job_to_its_end(tmp_path: Path) -> None:
    data = "".join(LINE % number for number in range(12)).encode()
    with tuning_server(tmp_path, layers=2) as (client, supervisor):
        jobs = client.fine_tuning.jobs
        file = client.files.create(file=("yes.jsonl", data), purpose="fine-tune")
        job = jobs.create(
            model="gpt-oss-20b",
            training_file=file.id,
            suffix="Yes Men",
            seed=7,
            method={
                "type": "supervised",
                "supervised": {
                    "hyperparameters": {"n_epochs": 12, "learning_rate_multiplier": 20.0}
                },
            },
        )
        assert job.status == "queued"

        def steps() -> int:
            events = jobs.list_events(job.id, limit=100)
            return sum(event.type == "metrics" for event in events)

        until(lambda: steps() >= 2, 200)
        first = supervisor.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)  # the training process loses its input, saves and ends
        until(lambda: jobs.retrieve(job.id).status not in ("queued", "running"), 200)
        done = jobs.retrieve(job.id)
        assert done.status == "succeeded", done.error
        events = list(jobs.list_events(job.id, limit=20))
        (checkpoint,) = jobs.checkpoints.list(job.id).data
        table, report = (client.files.content(one).text for one in done.result_files)
        listed = jobs.list().data
    name = done.fine_tuned_model
    assert name is not None
    base, adapter = name.split(":")
    assert (base, done.model, done.seed) == (MODEL, MODEL, 7)
    assert adapter.startswith("yes-men-")
    assert open_adapter(tmp_path / "adapters" / adapter, preset("tiny")).base_name == MODEL
    assert checkpoint.fine_tuned_model_checkpoint == name
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [int(row["step"]) for row in rows] == list(range(1, len(rows) + 1))
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert report.startswith("# Fine-tuning of scripted-model")
    messages = [event.message for event in events]
    assert messages[0] == f"{name} is ready."
    metrics = [event.data for event in events if event.type == "metrics"]
    numbers = [data["step"] for data in metrics if isinstance(data, dict)]
    assert numbers == sorted(set(numbers), reverse=True)
    assert done.trained_tokens
    assert [one.id for one in listed] == [job.id]
    assert not (tmp_path / "jobs" / job.id).exists()
