"""API keys. The text of a key is never here, only its hash."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from osslo.accounts.records import (
    GuardMode,
    Key,
    KeyHolder,
    KeyRules,
    KeyState,
    Page,
    RateLimits,
    SpendingPeriod,
)
from osslo.accounts.repository import users
from osslo.accounts.repository.paging import page_after
from osslo.accounts.tables import KeyRow, UserRow


def record(row: KeyRow) -> Key:
    """A row as it is handed out."""
    return Key(
        id=row.id,
        user_id=row.user_id,
        prefix=row.prefix,
        state=KeyState(row.state),
        rules=_rules(row),
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        retires_at=row.retires_at,
        rotated_from=row.rotated_from,
    )


def _rules(row: KeyRow) -> KeyRules:
    return KeyRules(
        name=row.name,
        expires_at=row.expires_at,
        models=None if row.models is None else tuple(row.models),
        networks=tuple(row.networks),
        guard=None if row.guard is None else GuardMode(row.guard),
        management=row.management,
        spending_limit_nanousd=row.spending_limit_nanousd,
        spending_period=SpendingPeriod(row.spending_period),
        limits=RateLimits(row.requests_per_minute, row.tokens_per_minute),
    )


def _columns(rules: KeyRules) -> dict[str, Any]:
    return {
        "name": rules.name,
        "expires_at": rules.expires_at,
        "models": None if rules.models is None else list(rules.models),
        "networks": list(rules.networks),
        "guard": None if rules.guard is None else rules.guard.value,
        "management": rules.management,
        "spending_limit_nanousd": rules.spending_limit_nanousd,
        "spending_period": rules.spending_period.value,
        "requests_per_minute": rules.limits.requests_per_minute,
        "tokens_per_minute": rules.limits.tokens_per_minute,
    }


async def add(session: AsyncSession, key: Key, *, hashed: str) -> None:
    """Store a new key."""
    session.add(
        KeyRow(
            id=key.id,
            user_id=key.user_id,
            prefix=key.prefix,
            hash=hashed,
            state=key.state.value,
            created_at=key.created_at,
            rotated_from=key.rotated_from,
            **_columns(key.rules),
        )
    )
    await session.flush()


async def by_id(session: AsyncSession, key_id: str) -> Key | None:
    """The key with this id."""
    row = await session.get(KeyRow, key_id)
    return record(row) if row is not None else None


async def holder(session: AsyncSession, hashed: str) -> KeyHolder | None:
    """The key with this hash, whatever its state, and its user."""
    query = select(KeyRow, UserRow).join(UserRow, UserRow.id == KeyRow.user_id)
    found = (await session.execute(query.where(KeyRow.hash == hashed))).first()
    return KeyHolder(record(found[0]), users.record(found[1])) if found else None


async def hash_of(session: AsyncSession, key_id: str) -> str | None:
    """The hash of the key with this id."""
    return await session.scalar(select(KeyRow.hash).where(KeyRow.id == key_id))


async def set_rules(session: AsyncSession, key_id: str, rules: KeyRules) -> None:
    """Replace what a key may do."""
    await session.execute(update(KeyRow).where(KeyRow.id == key_id).values(**_columns(rules)))


async def retire(session: AsyncSession, key_id: str, at: datetime) -> None:
    """Let a key work until `at` only."""
    await session.execute(update(KeyRow).where(KeyRow.id == key_id).values(retires_at=at))


async def revoke(session: AsyncSession, key_ids: Iterable[str]) -> None:
    """End keys for good."""
    query = update(KeyRow).where(KeyRow.id.in_(list(key_ids)))
    await session.execute(query.values(state=KeyState.REVOKED.value))


async def of_user(session: AsyncSession, user_id: str, *, active: bool) -> Sequence[Key]:
    """All keys of a user, or all that are not revoked."""
    query = select(KeyRow).where(KeyRow.user_id == user_id)
    if active:
        query = query.where(KeyRow.state == KeyState.ACTIVE.value)
    return [record(row) for row in await session.scalars(query)]


async def page(session: AsyncSession, page: Page, *, user_id: str | None) -> Sequence[Key]:
    """Keys, newest first: a user's, or everybody's."""
    query = select(KeyRow)
    if user_id is not None:
        query = query.where(KeyRow.user_id == user_id)
    query = page_after(query, page, KeyRow.created_at, KeyRow.id)
    return [record(row) for row in await session.scalars(query)]


async def used(session: AsyncSession, moments: Mapping[str, datetime]) -> None:
    """Note when keys were last used."""
    for key_id, at in sorted(moments.items()):
        await session.execute(update(KeyRow).where(KeyRow.id == key_id).values(last_used_at=at))
