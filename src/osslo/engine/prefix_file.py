"""A run on disk: consecutive whole pages of one text in one file. What is kept is `prefix_disk`'s.

    8 bytes   magic
    4 bytes   little-endian length of the header
    32 bytes  SHA-256 of the header
    header    JSON: identity, the pages' digests, sizes, checksums
    pages     full-attention pages, then those window pages that there are

A page's digest stands for the text up to its end (`next_digest`), for whose it is and for what
computed it (`root_digest`); no token is written, and no tenant's name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osslo.engine.prefix_cache import Scope
from osslo.model.forward import PageKind

MAGIC = b"OSSLOKV1"
PREAMBLE_BYTES = 44
_LARGEST_HEADER = 1 << 20

Bytes = NDArray[np.uint8]


def root_digest(identity: str, scope: Scope) -> bytes:
    """Where the texts of a scope begin."""
    return hashlib.sha256(json.dumps([identity, *scope]).encode()).digest()


def next_digest(before: bytes, key: bytes) -> bytes:
    """The digest of the page with the tokens `key` behind the page with the digest `before`."""
    return hashlib.sha256(before + key).digest()


def checksum(page: Bytes) -> str:
    """What a page on disk is checked by."""
    return hashlib.sha256(page.data).hexdigest()


class DamagedRunError(Exception):
    """A file that is no run, or not whole; never leaves this package."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a file's header says. `window_checksums` has None where a page has no window page."""

    identity: str
    digests: tuple[bytes, ...]
    page_bytes: tuple[int, int]  # full, window
    full_checksums: tuple[str, ...]
    window_checksums: tuple[str | None, ...]
    header_bytes: int = 0

    @property
    def file_bytes(self) -> int:
        windows = sum(entry is not None for entry in self.window_checksums)
        full, window = self.page_bytes
        return self.header_bytes + len(self.digests) * full + windows * window

    def offset(self, kind: PageKind, index: int) -> int:
        """Where the page number `index` of a kind stands in the file."""
        full, window = self.page_bytes
        if kind is PageKind.FULL:
            return self.header_bytes + index * full
        before = sum(entry is not None for entry in self.window_checksums[:index])
        return self.header_bytes + len(self.digests) * full + before * window

    def checksum(self, kind: PageKind, index: int) -> str | None:
        sums = self.full_checksums if kind is PageKind.FULL else self.window_checksums
        return sums[index]


@dataclass(frozen=True, slots=True)
class NewRun:
    """Copies of consecutive pages, to be written. `chain` are the digests of the text's pages up to
    and with these, which are its last."""

    chain: tuple[bytes, ...]
    full: tuple[Bytes, ...]
    window: tuple[Bytes | None, ...]

    @property
    def digests(self) -> tuple[bytes, ...]:
        return self.chain[len(self.chain) - len(self.full) :]

    @property
    def pages(self) -> list[Bytes]:
        """All pages, in the file's order."""
        return [*self.full, *(page for page in self.window if page is not None)]

    @property
    def nbytes(self) -> int:
        return sum(page.nbytes for page in self.pages)


def write_run(path: Path, new: NewRun, identity: str, page_bytes: tuple[int, int]) -> Run:
    """Write a run beside its place, then move it there. Raises OSError."""
    header = {
        "identity": identity,
        "digests": [digest.hex() for digest in new.digests],
        "page_bytes": page_bytes,
        "full": [checksum(page) for page in new.full],
        "window": [None if page is None else checksum(page) for page in new.window],
    }
    body = json.dumps(header, separators=(",", ":")).encode()
    preamble = MAGIC + len(body).to_bytes(4, "little") + hashlib.sha256(body).digest()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        descriptor = os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(preamble)
            file.write(body)
            for page in new.pages:
                file.write(page.data)
        partial.rename(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    return _parse(header, PREAMBLE_BYTES + len(body))


def read_run(path: Path) -> Run:
    """The header of a run whose file is as long as it says. Raises DamagedRunError, OSError."""
    with path.open("rb") as file:
        preamble = file.read(PREAMBLE_BYTES)
        length = int.from_bytes(preamble[8:12], "little")
        body = file.read(min(length, _LARGEST_HEADER))
        size = os.fstat(file.fileno()).st_size
    if preamble[:8] != MAGIC or hashlib.sha256(body).digest() != preamble[12:44]:
        raise DamagedRunError(f"{path} is no run of pages, or its header is damaged")
    try:
        run = _parse(json.loads(body), PREAMBLE_BYTES + len(body))
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedRunError(f"{path} has a header of another format") from error
    if run.file_bytes != size:
        raise DamagedRunError(f"{path} has {size} bytes instead of {run.file_bytes}")
    return run


def read_pages(path: Path, run: Run, kind: PageKind, first: int, pages: Sequence[Bytes]) -> None:
    """Read consecutive pages of a kind, from number `first` on, into `pages`, and check them.

    Raises DamagedRunError, OSError; `pages` then hold anything.
    """
    with path.open("rb", buffering=0) as file:
        wanted = sum(page.nbytes for page in pages)
        buffers = [page.data for page in pages]
        if os.preadv(file.fileno(), buffers, run.offset(kind, first)) != wanted:
            raise DamagedRunError(f"{path} ends too early")
    for index, page in enumerate(pages, start=first):
        if checksum(page) != run.checksum(kind, index):
            raise DamagedRunError(f"{path}: {kind} page {index} does not match its checksum")


def _parse(header: dict[str, Any], header_bytes: int) -> Run:
    full, window = header["page_bytes"]
    if not len(header["digests"]) == len(header["full"]) == len(header["window"]) > 0:
        raise ValueError("each page has a digest and its checksums")
    return Run(
        identity=header["identity"],
        digests=tuple(bytes.fromhex(digest) for digest in header["digests"]),
        page_bytes=(full, window),
        full_checksums=tuple(header["full"]),
        window_checksums=tuple(header["window"]),
        header_bytes=header_bytes,
    )
