"""Kept chat completions: the answer, the messages that led to it, and metadata to find it by.

Every query is limited to an owner. Bodies are JSON as text: read and written whole, never searched.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import BigInteger, ForeignKey, Index, Select, String, Text, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from osslo.db.base import Base, UtcDateTime
from osslo.db.database import Database
from osslo.errors import NotFoundError
from osslo.store.paging import Page, page_of

Order = Literal["asc", "desc"]

_ID = String(160)
_EVICTED_AT_ONCE = 32
_SWEPT_AT_ONCE = 500


class CompletionRow(Base):
    """A kept answer and the messages of its request."""

    __tablename__ = "completions"
    __table_args__ = (Index(None, "tenant", "created_at", "id"), Index(None, "expires_at"))

    id: Mapped[str] = mapped_column(_ID, primary_key=True)
    tenant: Mapped[str] = mapped_column(_ID)
    model: Mapped[str] = mapped_column(String(256))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    body: Mapped[str] = mapped_column(Text)
    messages: Mapped[str] = mapped_column(Text)


class CompletionMetadataRow(Base):
    """One pair of an answer's metadata, apart so that lists can be filtered by it."""

    __tablename__ = "completion_metadata"
    __table_args__ = (Index(None, "key", "value"),)

    completion_id: Mapped[str] = mapped_column(
        ForeignKey("completions.id", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(512))


@dataclass(frozen=True, slots=True)
class KeptCompletion:
    """An answer as it was sent (`body`, its metadata as it is now) and the request's messages."""

    id: str
    body: Mapping[str, Any]
    messages: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class CompletionFilter:
    """Which answers a list holds: all that match."""

    model: str | None = None
    metadata: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class CompletionLimits:
    """How long an answer is kept, and how many answers and bytes of one owner."""

    ttl_s: float
    most: int
    most_bytes: int


class CompletionStore:
    """The kept chat completions of every owner. `now` gives the moment, in UTC."""

    def __init__(
        self, database: Database, limits: CompletionLimits, *, now: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._limits = limits
        self._now = now

    async def add(
        self,
        tenant: str,
        body: Mapping[str, Any],
        messages: Sequence[Mapping[str, Any]],
    ) -> None:
        """Keep an answer. The owner's oldest ones go where there would be too many."""
        now = self._now()
        answer, asked = _text(body), _text(messages)
        row = CompletionRow(
            id=body["id"],
            tenant=tenant,
            model=body["model"],
            created_at=now,
            expires_at=now + timedelta(seconds=self._limits.ttl_s),
            size_bytes=len(answer.encode()) + len(asked.encode()),
            body=answer,
            messages=asked,
        )
        async with self._database.write() as session:
            await self._make_room(session, tenant, row.size_bytes)
            session.add(row)
            await session.flush()
            _add_metadata(session, row.id, body.get("metadata") or {})

    async def get(self, tenant: str, completion_id: str) -> KeptCompletion:
        """One answer. Raises `NotFoundError`."""
        async with self._database.read() as session:
            row = await self._row(session, tenant, completion_id)
            return (await _kept(session, [row]))[0]

    async def list(
        self,
        tenant: str,
        wanted: CompletionFilter,
        *,
        after: str | None,
        limit: int,
        order: Order,
    ) -> Page[KeptCompletion]:
        """A part of the owner's answers, by age. Raises `NotFoundError` for an `after` that is not
        there."""
        key = (CompletionRow.created_at, CompletionRow.id)
        async with self._database.read() as session:
            place = None
            if after is not None:
                last = await self._row(session, tenant, after)
                place = (last.created_at, last.id)
            page = await page_of(
                session,
                self._matching(tenant, wanted),
                key,
                after=place,
                limit=limit,
                descending=order == "desc",
            )
            return Page(tuple(await _kept(session, page.items)), page.has_more)

    async def update(
        self, tenant: str, completion_id: str, metadata: Mapping[str, str]
    ) -> KeptCompletion:
        """Replace the metadata of an answer. Raises `NotFoundError`."""
        async with self._database.write() as session:
            row = await self._row(session, tenant, completion_id, lock=True)
            await session.execute(
                delete(CompletionMetadataRow).where(
                    CompletionMetadataRow.completion_id == completion_id
                )
            )
            _add_metadata(session, completion_id, metadata)
            await session.flush()
            return (await _kept(session, [row]))[0]

    async def delete(self, tenant: str, completion_id: str) -> None:
        """Delete an answer, at once and for good. Raises `NotFoundError`."""
        async with self._database.write() as session:
            row = await self._row(session, tenant, completion_id, lock=True)
            await session.execute(delete(CompletionRow).where(CompletionRow.id == row.id))

    def _matching(self, tenant: str, wanted: CompletionFilter) -> Select[CompletionRow]:
        rows = select(CompletionRow).where(
            CompletionRow.tenant == tenant, CompletionRow.expires_at > self._now()
        )
        if wanted.model is not None:
            rows = rows.where(CompletionRow.model == wanted.model)
        for key, value in (wanted.metadata or {}).items():
            rows = rows.where(
                select(CompletionMetadataRow.key)
                .where(
                    CompletionMetadataRow.completion_id == CompletionRow.id,
                    CompletionMetadataRow.key == key,
                    CompletionMetadataRow.value == value,
                )
                .exists()
            )
        return rows

    async def _row(
        self, session: AsyncSession, tenant: str, completion_id: str, *, lock: bool = False
    ) -> CompletionRow:
        wanted = select(CompletionRow).where(
            CompletionRow.id == completion_id,
            CompletionRow.tenant == tenant,
            CompletionRow.expires_at > self._now(),
        )
        row = await session.scalar(wanted.with_for_update() if lock else wanted)
        if row is None:
            raise NotFoundError(
                f"There is no kept chat completion {completion_id!r}. Answers are kept if asked "
                "for with 'store': true, until they expire or are deleted."
            )
        return row

    async def _make_room(self, session: AsyncSession, tenant: str, size_bytes: int) -> None:
        """Delete the owner's oldest answers until one more of `size_bytes` fits."""
        owned = CompletionRow.tenant == tenant
        while True:
            totals = select(func.count(), func.coalesce(func.sum(CompletionRow.size_bytes), 0))
            count, used = (await session.execute(totals.where(owned))).one()
            if count == 0 or (
                count < self._limits.most and used + size_bytes <= self._limits.most_bytes
            ):
                return
            oldest = select(CompletionRow.id).where(owned).order_by(CompletionRow.created_at)
            ids = (await session.scalars(oldest.limit(max(1, min(count, _EVICTED_AT_ONCE))))).all()
            ids = ids[: max(1, count - self._limits.most + 1)]
            await session.execute(delete(CompletionRow).where(CompletionRow.id.in_(ids)))


async def sweep_completions(database: Database, now: datetime) -> int:
    """Delete some of the answers, of whatever owner, that expired before `now`; how many."""
    async with database.write() as session:
        expired = select(CompletionRow.id).where(CompletionRow.expires_at <= now)
        ids = (await session.scalars(expired.limit(_SWEPT_AT_ONCE))).all()
        await session.execute(delete(CompletionRow).where(CompletionRow.id.in_(ids)))
        return len(ids)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def _add_metadata(session: AsyncSession, completion_id: str, metadata: Mapping[str, str]) -> None:
    session.add_all(
        CompletionMetadataRow(completion_id=completion_id, key=key, value=value)
        for key, value in metadata.items()
    )


async def _kept(session: AsyncSession, rows: Sequence[CompletionRow]) -> list[KeptCompletion]:
    metadata: dict[str, dict[str, str]] = {row.id: {} for row in rows}
    pairs = select(CompletionMetadataRow).where(CompletionMetadataRow.completion_id.in_(metadata))
    for pair in await session.scalars(pairs.order_by(CompletionMetadataRow.key)):
        metadata[pair.completion_id][pair.key] = pair.value
    return [
        KeptCompletion(
            row.id,
            {**json.loads(row.body), "metadata": metadata[row.id]},
            json.loads(row.messages),
        )
        for row in rows
    ]
