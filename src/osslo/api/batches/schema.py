"""Shapes of `/v1/batches`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from osslo.api.body import StrictSchema
from osslo.api.files.schema import ExpiresAfter
from osslo.api.shapes import Metadata, Reply

Endpoint = Literal["/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/moderations"]
Status = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
MAX_WINDOW_HOURS = 168


class BatchCreateRequest(StrictSchema):
    """A batch to run."""

    input_file_id: str = Field(
        max_length=64, description="A file of purpose `batch`: JSON Lines, one request each."
    )
    endpoint: Endpoint
    completion_window: str = Field(
        pattern=r"^[1-9][0-9]{0,2}h$",
        description="After so many hours, 168 at most, what has not run is left.",
    )
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


class BatchErrorReply(Reply):
    """Why a batch cannot run; `line` counts from 1."""

    code: str
    message: str
    line: int | None
    param: str | None


class BatchErrorsReply(Reply):
    object: Literal["list"]
    data: list[BatchErrorReply]


class RequestCountsReply(Reply):
    total: int
    completed: int
    failed: int


class BatchInputDetails(Reply):
    cached_tokens: int


class BatchOutputDetails(Reply):
    reasoning_tokens: int


class BatchUsageReply(Reply):
    """The tokens of all requests that ran."""

    input_tokens: int
    input_tokens_details: BatchInputDetails
    output_tokens: int
    output_tokens_details: BatchOutputDetails
    total_tokens: int


class BatchReply(Reply):
    """A batch as it is now."""

    id: str
    object: Literal["batch"]
    endpoint: Endpoint
    model: str | None
    errors: BatchErrorsReply | None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCountsReply
    usage: BatchUsageReply
    metadata: dict[str, str] | None
