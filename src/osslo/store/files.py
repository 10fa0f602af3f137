"""Files of callers: the description in the database, the contents in a folder.

Contents lie under hashed names that hold nothing of the caller's, readable by the server's user
only. Every query is limited to an owner's `tenant`, except for the worker's and the sweep's.
Several servers on one database must share the folder.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from osslo.db.database import Database
from osslo.errors import ConflictError, NotFoundError, RequestError
from osslo.settings import FileSettings
from osslo.store.job_tables import BatchRow, FileRow
from osslo.store.paging import Page, page_of

INCOMING = "incoming"
ENDED = ("completed", "failed", "expired", "cancelled")
_ORPHAN_AGE_S = 3600.0
_SWEEP_ROWS = 500

Clock = Callable[[], datetime]
Order = Literal["asc", "desc"]


def utc_now() -> datetime:
    """This moment."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file. `expires_at` is when it is deleted by itself."""

    id: str
    tenant: str
    filename: str
    purpose: str
    size_bytes: int
    blob: str
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file whose contents lie complete at `contents`, a path that `FileStore.incoming` gave.
    `ttl_s` None takes the server's."""

    tenant: str
    filename: str
    purpose: str
    size_bytes: int
    contents: Path
    ttl_s: float | None = None


class FileStore:
    """The files of every owner."""

    def __init__(
        self, database: Database, folder: Path, settings: FileSettings, clock: Clock = utc_now
    ) -> None:
        self.database = database
        self.settings = settings
        self._folder = folder
        self._clock = clock

    def incoming(self) -> Path:
        """A path for contents on their way in; the caller deletes it if they do not arrive."""
        folder = self._folder / INCOMING
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder / secrets.token_hex(16)

    def path(self, file: StoredFile) -> Path:
        """Where the contents lie."""
        return self._blob_path(file.blob)

    async def add(self, new: NewFile) -> StoredFile:
        """Take `new` over. Raises `RequestError` where the owner's files would take too much."""
        async with self.database.write() as session:
            stored = await self.place(session, new)
            used = await session.scalar(
                select(func.sum(FileRow.size_bytes)).where(FileRow.tenant == new.tenant)
            )
            if (used or 0) > self.settings.max_owner_file_bytes:
                await asyncio.to_thread(self.path(stored).unlink, missing_ok=True)
                raise RequestError(
                    f"Your files would take {used} bytes; the most is "
                    f"{self.settings.max_owner_file_bytes}. Delete some first.",
                    param="file",
                    code="storage_limit_exceeded",
                )
        return stored

    async def place(self, session: AsyncSession, new: NewFile) -> StoredFile:
        """Take `new` over within the caller's transaction, whatever it takes."""
        file_id = "file-" + secrets.token_hex(12)
        now = self._clock()
        ttl_s = self.settings.file_ttl_s if new.ttl_s is None else new.ttl_s
        stored = StoredFile(
            id=file_id,
            tenant=new.tenant,
            filename=new.filename[:255],
            purpose=new.purpose,
            size_bytes=new.size_bytes,
            blob=hashlib.sha256(file_id.encode()).hexdigest(),
            created_at=now,
            expires_at=now + timedelta(seconds=ttl_s),
        )
        await asyncio.to_thread(_settle, new.contents, self.path(stored))
        session.add(FileRow(**{name: getattr(stored, name) for name in StoredFile.__slots__}))
        await session.flush()
        return stored

    async def get(self, tenant: str, file_id: str) -> StoredFile:
        """Raises `NotFoundError`, also for another owner's file and for one that expired."""
        found = await self.find(file_id)
        if found is None or found.tenant != tenant:
            raise _no_such_file(file_id)
        return found

    async def find(self, file_id: str) -> StoredFile | None:
        """The file, whoever owns it: for the worker."""
        async with self.database.read() as session:
            row = await session.get(FileRow, file_id)
        return _file(row) if row is not None and row.expires_at > self._clock() else None

    async def page(
        self, tenant: str, *, purpose: str | None, after: str | None, limit: int, order: Order
    ) -> Page[StoredFile]:
        """A part of the owner's files. Raises `NotFoundError` if there is no file `after`."""
        wanted = select(FileRow).where(FileRow.tenant == tenant, FileRow.expires_at > self._clock())
        if purpose is not None:
            wanted = wanted.where(FileRow.purpose == purpose)
        async with self.database.read() as session:
            rows = await page_of(
                session,
                wanted,
                (FileRow.created_at, FileRow.id),
                after=None if after is None else await self._place(session, tenant, after),
                limit=limit,
                descending=order == "desc",
            )
        return Page(tuple(_file(row) for row in rows.items), rows.has_more)

    async def _place(
        self, session: AsyncSession, tenant: str, file_id: str
    ) -> tuple[datetime, str]:
        row = await session.get(FileRow, file_id)
        if row is None or row.tenant != tenant:
            raise _no_such_file(file_id, param="after")
        return row.created_at, row.id

    async def delete(self, tenant: str, file_id: str) -> None:
        """Delete a file and its contents. Raises `NotFoundError`, `ConflictError` while a batch
        reads it."""
        async with self.database.write() as session:
            row = await session.get(FileRow, file_id)
            if row is None or row.tenant != tenant:
                raise _no_such_file(file_id)
            reader = await session.scalar(
                select(BatchRow.id).where(
                    BatchRow.input_file_id == file_id, BatchRow.status.not_in(ENDED)
                )
            )
            if reader is not None:
                raise ConflictError(
                    f"The batch {reader} still reads {file_id}; cancel it or wait for its end.",
                    code="file_in_use",
                )
            await session.delete(row)
            blob = row.blob
        await asyncio.to_thread(self._blob_path(blob).unlink, missing_ok=True)

    async def sweep(self) -> int:
        """Delete what expired (but nothing that a batch still reads), and contents without a
        description, which a crash may leave. How many files were deleted."""
        in_use = select(BatchRow.input_file_id).where(BatchRow.status.not_in(ENDED))
        async with self.database.write() as session:
            gone = (
                await session.execute(
                    select(FileRow.id, FileRow.blob)
                    .where(FileRow.expires_at <= self._clock(), FileRow.id.not_in(in_use))
                    .limit(_SWEEP_ROWS)
                )
            ).all()
            await session.execute(delete(FileRow).where(FileRow.id.in_([row.id for row in gone])))
        for row in gone:
            await asyncio.to_thread(self._blob_path(row.blob).unlink, missing_ok=True)
        await self._sweep_orphans()
        return len(gone)

    async def _sweep_orphans(self) -> None:
        old = await asyncio.to_thread(lambda: list(self._old_contents()))
        for start in range(0, len(old), _SWEEP_ROWS):
            part = old[start : start + _SWEEP_ROWS]
            async with self.database.read() as session:
                known = set(
                    await session.scalars(
                        select(FileRow.blob).where(FileRow.blob.in_([p.name for p in part]))
                    )
                )
            for path in part:
                if path.name not in known:
                    await asyncio.to_thread(path.unlink, missing_ok=True)

    def _old_contents(self) -> Iterator[Path]:
        before = time.time() - _ORPHAN_AGE_S
        for path in self._folder.glob("*/*"):
            try:
                if path.is_file() and path.stat().st_mtime < before:
                    yield path
            except FileNotFoundError:
                continue

    def _blob_path(self, blob: str) -> Path:
        return self._folder / blob[:2] / blob


def _settle(contents: Path, target: Path) -> None:
    """Make `contents` durable under its final name."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contents.open("rb") as file:
        os.fsync(file.fileno())
    contents.rename(target)


def _file(row: FileRow) -> StoredFile:
    return StoredFile(**{name: getattr(row, name) for name in StoredFile.__slots__})


def _no_such_file(file_id: str, param: str | None = None) -> NotFoundError:
    return NotFoundError(f"There is no file {file_id[:64]!r}.", param=param, code="file_not_found")
