"""Adapters and accounts: which keys open them, and how operators manage them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from osslo.accounts.records import Role
from osslo.chat.models import ModelRegistry
from osslo.engine.adapters import AdapterPool
from osslo.model.adapters.catalogue import AdapterCatalogue
from tests.api.accounts_stage import People, Person, people
from tests.api.conftest import ask
from tests.model.random_adapters import write_adapter
from tests.model.random_models import SMALLEST


@asynccontextmanager
async def with_adapters(root: Path) -> AsyncIterator[tuple[People, AdapterPool]]:
    """People before a scripted model that has the adapter `one`."""
    write_adapter(root / "one", SMALLEST)
    catalogue = AdapterCatalogue(root, SMALLEST, fingerprint=None, max_rank=8)
    catalogue.refresh()
    pool = AdapterPool(
        catalogue, lambda adapter: adapter, max_loaded=2, max_bytes=1 << 30, available=lambda: 0
    )
    async with people() as they:
        services = they.stage.services
        (model,) = services.registry
        they.app.state.services = replace(
            services,
            registry=ModelRegistry((replace(model, adapters=catalogue),)),
            adapters=pool,
            drain_s=0.05,
        )
        yield they, pool


async def chat(they: People, person: Person, model: str) -> int:
    reply = await they.call(person, "POST", "/v1/chat/completions", json={**ask(), "model": model})
    return reply.status_code


async def test_a_key_opens_what_it_names(tmp_path: Path) -> None:
    async with with_adapters(tmp_path / "adapters") as (they, _):
        user = await they.make("ann")
        allowed = {
            None: (200, 200),
            ("gpt-oss-20b",): (200, 403),
            ("gpt-oss-20b:one",): (403, 200),
            ("scripted-model:one",): (403, 200),
            ("gpt-oss-20b:*",): (403, 200),
            ("scripted-model:*",): (403, 200),
            ("gpt-oss-20b:two",): (403, 403),
        }
        for models, statuses in allowed.items():
            person = await they.with_key(user, models=models)
            found = [await chat(they, person, n) for n in ("gpt-oss-20b", "gpt-oss-20b:one")]
            assert tuple(found) == statuses, models
        assert {r.adapter for r in they.stage.backend.requests} == {None, "one"}


async def test_operators_list_add_and_remove(tmp_path: Path) -> None:
    root = tmp_path / "adapters"
    async with with_adapters(root) as (they, pool):
        admin = await they.in_session(await they.make("adm", Role.ADMIN))
        owner = await they.in_session(await they.make("own", Role.OWNER))
        source = write_adapter(tmp_path / "source", SMALLEST, seed=2)
        body = {"name": "two", "path": str(source)}
        assert (await they.call(admin, "POST", "/v1/adapters", json=body)).status_code == 403
        added = await they.call(owner, "POST", "/v1/adapters", json=body)
        assert added.status_code == 201
        assert added.json()["id"] == "two"
        for wrong, status in (
            (body, 409),
            (body | {"name": "../x"}, 400),
            (body | {"name": "x", "path": str(tmp_path / "nothing")}, 400),
            (body | {"name": "x", "path": "a\0b"}, 400),
        ):
            reply = await they.call(owner, "POST", "/v1/adapters", json=wrong)
            assert reply.status_code == status, reply.text
        assert await chat(they, owner, "gpt-oss-20b:two") == 200

        lease = pool.acquire("one")
        listed = (await they.call(admin, "GET", "/v1/adapters")).json()
        assert [(a["id"], a["loaded"], a["requests"]) for a in listed["data"]] == [
            ("one", True, 1),
            ("two", False, 0),
        ]
        gone = (await they.call(admin, "DELETE", "/v1/adapters/one")).json()
        assert gone == {
            "object": "adapter.deleted",
            "id": "one",
            "deleted": True,
            "drained": False,
        }
        pool.release(lease)
        assert not (root / "one").exists()
        assert (await they.call(admin, "DELETE", "/v1/adapters/one")).status_code == 404
        assert (await they.call(admin, "DELETE", "/v1/adapters/..x")).status_code == 404
        assert await chat(they, owner, "gpt-oss-20b:one") == 404
        log = (await they.call(admin, "GET", "/v1/audit_log")).json()["data"]
        acts = [(entry["act"], entry["target"]) for entry in log]
        assert ("adapter.add", "two") in acts
        assert ("adapter.remove", "one") in acts
