"""`GET /v1/models`: every name that callers may use, and plainly which model is behind it.

Anthropic's clients, which say so by the header `anthropic-version`, get their own shape.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, RootModel
from starlette.responses import JSONResponse, Response

from osslo.api.auth import WithCaller
from osslo.api.messages.errors import speaks_anthropic
from osslo.api.messages.models import model_info, model_page
from osslo.api.messages.reply_schema import ModelInfo, ModelInfoPage
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


class AnyModelList(RootModel[ModelListReply | ModelInfoPage]):
    """OpenAI's shape, or with the header `anthropic-version` Anthropic's."""


class AnyModel(RootModel[ModelReply | ModelInfo]):
    """OpenAI's shape, or with the header `anthropic-version` Anthropic's."""


@router.get(
    "/v1/models",
    summary="List models",
    response_model=None,
    openapi_extra=operation(reply=AnyModelList, errors=(400, 401), description="All names."),
)
async def list_models(
    request: Request, services: WithServices, _: WithCaller
) -> ModelListReply | Response:
    """Every name that a request's `model` may be."""
    if speaks_anthropic(request.scope):
        return JSONResponse(model_page(request, services))
    names = services.registry.names()
    return ModelListReply(data=[_reply(name, model) for name, model in names.items()])


@router.get(
    "/v1/models/{name:path}",
    summary="One model",
    response_model=None,
    openapi_extra=operation(reply=AnyModel, errors=(401, 404), description="One name."),
)
async def get_model(
    name: Annotated[str, Path(examples=["gpt-oss-20b"])],
    request: Request,
    services: WithServices,
    _: WithCaller,
) -> ModelReply | Response:
    """What is behind one name."""
    model = services.registry.get(name)
    if speaks_anthropic(request.scope):
        return JSONResponse(model_info(name, model, services))
    return _reply(name, model)


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
