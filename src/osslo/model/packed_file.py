"""The packed file's outer form: header, tensor table, checksums. What the tensors mean is `pack`'s.

    8 bytes   magic
    8 bytes   little-endian length of the header
    32 bytes  SHA-256 of the header
    header    JSON: version, configuration, precision, source, tensors, file size
    tensors   each at a multiple of 4,096 bytes, in the table's order

A file is written beside its place under another name and moved there when it is whole, so that a
killed pack leaves nothing that loads.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osslo.errors import PackedFileError
from osslo.kernels.panels import WeightKind
from osslo.model.config import ModelConfig

MAGIC = b"OSSLOPK1"
VERSION = 1
"""Raised when the layout of headers or panels changes; older files are packed again."""

ALIGNMENT = 4096
SUFFIX = ".osslo"
TOKENIZER = "tokenizer"
"""The table's name for the packed tokenizer, bytes of its own format."""

_PREAMBLE_BYTES = 48
_LARGEST_HEADER = 64 << 20
_NO_DIGEST = "0" * 64
_READ_BYTES = 8 << 20

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """One entry of the table. `kind` is None for bytes that are no weights."""

    name: str
    kind: WeightKind | None
    rows: int
    columns: int
    offset: int
    bytes: int
    sha256: str = _NO_DIGEST


@dataclass(frozen=True, slots=True)
class PackedHeader:
    """All that a packed file says of itself. `precision` is `default` or `exact`."""

    config: ModelConfig
    precision: str
    name: str
    fingerprint: str
    tensors: tuple[PackedTensor, ...]
    file_bytes: int

    def tensor(self, name: str) -> PackedTensor | None:
        return next((tensor for tensor in self.tensors if tensor.name == name), None)


def encode_header(header: PackedHeader) -> bytes:
    """Preamble and header. Its length does not depend on the tensors' checksums."""
    document = {
        "version": VERSION,
        "config": header.config.to_dict(),
        "precision": header.precision,
        "name": header.name,
        "fingerprint": header.fingerprint,
        "file_bytes": header.file_bytes,
        "tensors": [
            [
                t.name,
                t.kind.name if t.kind else None,
                t.rows,
                t.columns,
                t.offset,
                t.bytes,
                t.sha256,
            ]
            for t in header.tensors
        ],
    }
    body = json.dumps(document, separators=(",", ":")).encode()
    return MAGIC + len(body).to_bytes(8, "little") + hashlib.sha256(body).digest() + body


def read_header(path: Path) -> PackedHeader:
    """Read and check the header, the table and the file's size; a few milliseconds.

    Raises PackedFileError, one line that says what is wrong with the file.
    """
    try:
        with path.open("rb") as file:
            preamble = file.read(_PREAMBLE_BYTES)
            length = int.from_bytes(preamble[8:16], "little")
            body = file.read(min(length, _LARGEST_HEADER))
        size = path.stat().st_size
    except OSError as error:
        raise PackedFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    if preamble[:8] != MAGIC:
        raise PackedFileError(f"{path}: not a packed model; make one with `osslo pack`")
    if len(body) != length or hashlib.sha256(body).digest() != preamble[16:48]:
        raise PackedFileError(f"{path}: the header is truncated or corrupted; pack the model again")
    return _parse_header(path, json.loads(body), size)


def _parse_header(path: Path, document: Mapping[str, Any], size: int) -> PackedHeader:
    if document["version"] != VERSION:
        raise PackedFileError(
            f"{path}: packed with format {document['version']}, this version reads {VERSION}; "
            "pack the model again"
        )
    if document["file_bytes"] != size:
        raise PackedFileError(
            f"{path}: {size} bytes, but the header says {document['file_bytes']}; "
            "the file is truncated, pack the model again"
        )
    tensors = tuple(
        PackedTensor(name, WeightKind[kind] if kind else None, *rest)
        for name, kind, *rest in document["tensors"]
    )
    return PackedHeader(
        config=ModelConfig.from_dict(document["config"], source=str(path)),
        precision=document["precision"],
        name=document["name"],
        fingerprint=document["fingerprint"],
        tensors=tensors,
        file_bytes=size,
    )


def read_tensor(path: Path, tensor: PackedTensor) -> bytes:
    """The bytes of one tensor."""
    with path.open("rb") as file:
        file.seek(tensor.offset)
        data = file.read(tensor.bytes)
    if len(data) != tensor.bytes:
        raise PackedFileError(f"{path}: tensor {tensor.name} is truncated; pack the model again")
    return data


def verify(path: Path, progress: Progress | None = None) -> PackedHeader:
    """Check every tensor's checksum. Raises PackedFileError naming the first that differs."""
    header = read_header(path)
    total, done = sum(tensor.bytes for tensor in header.tensors), 0
    with path.open("rb") as file:
        for tensor in header.tensors:
            digest = hashlib.sha256()
            file.seek(tensor.offset)
            left = tensor.bytes
            while left:
                chunk = file.read(min(left, _READ_BYTES))
                if not chunk:
                    break
                digest.update(chunk)
                left -= len(chunk)
                done += len(chunk)
                if progress:
                    progress(done, total)
            if digest.hexdigest() != tensor.sha256:
                raise PackedFileError(
                    f"{path}: tensor {tensor.name} does not match its checksum; "
                    "pack the model again"
                )
    return header


def remove_abandoned(target: Path) -> None:
    """Delete what killed packs of `target` left behind; a living process's file is kept."""
    for partial in target.parent.glob(f".{target.name}.*.partial"):
        owner = partial.name.split(".")[-2]
        if not (owner.isdigit() and _is_alive(int(owner))):
            partial.unlink(missing_ok=True)


def partial_path(target: Path) -> Path:
    """Where this process writes before the move to `target`."""
    return target.with_name(f".{target.name}.{os.getpid()}.partial")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
