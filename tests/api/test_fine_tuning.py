"""`/v1/fine_tuning/jobs` without a worker: what is refused, and how jobs are steered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from osslo.api.app import create_app
from osslo.jobs.fine_tuning import TuningHandler, TuningOrder
from osslo.jobs.worker import Worker
from osslo.model import extras
from osslo.store.fine_tuning import TUNING_KIND, FineTuningStore
from tests.api.conftest import Stage, make_stage

JOBS = "/v1/fine_tuning/jobs"
GOOD = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


@pytest.fixture
def stage() -> Stage:
    made = make_stage()
    services = replace(made.services, tunable=frozenset({"scripted-model"}))
    return Stage(create_app(services), services, made.backend)


@pytest.fixture
async def client(stage: Stage) -> AsyncIterator[httpx.AsyncClient]:
    async with stage.client() as opened:
        yield opened


async def upload(client: httpx.AsyncClient, content: bytes, purpose: str = "fine-tune") -> str:
    sent = {"file": ("a.jsonl", content)}
    made = await client.post("/v1/files", data={"purpose": purpose}, files=sent)
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


async def create(client: httpx.AsyncClient, **fields: object) -> httpx.Response:
    body: dict[str, object] = {"model": "gpt-oss-20b"}
    return await client.post(JOBS, json=body | fields)


async def test_a_bad_file_is_refused_with_its_lines(client: httpx.AsyncClient) -> None:
    file = await upload(client, GOOD + b'{"messages": []}\n' + GOOD + b'{"prompt": "x"}\n')
    refused = await create(client, training_file=file)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_training_file", "training_file")
    assert "line 2: 'messages' must be" in error["message"]
    assert "line 4: 'prompt' is unknown" in error["message"]


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"training_file": "file-none"}, 404, "training_file"),
    ({"model": "other"}, 404, "model"),
    ({"hyperparameters": {"batch_size": 4}}, 400, "hyperparameters.batch_size"),
    ({"hyperparameters": {"n_epochs": 0}}, 400, "hyperparameters.n_epochs"),
    ({"method": {"type": "dpo"}}, 400, "method.type"),
    ({"integrations": [{"type": "wandb"}]}, 400, "integrations"),
]


@pytest.mark.parametrize(("fields", "status", "param"), REFUSED, ids=[p for _, _, p in REFUSED])
async def test_what_cannot_be_is_refused_by_name(
    client: httpx.AsyncClient, fields: dict[str, Any], status: int, param: str
) -> None:
    file = await upload(client, GOOD)
    refused = await create(client, **{"training_file": file} | fields)
    assert refused.status_code == status, refused.text
    assert str(refused.json()["error"]["param"]).startswith(param)


async def test_purpose_model_and_extra_are_checked(
    client: httpx.AsyncClient, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await upload(client, GOOD, "user_data")
    refused = await create(client, training_file=other)
    assert refused.json()["error"]["code"] == "invalid_purpose"
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    refused = await create(client, training_file=other)
    assert refused.status_code == 400
    assert "osslo[tune]" in refused.json()["error"]["message"]
    monkeypatch.undo()
    plain = replace(stage.services, tunable=frozenset())
    async with Stage(create_app(plain), plain, stage.backend).client() as closed:
        refused = await create(closed, training_file=other)
    assert refused.json()["error"]["param"] == "model"


async def test_a_job_is_paused_resumed_and_cancelled(
    client: httpx.AsyncClient, stage: Stage, tmp_path: Path
) -> None:
    file = await upload(client, GOOD)
    made = await create(client, training_file=file, metadata={"for": "tests"})
    assert made.status_code == 200, made.text
    job = made.json()
    assert (job["status"], job["model"]) == ("queued", "scripted-model")
    path = f"{JOBS}/{job['id']}"
    assert (await client.post(f"{path}/resume")).status_code == 409
    assert (await client.post(f"{path}/pause")).json()["status"] == "paused"
    early = await client.post(f"{path}/resume")
    assert "has not let go" in early.json()["error"]["message"]
    await work(stage, tmp_path)
    assert (await client.post(f"{path}/resume")).json()["status"] == "queued"
    cancelled = (await client.post(f"{path}/cancel")).json()
    assert cancelled["status"] == "cancelled"
    assert cancelled["finished_at"]
    assert (await client.post(f"{path}/cancel")).status_code == 409
    await work(stage, tmp_path)
    events = (await client.get(f"{path}/events?limit=2")).json()
    assert [event["message"] for event in events["data"]] == [
        "The job was cancelled.",
        "The job goes on.",
    ]
    rest = (await client.get(f"{path}/events?after={events['last_id']}")).json()
    assert [event["message"] for event in rest["data"]][-1].startswith("The files are good")
    assert not rest["has_more"]
    assert (await client.get(f"{path}/checkpoints")).json()["data"] == []


async def work(stage: Stage, tmp_path: Path) -> None:
    """Let a worker look at every job; the only ones here are not to be run."""
    assert stage.services.files is not None
    store = FineTuningStore(stage.services.files)
    handler = TuningHandler(store, TuningOrder(str(tmp_path), str(tmp_path), {}))
    worker = Worker(store.queue, {TUNING_KIND: handler}, name="w", lease_s=30, poll_s=0.01)
    await worker.run(asyncio.Event(), until_idle=True)


async def test_jobs_are_their_owners(client: httpx.AsyncClient, stage: Stage) -> None:
    file = await upload(client, GOOD)
    job = (await create(client, training_file=file)).json()
    assert stage.services.files is not None
    store = FineTuningStore(stage.services.files)
    assert (await store.page("somebody", after=None, limit=5)).items == ()
    for path in ("", "/events", "/checkpoints"):
        assert (await client.get(f"{JOBS}/ftjob-none{path}")).status_code == 404
        assert (await client.get(f"{JOBS}/{job['id']}{path}")).status_code == 200
    second = await create(client, training_file=file)
    assert second.status_code == 200
    third = await create(client, training_file=file)
    assert third.status_code == 429
    listed = (await client.get(f"{JOBS}?limit=1")).json()
    assert listed["data"][0]["id"] == second.json()["id"]
    assert listed["has_more"]
