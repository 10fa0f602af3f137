"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

The one place where `OssloError` and the framework's own errors become HTTP. No answer ever holds a
stack trace.
"""

from __future__ import annotations

import math
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from osslo.errors import NotFoundError, OssloError, RequestError

INTERNAL_MESSAGE = "The server failed to process the request. The request id helps to find out why."


def error_body(error: OssloError) -> dict[str, Any]:
    """The JSON body of `error`."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


def error_response(error: OssloError) -> JSONResponse:
    """`error` as a response, with Retry-After or WWW-Authenticate where they belong."""
    headers: dict[str, str] = {}
    if error.status in (429, 503):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s or 1)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error_body(error), status_code=error.status, headers=headers)


def internal_error() -> OssloError:
    """What a caller learns of a bug of ours."""
    return OssloError(INTERNAL_MESSAGE)


def install_error_handlers(app: FastAPI) -> None:
    """Translate every error that a route or the router raises."""

    @app.exception_handler(OssloError)
    async def on_osslo_error(_: Request, error: OssloError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        response = error_response(_routing_error(request, error))
        response.headers.update(error.headers or {})
        return response


def _routing_error(request: Request, error: HTTPException) -> OssloError:
    where = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return NotFoundError(
            f"There is no {where} here; see /docs for what there is.", code="unknown_url"
        )
    if error.status_code == 405:
        translated = RequestError(
            f"{where} is not allowed; the Allow header says which methods are.",
            code="method_not_allowed",
        )
    else:
        translated = RequestError(str(error.detail), code="http_error")
    translated.status = error.status_code
    return translated
