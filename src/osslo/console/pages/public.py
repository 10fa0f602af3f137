"""Pages for everybody: what is served, what it can do, what it costs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends
from starlette.responses import Response

from osslo.chat.models import ServedModel
from osslo.console.routing import page_router
from osslo.console.samples import first_request
from osslo.console.showcase import BENCHMARK_SOURCES, facts_of
from osslo.console.visit import SignInNeeded, Visit, visit
from osslo.errors import ModelNotFoundError

router = page_router()
Anybody = Annotated[Visit, Depends(visit)]


@router.get("/models")
async def models_page(here: Anybody) -> Response:
    """Every model with its price."""
    await _check_open(here)
    served = [await _shown(here, model) for model in here.services.registry]
    return here.page("models.html", models=served)


@router.get("/models/{name:path}")
async def model_page(name: str, here: Anybody) -> Response:
    """One model."""
    await _check_open(here)
    try:
        model = here.services.registry.get(name)
    except ModelNotFoundError as error:
        return here.page(
            "message.html",
            status=404,
            heading="There is no such model here",
            text=error.message,
            link="/models",
            link_text="All models",
        )
    return here.page(
        "model.html",
        model=await _shown(here, model),
        samples=first_request(here, None, name),
        sources=BENCHMARK_SOURCES,
    )


async def _check_open(here: Visit) -> None:
    if here.viewer.user is None and not (await here.accounts.options.get()).prices_public:
        raise SignInNeeded


async def _shown(here: Visit, model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.id,
        "aliases": model.aliases,
        "note": model.note,
        "ready": model.backend.ready,
        "context_tokens": model.context_tokens,
        "facts": facts_of((model.id, *model.aliases)),
        "stand_in": "gpt-oss-20b" not in model.id and "gpt-oss-20b" in model.aliases,
        "price": await here.accounts.prices.of(model.id, *model.aliases),
    }
