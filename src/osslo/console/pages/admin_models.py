"""Administration of models: what is loaded, what lies on this machine, fetching another."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends
from starlette.responses import JSONResponse, Response

from osslo.chat.models import ServedModel
from osslo.console.pulls import Pull
from osslo.console.routing import page_router
from osslo.console.visit import Visit, admin, go, text_of
from osslo.errors import ConflictError, OssloError

router = page_router()
Admin = Annotated[Visit, Depends(admin)]


@router.get("/console/admin/models")
async def models_page(here: Admin) -> Response:
    """What is loaded and what is on disk."""
    return await _page(here)


@router.post("/console/admin/models/pull")
async def pull(here: Admin) -> Response:
    """Begin to fetch a model."""
    form = await here.form()
    try:
        if here.console.pulls is None:
            raise ConflictError("This server runs without a folder for models.")
        name = text_of(form, "name")
        here.console.pulls.begin(name)
        await _note(here, "model.pull", name)
    except OssloError as error:
        return await _page(here, error=error)
    return go("/console/admin/models", done="pulling")


@router.post("/console/admin/models/pull/cancel")
async def cancel_pull(here: Admin) -> Response:
    """Stop fetching; what has come is kept for the next time."""
    await here.form()
    state = _pull(here)
    if here.console.pulls is not None and state is not None and state.running:
        here.console.pulls.cancel()
        await _note(here, "model.pull_cancel", state.name)
    return go("/console/admin/models")


@router.get("/console/admin/models/pull.json")
async def pull_state(here: Admin) -> Response:
    """How far a fetch is, for the page's script."""
    state = _pull(here)
    shown = None if state is None else _told(state)
    return JSONResponse(shown, headers={"cache-control": "no-store"})


async def _page(here: Visit, *, error: OssloError | None = None) -> Response:
    pulls = here.console.pulls
    return here.page(
        "admin/models.html",
        status=error.status if error else 200,
        models=[
            {
                "id": model.id,
                "aliases": list(model.aliases),
                "note": model.note,
                "ready": model.backend.ready,
                "context_tokens": model.context_tokens,
                "adapters": _adapters(model),
                "memory": here.console.memory.get(model.id, ()),
            }
            for model in here.services.registry
        ],
        on_disk=[] if pulls is None else await pulls.on_disk(),
        pull=None if (state := _pull(here)) is None else _told(state),
        error=error.message if error else None,
    )


def _adapters(model: ServedModel) -> list[tuple[str, datetime]]:
    """The names that `model` answers to with an adapter, and from when each is."""
    if model.adapters is None:
        return []
    return [
        (f"{model.id}:{name}", datetime.fromtimestamp(created, UTC))
        for name, created in model.adapters.offered()
    ]


async def _note(here: Visit, act: str, name: str) -> None:
    async with here.accounts.context.change() as session:
        await here.accounts.context.note(session, here.actor, act, name[:100])


def _pull(here: Visit) -> Pull | None:
    return None if here.console.pulls is None else here.console.pulls.state


def _told(state: Pull) -> dict[str, Any]:
    return {
        "name": state.name,
        "running": state.running,
        "done": state.done_bytes,
        "total": state.total_bytes,
        "text": state.text,
        "error": state.error,
    }
