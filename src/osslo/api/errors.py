"""Errors at the edge: the one place where `OssloError` and the framework's own errors become HTTP.

OpenAI's shape, `{"error": {"message", "type", "param", "code"}}`, is the rule. Protocols with a
shape of their own stand in the table below. No answer ever holds a stack trace.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import Scope

from osslo.api.messages import errors as anthropic
from osslo.errors import NotFoundError, OssloError, QuotaError, RequestError

INTERNAL_MESSAGE = "The server failed to process the request. The request id helps to find out why."


def error_body(error: OssloError) -> dict[str, Any]:
    """The JSON body of `error` in OpenAI's shape."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


@dataclass(frozen=True, slots=True)
class ErrorShape:
    """How one family of clients reads errors. `applies` says whether a request is one of theirs."""

    applies: Callable[[Scope], bool]
    status: Callable[[OssloError], int]
    body: Callable[[OssloError], dict[str, Any]]


_OPENAI = ErrorShape(lambda _: True, lambda error: error.status, error_body)
_ANTHROPIC = ErrorShape(anthropic.speaks_anthropic, anthropic.error_status, anthropic.error_body)

SHAPES = (_ANTHROPIC, _OPENAI)
"""The first that applies is taken."""


def error_response(error: OssloError, scope: Scope) -> JSONResponse:
    """`error` as the answer to the request of `scope`, with Retry-After, WWW-Authenticate or the
    word that trying again is of no use, where they belong."""
    shape = next(shape for shape in SHAPES if shape.applies(scope))
    headers: dict[str, str] = {}
    if isinstance(error, QuotaError):
        headers["x-should-retry"] = "false"
    elif error.status in (429, 503):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s or 1)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(shape.body(error), status_code=shape.status(error), headers=headers)


def internal_error() -> OssloError:
    """What a caller learns of a bug of ours."""
    return OssloError(INTERNAL_MESSAGE)


def install_error_handlers(app: FastAPI) -> None:
    """Translate every error that a route or the router raises."""

    @app.exception_handler(OssloError)
    async def on_osslo_error(request: Request, error: OssloError) -> JSONResponse:
        return error_response(error, request.scope)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        response = error_response(_routing_error(request, error), request.scope)
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
