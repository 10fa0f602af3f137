"""Conversations: lists of items that callers keep, and that responses add to.

Every query is limited to an owner. A conversation lives for the time to live after its last use.
Items are added under a lock on the conversation's row, all or none.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Select, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from osslo.db.database import Database
from osslo.errors import NotFoundError, RateLimitError, RequestError
from osslo.settings import StoreSettings
from osslo.store.items import Item, ItemPage, Order, dump, is_id, moment
from osslo.store.paging import page_of
from osslo.store.tables import ConversationItemRow, ConversationRow

_SWEEP_ROWS = 500


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation without its items. `created_at` is in seconds of Unix time."""

    id: str
    created_at: int
    metadata: Mapping[str, str]


class ConversationStore:
    """The conversations of every owner."""

    def __init__(
        self, database: Database, settings: StoreSettings, clock: Callable[[], float]
    ) -> None:
        """`clock` gives Unix time in seconds."""
        self._database = database
        self._settings = settings
        self._clock = clock

    @property
    def _now(self) -> datetime:
        return moment(self._clock())

    @property
    def _expiry(self) -> datetime:
        return self._now + timedelta(seconds=self._settings.store_ttl_s)

    async def create(
        self, tenant: str, metadata: Mapping[str, str], items: Sequence[Item]
    ) -> Conversation:
        """A new conversation that holds `items`. Raises `RateLimitError` if its owner has as many
        as the server keeps, `RequestError` if two items share an id."""
        row = ConversationRow(
            id="conv_" + secrets.token_hex(24),
            tenant=tenant,
            created_at=self._now,
            expires_at=self._expiry,
            next_position=0,
            size_bytes=0,
            meta=dump(dict(metadata)),
        )
        async with self._database.write() as session:
            await self._check_room(session, tenant)
            session.add(row)
            await session.flush()
            await append_items(session, row, items)
        return _record(row)

    async def get(self, tenant: str, conversation_id: str) -> Conversation:
        """Raises `NotFoundError`."""
        async with self._database.read() as session:
            return _record(await self._row(session, tenant, conversation_id))

    async def update(
        self, tenant: str, conversation_id: str, metadata: Mapping[str, str]
    ) -> Conversation:
        """Put `metadata` in the place of what there was. Raises `NotFoundError`."""
        async with self._database.write() as session:
            row = await self._row(session, tenant, conversation_id, lock=True)
            row.meta = dump(dict(metadata))
            row.expires_at = self._expiry
            return _record(row)

    async def delete(self, tenant: str, conversation_id: str) -> None:
        """Delete a conversation and its items. Raises `NotFoundError`."""
        async with self._database.write() as session:
            row = await self._row(session, tenant, conversation_id, lock=True)
            await session.delete(row)

    # --- items ----------------------------------------------------------------------------------

    async def add_items(self, tenant: str, conversation_id: str, items: Sequence[Item]) -> None:
        """Append `items`. Raises `NotFoundError`; `RequestError` for an id that is there already;
        `RateLimitError` if its owner keeps too much."""
        async with self._database.write() as session:
            row = await self._row(session, tenant, conversation_id, lock=True)
            await self._check_room(session, tenant, more=0)
            await append_items(session, row, items)
            row.expires_at = self._expiry

    async def items(
        self,
        tenant: str,
        conversation_id: str,
        *,
        after: str | None = None,
        limit: int,
        order: Order = "asc",
    ) -> ItemPage:
        """A part of the items, from the one that follows the item `after`. Raises `NotFoundError`
        for an unknown conversation or `after`."""
        async with self._database.read() as session:
            row = await self._row(session, tenant, conversation_id)
            place = None
            if after is not None:
                place = (await _item(session, row.id, after)).position
            page = await page_of(
                session,
                _items_of(row.id),
                (ConversationItemRow.position,),
                after=None if place is None else (place,),
                limit=limit,
                descending=order == "desc",
            )
        return ItemPage(tuple(json.loads(item.body) for item in page.items), page.has_more)

    async def item(self, tenant: str, conversation_id: str, item_id: str) -> Item:
        """One item. Raises `NotFoundError`."""
        async with self._database.read() as session:
            row = await self._row(session, tenant, conversation_id)
            found: Item = json.loads((await _item(session, row.id, item_id)).body)
            return found

    async def delete_item(self, tenant: str, conversation_id: str, item_id: str) -> Conversation:
        """Delete one item; the conversation it was in. Raises `NotFoundError`."""
        async with self._database.write() as session:
            row = await self._row(session, tenant, conversation_id, lock=True)
            item = await _item(session, row.id, item_id)
            row.size_bytes -= len(item.body)
            await session.delete(item)
            return _record(row)

    async def history(self, tenant: str, conversation_id: str, *, most: int) -> tuple[Item, ...]:
        """Every item, in order, and a renewed time to live. Raises `NotFoundError`, and
        `RequestError` for more than `most`."""
        async with self._database.write() as session:
            row = await self._row(session, tenant, conversation_id, lock=True)
            row.expires_at = self._expiry
            wanted = _items_of(row.id).order_by(ConversationItemRow.position).limit(most + 1)
            found = (await session.scalars(wanted)).all()
        if len(found) > most:
            raise RequestError(
                f"The conversation {conversation_id} holds more than {most} items, the most that "
                "this server reads; delete some or start a new one.",
                param="conversation",
            )
        return tuple(json.loads(item.body) for item in found)

    # --- within a session -----------------------------------------------------------------------

    async def _row(
        self, session: AsyncSession, tenant: str, conversation_id: str, *, lock: bool = False
    ) -> ConversationRow:
        row = None
        if is_id(conversation_id):
            row = await conversation_row(session, tenant, conversation_id, self._now, lock=lock)
        if row is None:
            raise NotFoundError(
                f"There is no conversation with id {conversation_id[:128]!r}.",
                param="conversation_id",
            )
        return row

    async def _check_room(self, session: AsyncSession, tenant: str, *, more: int = 1) -> None:
        wanted = select(func.count(), func.coalesce(func.sum(ConversationRow.size_bytes), 0))
        wanted = wanted.where(ConversationRow.tenant == tenant)
        count, size = (await session.execute(wanted)).one()
        if count + more > self._settings.store_max_conversations:
            raise RateLimitError(
                f"You keep {count} conversations, the most that this server keeps; delete some.",
                code="store_full",
            )
        if size >= self._settings.store_max_bytes:
            raise RateLimitError(
                f"Your conversations hold {size} bytes, as much as this server keeps; delete some.",
                code="store_full",
            )


