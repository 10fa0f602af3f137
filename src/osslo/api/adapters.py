"""`/v1/adapters`: LoRA adapters of the served model, for those who operate the server.

Callers see them as models, `BASE:NAME` in `/v1/models`. Here they are listed with what they take
and what is wrong with them, added from a folder on the server's machine, and removed once nobody
uses them any more.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse

from osslo.api.body import StrictSchema, read_json
from osslo.api.openai_replies import page_fields
from osslo.api.openapi import operation
from osslo.api.services import WithServices
from osslo.api.sessions import Admin, Owner, Principal, WithAccounts
from osslo.api.shapes import Page, Reply
from osslo.engine.adapters import AdapterPool, AdapterStatus
from osslo.errors import AdapterError, ConfigurationError, NotFoundError, RequestError
from osslo.model.adapters.catalogue import add_adapter, remove_adapter

router = APIRouter(tags=["models"])

_ERRORS = (400, 401, 403, 404, 409, 429, 500)
_BODY_BYTES = 65_536


class AdapterReply(Reply):
    """One adapter. `resident_bytes` is what it takes once loaded; `requests` run with it now;
    `error` says why it is not served."""

    object: Literal["adapter"]
    id: str
    base_model_name: str
    rank: int
    targets: list[str]
    resident_bytes: int
    created: int
    loaded: bool
    requests: int
    error: str | None


class AdapterDeletedReply(Reply):
    """`drained` is false where requests still run with what is loaded of it."""

    object: Literal["adapter.deleted"]
    id: str
    deleted: Literal[True]
    drained: bool


class AdapterBody(StrictSchema):
    """A folder in PEFT's layout on the server's own machine, to be copied."""

    name: str = Field(max_length=200, description="What callers put behind the model's name and :")
    path: str = Field(min_length=1, max_length=4096)


@router.get(
    "/v1/adapters",
    summary="List adapters",
    openapi_extra=operation(reply=Page[AdapterReply], errors=_ERRORS),
)
async def list_adapters(who: Admin, services: WithServices) -> JSONResponse:  # noqa: ARG001 - who may
    """All that lie there, also those that cannot be served."""
    pool = services.adapters
    found = [] if pool is None else await asyncio.to_thread(_look, pool)
    data = [_reply(status) for status in found]
    return JSONResponse(page_fields(data, has_more=False))


@router.post(
    "/v1/adapters",
    summary="Add an adapter",
    openapi_extra=operation(
        body=AdapterBody,
        reply=AdapterReply,
        status=201,
        errors=_ERRORS,
        example={"name": "support", "path": "/srv/adapters/support"},
    ),
)
async def post_adapter(
    request: Request, who: Owner, services: WithServices, accounts: WithAccounts
) -> JSONResponse:
    """Copies the folder and serves it at once. It is read whole first: what cannot be served is
    refused."""
    body = await read_json(request, AdapterBody, limit_bytes=_BODY_BYTES)
    pool = _pool(services.adapters)
    status = await asyncio.to_thread(_add, pool, body)
    await _note(accounts, who, "adapter.add", body.name)
    return JSONResponse(_reply(status), 201)


@router.delete(
    "/v1/adapters/{name}",
    summary="Remove an adapter",
    openapi_extra=operation(reply=AdapterDeletedReply, errors=_ERRORS),
)
async def delete_adapter(
    name: str, who: Admin, services: WithServices, accounts: WithAccounts
) -> JSONResponse:
    """Takes no new requests for it, deletes its folder, and waits for those that run with it, as
    long as a shutdown would. They end as if nothing had happened in any case."""
    pool = _pool(services.adapters)
    drained = await asyncio.to_thread(_remove, pool, name, services.drain_s)
    await _note(accounts, who, "adapter.remove", name)
    return JSONResponse(
        {"object": "adapter.deleted", "id": name, "deleted": True, "drained": drained}
    )


def _pool(pool: AdapterPool | None) -> AdapterPool:
    if pool is None:
        raise NotFoundError("This server serves no adapters.")
    return pool


def _look(pool: AdapterPool) -> tuple[AdapterStatus, ...]:
    pool.catalogue.refresh()
    return pool.status()


def _add(pool: AdapterPool, body: AdapterBody) -> AdapterStatus:
    catalogue = pool.catalogue
    try:
        add_adapter(Path(body.path), catalogue.folder, body.name, catalogue.check)
    except ConfigurationError as error:
        raise RequestError(error.message, param="name") from error
    except AdapterError as error:
        raise RequestError(error.message, param="path", code=error.code) from error
    return next(status for status in _look(pool) if status.name == body.name)


def _remove(pool: AdapterPool, name: str, wait_s: float) -> bool:
    try:
        remove_adapter(pool.catalogue.folder, name)
    except ConfigurationError as error:
        raise NotFoundError(f"There is no adapter {name[:80]!r}.", param="name") from error
    pool.catalogue.refresh()
    return pool.wait_unused(name, wait_s)


async def _note(accounts: WithAccounts, who: Principal, act: str, name: str) -> None:
    async with accounts.context.change() as session:
        await accounts.context.note(session, who.actor, act, name)


def _reply(status: AdapterStatus) -> dict[str, object]:
    return {
        "object": "adapter",
        "id": status.name,
        "base_model_name": status.base_name,
        "rank": status.rank,
        "targets": list(status.targets),
        "resident_bytes": status.resident_bytes,
        "created": status.added,
        "loaded": status.loaded,
        "requests": status.users,
        "error": status.error or None,
    }
