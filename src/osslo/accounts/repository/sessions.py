"""Signed-in sessions, found by the hash of their cookie's token."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from osslo.accounts.records import Session, SignedIn
from osslo.accounts.repository import users
from osslo.accounts.tables import SessionRow, UserRow


def record(row: SessionRow) -> Session:
    """A row as it is handed out."""
    return Session(
        id=row.id,
        user_id=row.user_id,
        created_at=row.created_at,
        last_seen_at=row.last_seen_at,
        expires_at=row.expires_at,
        user_agent=row.user_agent,
        address=row.address,
    )


async def add(session: AsyncSession, new: Session, *, hashed: str, csrf: str) -> None:
    """Store a new session."""
    session.add(
        SessionRow(
            id=new.id,
            token_hash=hashed,
            user_id=new.user_id,
            csrf=csrf,
            created_at=new.created_at,
            last_seen_at=new.last_seen_at,
            expires_at=new.expires_at,
            user_agent=new.user_agent,
            address=new.address,
        )
    )
    await session.flush()


async def signed_in(session: AsyncSession, hashed: str) -> SignedIn | None:
    """The session with this hash and its user, whatever their states."""
    query = select(SessionRow, UserRow).join(UserRow, UserRow.id == SessionRow.user_id)
    found = (await session.execute(query.where(SessionRow.token_hash == hashed))).first()
    if found is None:
        return None
    return SignedIn(users.record(found[1]), record(found[0]), found[0].csrf)


async def seen(session: AsyncSession, session_id: str, *, at: datetime, until: datetime) -> None:
    """Note that a session is in use, and until when it lasts."""
    query = update(SessionRow).where(SessionRow.id == session_id)
    await session.execute(query.values(last_seen_at=at, expires_at=until))


async def end(session: AsyncSession, hashed: str) -> None:
    """End the session with this hash, if there is one."""
    await session.execute(delete(SessionRow).where(SessionRow.token_hash == hashed))


async def end_one(session: AsyncSession, user_id: str, session_id: str) -> bool:
    """End one session of a user; False if there is none such."""
    query = delete(SessionRow).where(SessionRow.id == session_id, SessionRow.user_id == user_id)
    return len((await session.scalars(query.returning(SessionRow.id))).all()) == 1


async def end_all(session: AsyncSession, user_id: str, *, but: str | None = None) -> int:
    """End a user's sessions, but for the one with the id `but`; how many there were."""
    query = delete(SessionRow).where(SessionRow.user_id == user_id)
    if but is not None:
        query = query.where(SessionRow.id != but)
    return len((await session.scalars(query.returning(SessionRow.id))).all())


async def of_user(session: AsyncSession, user_id: str, now: datetime) -> Sequence[Session]:
    """A user's sessions that have not expired, last used first."""
    query = select(SessionRow).where(SessionRow.user_id == user_id, SessionRow.expires_at > now)
    rows = await session.scalars(query.order_by(SessionRow.last_seen_at.desc()))
    return [record(row) for row in rows]


async def delete_expired(session: AsyncSession, now: datetime) -> None:
    """Forget sessions that have expired."""
    await session.execute(delete(SessionRow).where(SessionRow.expires_at <= now))
