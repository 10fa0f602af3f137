"""`GET /v1/models`: every name that callers may use, and plainly which model is behind it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from osslo.api.auth import WithCaller
from osslo.api.openapi import operation
from osslo.api.services import WithServices
from osslo.chat.models import ServedModel

router = APIRouter(tags=["models"])


class WhatIsServed(BaseModel):
    """An extension of OpenAI's shape: what answers under this name."""

    model_config = ConfigDict(frozen=True)

    served: str
    note: str
    context_tokens: int
    ready: bool


class ModelReply(BaseModel):
    """One name. `osslo.served` is the id of the model that really answers."""

    model_config = ConfigDict(frozen=True)

    id: str
    object: str = "model"
    created: int
    owned_by: str
    osslo: WhatIsServed


class ModelListReply(BaseModel):
    """All names, ids of models before aliases."""

    model_config = ConfigDict(frozen=True)

    object: str = "list"
    data: list[ModelReply]


@router.get(
    "/v1/models",
    summary="List models",
    openapi_extra=operation(reply=ModelListReply, errors=(401,), description="All names."),
)
async def list_models(services: WithServices, _: WithCaller) -> ModelListReply:
    """Every name that a request's `model` may be."""
    names = services.registry.names()
    return ModelListReply(data=[_reply(name, model) for name, model in names.items()])


@router.get(
    "/v1/models/{name:path}",
    summary="One model",
    openapi_extra=operation(reply=ModelReply, errors=(401, 404), description="One name."),
)
async def get_model(name: str, services: WithServices, _: WithCaller) -> ModelReply:
    """What is behind one name."""
    return _reply(name, services.registry.get(name))


def _reply(name: str, model: ServedModel) -> ModelReply:
    fields: dict[str, Any] = {
        "served": model.id,
        "note": model.note,
        "context_tokens": model.context_tokens,
        "ready": model.backend.ready,
    }
    return ModelReply(
        id=name, created=model.created, owned_by=model.owned_by, osslo=WhatIsServed(**fields)
    )
