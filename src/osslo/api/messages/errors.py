"""Errors as Anthropic's clients read them: `{"type": "error", "error": {"type", "message"}}`.

Their `error.details.error_code` carries our code, which their clients show as `error_code`, and
`param` where the error has one. A full queue is their 529, an empty balance their 402.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Literal

from starlette.datastructures import Headers
from starlette.types import Scope

from osslo.api.shapes import Reply
from osslo.errors import ContextLengthError, OssloError, OverloadedError, QuotaError
from osslo.telemetry import REQUEST_ID

_PATHS = ("/v1/messages", "/v1/complete")
_VERSION_HEADER = "anthropic-version"

_TYPES = MappingProxyType(
    {
        401: "authentication_error",
        402: "billing_error",
        403: "permission_error",
        404: "not_found_error",
        409: "conflict_error",
        413: "request_too_large",
        429: "rate_limit_error",
        504: "timeout_error",
        529: "overloaded_error",
    }
)

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "billing_error",
    "permission_error",
    "not_found_error",
    "conflict_error",
    "request_too_large",
    "rate_limit_error",
    "timeout_error",
    "overloaded_error",
    "api_error",
]


class ErrorDetails(Reply):
    error_code: str
    param: str | None = None


class MessagesErrorDetail(Reply):
    type: ErrorType
    message: str
    details: ErrorDetails | None = None


class MessagesErrorReply(Reply):
    """Anthropic's error shape."""

    type: Literal["error"]
    error: MessagesErrorDetail
    request_id: str


def speaks_anthropic(scope: Scope) -> bool:
    """Whether a request wants Anthropic's shapes: by its path, or by the header that their clients
    send with everything."""
    path: str = scope["path"]
    if any(path == own or path.startswith(own + "/") for own in _PATHS):
        return True
    return _VERSION_HEADER in Headers(scope=scope)


def error_status(error: OssloError) -> int:
    """The HTTP status that Anthropic's API gives such an error."""
    if isinstance(error, OverloadedError):
        return 529
    if isinstance(error, QuotaError):
        return 402
    return error.status


def error_body(error: OssloError) -> dict[str, Any]:
    """The JSON of `error`, also for an `error` event within a stream."""
    detail: dict[str, Any] = {"type": _type(error_status(error)), "message": _message(error)}
    if error.code is not None:
        detail["details"] = {"error_code": error.code}
        if error.param is not None:
            detail["details"]["param"] = error.param
    return {"type": "error", "error": detail, "request_id": REQUEST_ID.get()}


def _type(status: int) -> str:
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


def _message(error: OssloError) -> str:
    """Agents look for Anthropic's words to know that a conversation has to be shortened."""
    if isinstance(error, ContextLengthError) and "prompt is too long" not in error.message:
        return f"prompt is too long: {error.message}"
    return error.message
