"""Fetching one large file: resumed where it stopped, checked while it comes, named when whole.

`huggingface_hub` throws partial files away when a download fails; the weights of gpt-oss come in
pieces of 5 GB, so here they are kept and continued.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx

from osslo.errors import DownloadError

PARTIAL_SUFFIX = ".part"
_CHUNK_BYTES = 1 << 20
_ATTEMPTS = 6  # in a row without a byte
_LONGEST_PAUSE_S = 30.0
_GONE = frozenset({401, 403, 404, 410})  # trying again does not help

Report = Callable[[int], None]
"""Called with the bytes of the file that are there."""


@dataclass(frozen=True, slots=True)
class FileSum:
    """What a file must be: its size, and one of the two sums that the hub knows.

    `sha256` of the content (large files), or git's `blob_sha1` over `blob <size>\\0` and content.
    """

    size_bytes: int
    sha256: str | None = None
    blob_sha1: str | None = None


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


def fetch_file(
    client: httpx.Client,
    url: str,
    target: Path,
    expected: FileSum,
    *,
    headers: Mapping[str, str] | None = None,
    report: Report | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Download `url` to `target`; a partial file from an earlier try is continued.

    Lost connections are taken up again after a pause. Raises `DownloadError` when the server
    cannot be reached, refuses, or sends something else; what has come so far is kept, unless its
    sum is wrong.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + PARTIAL_SUFFIX)
    failures = 0
    while _size(partial) != expected.size_bytes:
        before = _size(partial)
        try:
            _continue(client, url, partial, expected, headers=headers or {}, report=report)
        except httpx.TransportError as error:
            failures = 1 if _size(partial) > before else failures + 1
            if failures >= _ATTEMPTS:
                raise DownloadError(_lost(target, url, error)) from error
            pause(min(2.0**failures / 2, _LONGEST_PAUSE_S))
        except OSError as error:
            raise DownloadError(_unwritable(target, error)) from error
    if not matches(partial, expected, report):
        partial.unlink()
        raise DownloadError(
            f"{target.name} came damaged (its checksum differs) and was thrown away; try again"
        )
    partial.replace(target)


def matches(path: Path, expected: FileSum, report: Report | None = None) -> bool:
    """Whether the file at `path` has the expected size and sum."""
    if _size(path) != expected.size_bytes:
        return False
    digest = _digest(expected)
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            if report:
                report(done)
    return digest.hexdigest() == (expected.sha256 or expected.blob_sha1)


def partial_bytes(target: Path) -> int:
    """Bytes of `target` that are on the disk already, whole or partial."""
    return _size(target) or _size(target.with_name(target.name + PARTIAL_SUFFIX))


def _continue(
    client: httpx.Client,
    url: str,
    partial: Path,
    expected: FileSum,
    *,
    headers: Mapping[str, str],
    report: Report | None,
) -> None:
    """One request for what is missing. A server without ranges sends everything again."""
    start = _size(partial)
    if start > expected.size_bytes:
        partial.unlink()
        start = 0
    # Any content coding would make sizes and ranges mean something else.
    wanted = {**headers, "Accept-Encoding": "identity"}
    if start:
        wanted["Range"] = f"bytes={start}-"
    with client.stream("GET", url, headers=wanted) as response:
        if response.status_code in _GONE:
            raise DownloadError(f"{url}: refused with {response.status_code}")
        if response.status_code not in (200, 206):
            raise httpx.RemoteProtocolError(f"status {response.status_code}")
        whole = response.status_code == 200
        done = 0 if whole else start
        with partial.open("wb" if whole else "ab") as file:
            # Chunks as they come: gathered into larger ones, a lost connection would lose more.
            for chunk in response.iter_raw():
                file.write(chunk)
                done += len(chunk)
                if done > expected.size_bytes:
                    raise DownloadError(f"{url}: sent more than {expected.size_bytes} bytes")
                if report:
                    report(done)
    if done < expected.size_bytes:
        raise httpx.RemoteProtocolError(f"ended after {done} of {expected.size_bytes} bytes")


def _digest(expected: FileSum) -> _Digest:
    if expected.sha256:
        return hashlib.sha256()
    # Git's own sum of small files; it guards against accidents, not against attackers.
    digest = hashlib.sha1(usedforsecurity=False)
    digest.update(b"blob %d\0" % expected.size_bytes)
    return digest


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _lost(target: Path, url: str, error: httpx.TransportError) -> str:
    host = httpx.URL(url).host
    return (
        f"{target.name} could not be fetched from {host}: {str(error) or type(error).__name__}; "
        "what has come so far is kept, run the same command to go on"
    )


def _unwritable(target: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{target}: the disk is full; make room and run the same command to go on"
    return f"{target}: cannot be written ({error.strerror or error})"