async def conversation_row(
    session: AsyncSession, tenant: str, conversation_id: str, now: datetime, *, lock: bool
) -> ConversationRow | None:
    """An owner's conversation that has not expired; with `lock` nobody else changes it."""
    wanted = select(ConversationRow).where(
        ConversationRow.id == conversation_id,
        ConversationRow.tenant == tenant,
        ConversationRow.expires_at > now,
    )
    return await session.scalar(wanted.with_for_update() if lock else wanted)


async def append_items(
    session: AsyncSession, conversation: ConversationRow, items: Sequence[Item]
) -> None:
    """Put `items` at the end of a conversation whose row this session has locked.

    Raises `RequestError` if one of their ids is there already.
    """
    ids = [item["id"] for item in items]
    taken = await _taken(session, conversation.id, ids)
    twice = sorted(taken | {item_id for item_id, count in Counter(ids).items() if count > 1})
    if twice:
        raise RequestError(
            f"The conversation {conversation.id} would hold {twice[0]!r} twice; leave out what is "
            "there already.",
            param="items",
            code="duplicate_item",
        )
    _append(session, conversation, items)


async def append_turn(
    session: AsyncSession, conversation: ConversationRow, items: Sequence[Item]
) -> None:
    """`append_items` for a response that is done: it cannot be refused any more, so an item whose
    id was taken meanwhile gets another one."""
    taken = await _taken(session, conversation.id, [item["id"] for item in items])
    fresh = [
        {**item, "id": f"item_{secrets.token_hex(24)}"} if item["id"] in taken else item
        for item in items
    ]
    _append(session, conversation, fresh)


async def _taken(session: AsyncSession, conversation_id: str, ids: Sequence[str]) -> set[str]:
    """Which of `ids` a conversation holds."""
    if not ids:
        return set()
    there = select(ConversationItemRow.item_id).where(
        ConversationItemRow.conversation_id == conversation_id, ConversationItemRow.item_id.in_(ids)
    )
    return set((await session.scalars(there)).all())


def _append(session: AsyncSession, conversation: ConversationRow, items: Sequence[Item]) -> None:
    for item in items:
        body = dump(item)
        session.add(
            ConversationItemRow(
                conversation_id=conversation.id,
                position=conversation.next_position,
                item_id=item["id"],
                body=body,
            )
        )
        conversation.next_position += 1
        conversation.size_bytes += len(body)


async def sweep_conversations(database: Database, now: datetime) -> int:
    """Delete what expired before `now`; how many."""
    old = select(ConversationRow.id).where(ConversationRow.expires_at <= now).limit(_SWEEP_ROWS)
    async with database.write() as session:
        ids = (await session.scalars(old)).all()
        if ids:
            await session.execute(delete(ConversationRow).where(ConversationRow.id.in_(ids)))
    return len(ids)


def _items_of(conversation_id: str) -> Select[ConversationItemRow]:
    return select(ConversationItemRow).where(ConversationItemRow.conversation_id == conversation_id)


async def _item(session: AsyncSession, conversation_id: str, item_id: str) -> ConversationItemRow:
    found = None
    if is_id(item_id):
        wanted = _items_of(conversation_id).where(ConversationItemRow.item_id == item_id)
        found = await session.scalar(wanted)
    if found is None:
        raise NotFoundError(
            f"There is no item with id {item_id[:128]!r} in the conversation {conversation_id}.",
            param="item_id",
        )
    return found


def _record(row: ConversationRow) -> Conversation:
    return Conversation(row.id, int(row.created_at.timestamp()), json.loads(row.meta))
