"""Puts the console into the application: its pages and its static files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, FastAPI
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from osslo.console.pages import (
    account,
    admin_models,
    admin_people,
    admin_server,
    entry,
    keys,
    overview,
    play,
    public,
    usage,
)
from osslo.console.routing import page_router
from osslo.console.templating import STATIC_PATH, static_folder
from osslo.console.visit import Console, Visit, visit
from osslo.errors import NotFoundError

_KEPT_S = 31_536_000

_elsewhere = page_router()


@_elsewhere.get("/console/{path:path}")
async def nothing_here(path: str, _: Annotated[Visit, Depends(visit)]) -> Response:
    """Any other address of the console."""
    raise NotFoundError(f"There is no page /console/{path[:80]}.")


_ROUTERS = (
    entry.router,
    overview.router,
    keys.router,
    usage.router,
    account.router,
    play.router,
    public.router,
    admin_people.router,
    admin_server.router,
    admin_models.router,
    _elsewhere,
)


def install_console(app: FastAPI, console: Console) -> None:
    """Add the console to `app`, whose services have accounts."""
    app.state.console = console
    files = StaticFiles(directory=static_folder())
    app.mount(STATIC_PATH, _Kept(files), name="console-static")
    for router in _ROUTERS:
        app.include_router(router)


@dataclass(frozen=True, slots=True)
class _Kept:
    """Static files: those whose address holds their version may be kept for ever."""

    files: StaticFiles
    headers: tuple[tuple[bytes, bytes], ...] = field(
        default=((b"x-content-type-options", b"nosniff"),)
    )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        versioned = b"v=" in scope.get("query_string", b"")
        kept = f"public, max-age={_KEPT_S}, immutable" if versioned else "no-cache"

        async def send_kept(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [*self.headers, (b"cache-control", kept.encode())]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        await self.files(scope, receive, send_kept)
