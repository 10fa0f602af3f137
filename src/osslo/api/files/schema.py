"""Shapes of `/v1/files`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from osslo.api.body import StrictSchema
from osslo.api.query import PageQuery
from osslo.api.shapes import Reply

Purpose = Literal["batch", "fine-tune", "user_data", "evals"]
KeptPurpose = Literal[
    "batch", "fine-tune", "user_data", "evals", "batch_output", "fine-tune-results"
]

MIN_TTL_S = 3600
MAX_TTL_S = 2_592_000


class ExpiresAfter(StrictSchema):
    """When a file is to be deleted by itself, counted from its creation."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=MIN_TTL_S, le=MAX_TTL_S)


class FileUpload(StrictSchema):
    """A multipart form."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"purpose": "user_data", "file": "Oslo is in Norway."}]}
    )

    purpose: Purpose = Field(
        description="What it is for. `batch` and `fine-tune` take JSON Lines, which are checked."
    )
    expires_after: ExpiresAfter | None = None
    file: Any = Field(
        description="The contents, with a file name.",
        json_schema_extra={"type": "string", "format": "binary"},
    )


class FileListQuery(PageQuery):
    """Which files are listed."""

    limit: int = Field(10_000, ge=1, le=10_000, description="How many, at most.")
    order: Literal["asc", "desc"] = Field("desc", description="By the time of creation.")
    purpose: KeptPurpose | None = Field(None, description="Only files with this purpose.")


class FileReply(Reply):
    """A file's description."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: KeptPurpose
    status: Literal["processed"]
    status_details: None
