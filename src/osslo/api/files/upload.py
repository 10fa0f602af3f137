"""Reading an upload: a multipart form whose file goes to disk as it comes.

Nothing of the file stays in memory beyond a buffer, and no more than the limit is ever written.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from fastapi import Request
from pydantic import ValidationError
from pydantic_core import from_json
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from osslo.api.body import as_request_error
from osslo.api.files.schema import FileUpload
from osslo.api.parameters import missing
from osslo.errors import BodyTooLargeError, RequestError

T = TypeVar("T")

_BUFFER_BYTES = 1 << 20
_MAX_FIELDS = 16
_MAX_FIELD_BYTES = 4096
_DISCARDED_FACTOR = 2
"""An oversize upload is read and thrown away up to this multiple of the limit: a client that still
sends would miss the answer if the connection were cut."""

_FORM_OVERHEAD_BYTES = 65_536
_NESTED = re.compile(r"([^\[\]]+)\[([^\[\]]+)\]")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Received:
    """An upload that arrived: the checked form, and the file at the path that was given."""

    form: FileUpload
    filename: str
    size_bytes: int


async def receive(request: Request, path: Path, *, limit_bytes: int) -> Received:
    """Write the form's file to `path` and check its fields.

    Raises `BodyTooLargeError` for a file over `limit_bytes`, `RequestError` for what is not a
    form, or holds too much or too little. The caller deletes `path` if anything is raised.
    """
    with await asyncio.to_thread(path.open, "wb") as target:
        form = _Form(_boundary(request), limit_bytes)
        await _read(request, form, target, limit_bytes)
        await asyncio.to_thread(form.drain, target)
    if form.filename is None:
        raise missing("file", "send it as a part of the form, with a file name")
    return Received(_checked(form.fields), form.filename, form.size_bytes)


def check_json_lines(path: Path) -> None:
    """Raise `RequestError` with the number of the first line that is not a JSON object."""
    count = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            count += 1
            try:
                good = isinstance(from_json(line, allow_inf_nan=False), dict)
            except (ValueError, RecursionError):
                good = False
            if not good:
                raise RequestError(
                    "The file must be JSON Lines, one JSON object a line; "
                    f"line {number} is not a JSON object.",
                    param="file",
                    code="invalid_jsonl",
                )
    if not count:
        raise RequestError("The file is empty.", param="file", code="empty_file")


async def _read(request: Request, form: _Form, target: BinaryIO, limit_bytes: int) -> None:
    whole = limit_bytes + _FORM_OVERHEAD_BYTES
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > whole * _DISCARDED_FACTOR:
        raise _too_large(limit_bytes)
    seen = 0
    try:
        async for chunk in request.stream():
            seen += len(chunk)
            if seen > whole * _DISCARDED_FACTOR:
                break
            if not form.too_large:
                form.feed(chunk)
            if len(form.pending) >= _BUFFER_BYTES:
                await asyncio.to_thread(form.drain, target)
    except ClientDisconnect:
        raise RequestError("The client went away while sending the file.") from None
    if form.too_large:
        raise _too_large(limit_bytes)
    form.end()


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary or len(boundary) > 256:
        raise RequestError(
            "A file is sent as a form: Content-Type multipart/form-data with a boundary.",
            code="invalid_form",
        )
    return boundary


def _too_large(limit_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"The file is larger than the {limit_bytes} bytes that this server takes.", param="file"
    )


@dataclass
class _Part:
    """One part of the form while it is read."""

    header: bytearray = field(default_factory=bytearray)
    value: bytearray = field(default_factory=bytearray)
    headers: dict[bytes, bytes] = field(default_factory=dict)
    text: bytearray = field(default_factory=bytearray)
    name: str = ""
    is_file: bool = False


class _Form:
    """The form as it comes in: small fields, and one file whose bytes wait in `pending`."""

    def __init__(self, boundary: bytes, limit_bytes: int) -> None:
        self.fields: dict[str, Any] = {}
        self.filename: str | None = None
        self.size_bytes = 0
        self.too_large = False
        self.pending = bytearray()
        self._limit_bytes = limit_bytes
        self._part = _Part()
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_part_data": self._data,
                "on_part_end": self._finish_part,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> None:
        _parsed(lambda: self._parser.write(chunk))

    def end(self) -> None:
        _parsed(self._parser.finalize)
        if not self._ended:
            raise _broken()

    def drain(self, target: BinaryIO) -> None:
        """Write what waits."""
        target.write(self.pending)
        self.pending.clear()

    def _begin(self) -> None:
        self._part = _Part()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._part.header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.value += data[start:end]

    def _header_end(self) -> None:
        part = self._part
        part.headers[bytes(part.header).lower()] = bytes(part.value)
        part.header, part.value = bytearray(), bytearray()

    def _headers_finished(self) -> None:
        part = self._part
        disposition = part.headers.get(b"content-disposition", b"")
        _, options = parse_options_header(disposition)
        part.name = options.get(b"name", b"").decode("utf-8", "replace")
        part.is_file = part.name == "file"
        if part.is_file:
            if self.filename is not None:
                raise RequestError("The form holds two files; send one.", param="file")
            self.filename = _clean(options.get(b"filename", b"").decode("utf-8", "replace"))
        elif len(self.fields) >= _MAX_FIELDS:
            raise RequestError(f"The form holds more than {_MAX_FIELDS} fields.")

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if not part.is_file:
            part.text += data[start:end]
            if len(part.text) > _MAX_FIELD_BYTES:
                shown = part.name[:64]
                raise RequestError(f"The form's field '{shown}' is too long.", param=shown)
            return
        self.size_bytes += end - start
        if self.size_bytes > self._limit_bytes:
            self.too_large = True
            self.pending.clear()
        if not self.too_large:
            self.pending += data[start:end]

    def _finish_part(self) -> None:
        part = self._part
        if part.is_file:
            return
        nested = _NESTED.fullmatch(part.name)
        base, key = (nested[1], nested[2]) if nested else (part.name, None)
        text = part.text.decode("utf-8", "replace")
        if key is None:
            self.fields[base] = text
        elif isinstance(self.fields.setdefault(base, {}), dict):
            self.fields[base][key] = text

    def _end(self) -> None:
        self._ended = True


def _parsed(step: Callable[[], T]) -> T:
    try:
        return step()
    except FormParserError:
        raise _broken() from None


def _broken() -> RequestError:
    return RequestError("The form is cut off or not well formed.", code="invalid_form")


def _clean(filename: str) -> str:
    """The last part of a path, without what cannot be printed."""
    last = re.split(r"[/\\]", _UNPRINTABLE.sub("", filename))[-1].strip()
    return last[:255] or "file"


def _checked(fields: dict[str, Any]) -> FileUpload:
    data = {**fields, "file": ""}
    try:
        return FileUpload.model_validate_strings(data)
    except ValidationError as error:
        raise as_request_error(error, data) from None
