"""Users."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from osslo.accounts.records import Page, RateLimits, Role, User, UserState
from osslo.accounts.repository.paging import page_after
from osslo.accounts.tables import UserRow


def record(row: UserRow) -> User:
    """A row as it is handed out."""
    return User(
        id=row.id,
        email=row.email,
        name=row.name,
        role=Role(row.role),
        state=UserState(row.state),
        limits=RateLimits(row.requests_per_minute, row.tokens_per_minute),
        created_at=row.created_at,
        last_sign_in_at=row.last_sign_in_at,
    )


async def add(session: AsyncSession, user: User, *, password_hash: str | None) -> None:
    """Store a new user."""
    session.add(
        UserRow(
            id=user.id,
            email=user.email,
            name=user.name,
            password_hash=password_hash,
            role=user.role.value,
            state=user.state.value,
            requests_per_minute=user.limits.requests_per_minute,
            tokens_per_minute=user.limits.tokens_per_minute,
            created_at=user.created_at,
            last_sign_in_at=user.last_sign_in_at,
        )
    )
    await session.flush()


async def by_id(session: AsyncSession, user_id: str) -> User | None:
    """The user with this id."""
    row = await session.get(UserRow, user_id)
    return record(row) if row is not None else None


async def by_email(session: AsyncSession, email: str) -> User | None:
    """The user with this (lower-cased) e-mail address."""
    row = await session.scalar(select(UserRow).where(UserRow.email == email))
    return record(row) if row is not None else None


async def password_hash(session: AsyncSession, user_id: str) -> str | None:
    """The stored hash; None if the user has no password yet."""
    return await session.scalar(select(UserRow.password_hash).where(UserRow.id == user_id))


async def change(session: AsyncSession, user_id: str, **values: Any) -> None:
    """Set columns of a user."""
    await session.execute(update(UserRow).where(UserRow.id == user_id).values(**values))


async def signed_in(session: AsyncSession, user_id: str, at: datetime) -> None:
    """Note a sign-in."""
    await change(session, user_id, last_sign_in_at=at)


async def any_exist(session: AsyncSession) -> bool:
    """Whether there is a user at all."""
    return (await session.scalar(select(UserRow.id).limit(1))) is not None


async def count_owners(session: AsyncSession) -> int:
    """How many active owners there are."""
    count = await session.scalar(
        select(func.count())
        .select_from(UserRow)
        .where(UserRow.role == Role.OWNER.value, UserRow.state == UserState.ACTIVE.value)
    )
    return count or 0


async def page(session: AsyncSession, page: Page, *, search: str | None = None) -> Sequence[User]:
    """Users, newest first. `search` is looked for in e-mail addresses and names."""
    query = select(UserRow)
    if search:
        query = query.where(
            UserRow.email.icontains(search, autoescape=True)
            | UserRow.name.icontains(search, autoescape=True)
        )
    query = page_after(query, page, UserRow.created_at, UserRow.id)
    return [record(row) for row in await session.scalars(query)]
