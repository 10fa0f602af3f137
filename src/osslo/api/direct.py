"""The short way to the endpoints that generate: from their path straight to them.

FastAPI's way there (routers that match a path several times over, a solver of dependencies, stacks
of contexts) costs as much as all that the endpoint itself does before it renders. The routes stay
FastAPI's: it documents them, and answers other methods and spellings of their paths.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import APIRouter, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from osslo.api.errors import error_response
from osslo.api.idempotency import Handler, IdempotentRoute
from osslo.errors import OssloError


class DirectRoutes:
    """Calls the endpoints of those POST routes of `routers` that can be called directly, and leaves
    everything else to `app`."""

    def __init__(self, app: ASGIApp, *, routers: Iterable[APIRouter]) -> None:
        self._app = app
        self._routes: dict[str, tuple[IdempotentRoute, Handler]] = {}
        for route in (route for router in routers for route in router.routes):
            if isinstance(route, IdempotentRoute) and (handler := route.direct_handler()):
                self._routes[route.path] = route, handler

    @property
    def paths(self) -> frozenset[str]:
        """The paths that are served directly."""
        return frozenset(self._routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._routes.get(scope["path"]) if scope["type"] == "http" else None
        if found is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["route"], handler = found
        try:
            response = await handler(Request(scope, receive, send))
        except OssloError as error:
            response = error_response(error, scope)
        await response(scope, receive, send)
