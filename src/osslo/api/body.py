"""Request bodies: read under a size limit, parsed as JSON, checked against a schema.

Every way in which a body can be wrong becomes a `RequestError` that names the parameter.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, from_json
from starlette.requests import ClientDisconnect, Request

from osslo.errors import BodyTooLargeError, RequestError

_OFF_LOOP_BYTES = 65_536
"""Bodies larger than this are parsed in a thread, so that the event loop is not held up."""

_DISCARDED_FACTOR = 8
"""An oversize body is read and thrown away up to this multiple of the limit, because a client
that is still sending would miss the answer if the connection were cut."""

REFUSED_MARK = "x-osslo-refused"

S = TypeVar("S", bound=BaseModel)


class StrictSchema(BaseModel):
    """Base of request schemas: no coercion, no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


def refused(why: str = "it cannot apply here") -> Any:
    """A field that is known, so that it can be refused by name, but never taken: the OpenAPI
    document leaves it out."""
    return Field(None, description=f"Refused: {why}.", json_schema_extra={REFUSED_MARK: True})


def one_of(*values: str) -> Any:
    """A text of which only `values` are taken, refused by name otherwise: for `Annotated`."""
    return Field(json_schema_extra={"enum": list(values)})


async def read_json(request: Request, schema: type[S], *, limit_bytes: int) -> S:
    """The body of `request` as a `schema`.

    Raises `BodyTooLargeError` over `limit_bytes` (also without a Content-Length), `RequestError`
    for malformed JSON, bad UTF-8 or a value of the wrong type.
    """
    raw = await read_body(request, limit_bytes)
    if len(raw) > _OFF_LOOP_BYTES:
        return await asyncio.to_thread(parse_body, raw, schema)
    return parse_body(raw, schema)


def parse_body(raw: bytes, schema: type[S]) -> S:
    """Parse and check `raw`; see `read_json`."""
    data = _json(raw)
    if not isinstance(data, dict):
        raise RequestError("The request body must be a JSON object.", code="invalid_json")
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise as_request_error(error, data) from None


async def read_body(request: Request, limit_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit_bytes * _DISCARDED_FACTOR:
        raise _too_large(limit_bytes)
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size <= limit_bytes:
                chunks.append(chunk)
            else:
                chunks.clear()
            if size > limit_bytes * _DISCARDED_FACTOR:
                break
    except ClientDisconnect:
        raise RequestError("The client went away while sending the body.") from None
    if size > limit_bytes:
        raise _too_large(limit_bytes)
    return b"".join(chunks)


def _too_large(limit_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"The request body is larger than the {limit_bytes} bytes that this server takes."
    )


def _json(raw: bytes) -> Any:
    try:
        return from_json(raw, allow_inf_nan=False)
    except (ValueError, RecursionError) as error:
        problem = _utf8_problem(raw) or f"The request body is not valid JSON: {error}."
        code = "invalid_utf8" if _utf8_problem(raw) else "invalid_json"
        raise RequestError(problem, code=code) from None


def _utf8_problem(raw: bytes) -> str | None:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"The request body is not valid UTF-8 (byte {error.start})."
    return None


def as_request_error(error: ValidationError, data: Mapping[str, Any]) -> RequestError:
    """The most telling of pydantic's errors: of a union's branches, the one that went deepest."""
    details = max(error.errors(include_url=False), key=lambda d: len(_steps(d, data)))
    param = _spell(_steps(details, data))
    match details["type"]:
        case "missing":
            message, code = f"Missing required parameter: '{param}'.", "missing_required_parameter"
        case "extra_forbidden":
            message, code = f"Unrecognized parameter: '{param}'.", "unknown_parameter"
        case "value_error":
            reason = details["msg"].removeprefix("Value error, ")
            message, code = f"Invalid value for '{param}': {reason}.", "invalid_value"
        case _:
            reason = details["msg"].removeprefix("Input ").rstrip(".")
            message, code = f"Invalid value for '{param}': it {reason}.", "invalid_type"
    return RequestError(message.replace("it should", "it must"), param=param, code=code)


def _steps(details: ErrorDetails, data: Any) -> list[str | int]:
    """The path of an error within `data`. Pydantic puts the names of union branches between the
    keys; walking along the data tells them apart."""
    steps: list[str | int] = []
    location: Sequence[str | int] = details["loc"]
    for place, step in enumerate(location):
        last = place == len(location) - 1
        if isinstance(data, dict) and (step in data or (last and details["type"] == "missing")):
            data = data.get(step)
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
        else:
            continue
        steps.append(step)
    return steps


def _spell(steps: Sequence[str | int]) -> str:
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.removeprefix(".")


def compact_json(value: Any) -> bytes:
    """`value` as compact UTF-8 JSON, as it is sent."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
