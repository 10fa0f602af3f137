"""The application with a worker beside it: in the test's own event loop, over ASGI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx

from osslo.api.app import create_app
from osslo.api.delegation import WorkerDelegation, batch_owners
from osslo.jobs.batches import BatchHandler
from osslo.jobs.calls import Api
from osslo.jobs.worker import Worker
from osslo.settings import JobSettings
from osslo.store.batches import JOB_KIND, BatchStore
from osslo.store.files import Clock, utc_now
from tests.api.conftest import Stage, ask, make_stage

SECRET = "worker-secret"
CHAT = "/v1/chat/completions"
FAST_S = 0.01


def request_line(custom_id: str, *, url: str = CHAT, **body: object) -> dict[str, Any]:
    """One line of an input file."""
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": ask(**body)}


def json_lines(lines: Sequence[object]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@dataclass(frozen=True)
class BatchStage:
    """An application whose batches a worker in the same process may run."""

    stage: Stage
    store: BatchStore
    settings: JobSettings
    clock: Clock = utc_now

    def handler(self, client: httpx.AsyncClient, *, secret: str = SECRET) -> BatchHandler:
        return BatchHandler(
            self.store,
            Api(client, secret, wait_s=FAST_S),
            self.settings,
            max_line_bytes=10_000,
            poll_s=FAST_S,
            clock=self.clock,
        )

    def worker(self, client: httpx.AsyncClient, **fields: Any) -> Worker:
        return Worker(
            self.store.queue,
            {JOB_KIND: fields.pop("handler", None) or self.handler(client)},
            name=fields.pop("name", "w1"),
            lease_s=fields.pop("lease_s", 30.0),
            poll_s=FAST_S,
        )

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[httpx.AsyncClient]:
        """What the worker uses to reach the server."""
        transport = httpx.ASGITransport(self.stage.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://osslo") as client:
            yield client

    async def work(self, **fields: Any) -> None:
        """Let a worker do all that there is to do."""
        async with self.inside() as client:
            await self.worker(client, **fields).run(asyncio.Event(), until_idle=True)


def make_batch_stage(
    *args: Any, clock: Clock = utc_now, jobs: JobSettings | None = None, **fields: Any
) -> BatchStage:
    """Arguments are `make_stage`'s."""
    plain = make_stage(*args, **fields)
    settings = jobs or JobSettings()
    assert plain.services.files is not None
    store = BatchStore(plain.services.files, clock=clock)
    services = replace(
        plain.services,
        jobs=settings,
        delegation=WorkerDelegation(SECRET, batch_owners(store), plain.services.keys),
    )
    return BatchStage(Stage(create_app(services), services, plain.backend), store, settings, clock)


async def start_batch(
    client: httpx.AsyncClient, lines: Sequence[object] | bytes, **fields: object
) -> dict[str, Any]:
    """Upload `lines` and create a batch of them."""
    content = lines if isinstance(lines, bytes) else json_lines(lines)
    uploaded = await client.post(
        "/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", content)}
    )
    asked = {"input_file_id": uploaded.json()["id"], "endpoint": CHAT, "completion_window": "24h"}
    made = await client.post("/v1/batches", json=asked | fields)
    assert made.status_code == 200, made.text
    batch: dict[str, Any] = made.json()
    return batch


async def read_file(client: httpx.AsyncClient, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of an output or error file."""
    if file_id is None:
        return []
    content = (await client.get(f"/v1/files/{file_id}/content")).text
    return [json.loads(line) for line in content.splitlines()]
