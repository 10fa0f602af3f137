"""The routes of `/v1/files`. Contents go to and from disk without passing through memory."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, JSONResponse, Response

from osslo.api.auth import WithCaller
from osslo.api.files.schema import FileListQuery, FileReply, FileUpload
from osslo.api.files.upload import check_json_lines, receive
from osslo.api.openai_replies import page_fields
from osslo.api.openapi import operation
from osslo.api.query import read_query
from osslo.api.services import Services, WithServices
from osslo.api.shapes import DeletedReply, Page
from osslo.errors import UnsupportedError
from osslo.store.files import FileStore, NewFile, StoredFile

router = APIRouter(tags=["files"])

_JSON_LINES = ("batch", "fine-tune")
_ERRORS = (400, 401, 404, 429, 500)


def files_of(services: Services) -> FileStore:
    """The server's files. Raises `UnsupportedError` where it keeps none."""
    if services.files is None:
        raise UnsupportedError("This server keeps no files.")
    return services.files


@router.post(
    "/v1/files",
    summary="Upload a file",
    openapi_extra=operation(
        body=FileUpload,
        body_media="multipart/form-data",
        reply=FileReply,
        errors=(*_ERRORS, 413, 503),
        description="The file's description.",
    ),
)
async def create_file(request: Request, services: WithServices, caller: WithCaller) -> Response:
    """Keep a file until it expires or is deleted."""
    services.lifecycle.check()
    store = files_of(services)
    path = await asyncio.to_thread(store.incoming)
    try:
        received = await receive(request, path, limit_bytes=store.settings.max_file_bytes)
        if received.form.purpose in _JSON_LINES:
            await asyncio.to_thread(check_json_lines, path)
        expiry = received.form.expires_after
        stored = await store.add(
            NewFile(
                tenant=caller.tenant,
                filename=received.filename,
                purpose=received.form.purpose,
                size_bytes=received.size_bytes,
                contents=path,
                ttl_s=None if expiry is None else expiry.seconds,
            )
        )
    finally:
        await asyncio.to_thread(path.unlink, missing_ok=True)
    return JSONResponse(file_fields(stored))


@router.get(
    "/v1/files",
    summary="List files",
    openapi_extra=operation(
        query=FileListQuery,
        reply=Page[FileReply],
        errors=_ERRORS,
        description="A page of your files.",
    ),
)
async def list_files(request: Request, services: WithServices, caller: WithCaller) -> Response:
    """Your files."""
    query = read_query(request, FileListQuery)
    page = await files_of(services).page(
        caller.tenant,
        purpose=query.purpose,
        after=query.after,
        limit=query.limit,
        order=query.order,
    )
    return JSONResponse(
        page_fields([file_fields(file) for file in page.items], has_more=page.has_more)
    )


@router.get(
    "/v1/files/{file_id}",
    summary="One file",
    openapi_extra=operation(reply=FileReply, errors=_ERRORS, description="Its description."),
)
async def get_file(file_id: str, services: WithServices, caller: WithCaller) -> Response:
    """A file's description."""
    return JSONResponse(file_fields(await files_of(services).get(caller.tenant, file_id)))


@router.get(
    "/v1/files/{file_id}/content",
    summary="A file's contents",
    openapi_extra=operation(
        media={"application/octet-stream": None}, errors=_ERRORS, description="The contents."
    ),
)
async def get_file_content(file_id: str, services: WithServices, caller: WithCaller) -> Response:
    """The contents, as they were uploaded or produced. Never shown by a browser as a page."""
    store = files_of(services)
    file = await store.get(caller.tenant, file_id)
    return FileResponse(
        store.path(file),
        media_type="application/octet-stream",
        headers={
            "content-disposition": f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}",
            "x-content-type-options": "nosniff",
        },
    )


@router.delete(
    "/v1/files/{file_id}",
    summary="Delete a file",
    openapi_extra=operation(
        reply=DeletedReply, errors=(*_ERRORS, 409), description="It is gone, contents and all."
    ),
)
async def delete_file(file_id: str, services: WithServices, caller: WithCaller) -> Response:
    """Delete a file and its contents. Refused while a batch reads it."""
    await files_of(services).delete(caller.tenant, file_id)
    return JSONResponse({"id": file_id, "object": "file", "deleted": True})


def file_fields(file: StoredFile) -> dict[str, Any]:
    """A file as OpenAI's clients read it."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": int(file.created_at.timestamp()),
        "expires_at": int(file.expires_at.timestamp()),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }
