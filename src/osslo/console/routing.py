"""How the console's routes answer: errors become pages, strangers are led to the sign-in page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from osslo.api.sessions import signed_in_of
from osslo.console.visit import SignInNeeded, Visit, to_sign_in
from osslo.errors import AuthenticationError, OssloError
from osslo.telemetry import LOGGER_NAME

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

_log = logging.getLogger(LOGGER_NAME + ".console")

_HEADINGS = {
    400: "That did not work",
    403: "You may not do this",
    404: "There is nothing here",
    409: "That does not go together",
    429: "Too many tries",
    503: "Not now",
}


class PageRoute(APIRoute):
    """A route that answers with pages, whatever happens."""

    def get_route_handler(self) -> Handler:
        inner = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await inner(request)
            except SignInNeeded:
                return to_sign_in(request)
            except OssloError as error:
                if isinstance(error, AuthenticationError):
                    return to_sign_in(request)
                return await _error_page(request, error)
            except ValueError:  # an enumeration's value that no form of ours sends
                _log.warning("a form held a value that cannot be", exc_info=True)
                return await _error_page(request, _UNREADABLE)

        return handler


_UNREADABLE = OssloError("A field of the form held a value that cannot be. Reload the page.")
_UNREADABLE.status = 400


async def _error_page(request: Request, error: OssloError) -> Response:
    here = Visit(request, await signed_in_of(request))
    return here.page(
        "message.html",
        status=error.status,
        heading=_HEADINGS.get(error.status, "Something went wrong"),
        text=error.message,
        link="/console",
        link_text="To the console",
    )


def page_router() -> APIRouter:
    """A router of pages, which are not part of the API's document."""
    return APIRouter(include_in_schema=False, route_class=PageRoute)
