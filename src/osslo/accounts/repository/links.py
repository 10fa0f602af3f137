"""One-time links, and the invitations that some of them carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from osslo.accounts.records import Invitation, LinkKind, Page, Role
from osslo.accounts.repository.paging import page_after
from osslo.accounts.tables import InvitationRow, LinkRow


@dataclass(frozen=True, slots=True)
class Link:
    """A stored link: for whom, or for which invitation."""

    id: str
    kind: LinkKind
    user_id: str | None
    invitation: Invitation | None
    expires_at: datetime
    used_at: datetime | None


def invitation(row: InvitationRow) -> Invitation:
    """A row as it is handed out."""
    return Invitation(
        id=row.id,
        email=row.email,
        role=Role(row.role),
        invited_by=row.invited_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        used_at=row.used_at,
    )


async def add(session: AsyncSession, link: Link, *, hashed: str, at: datetime) -> None:
    """Store a new link, and its invitation if it carries one."""
    invited = link.invitation
    if invited is not None:
        session.add(
            InvitationRow(
                id=invited.id,
                email=invited.email,
                role=invited.role.value,
                invited_by=invited.invited_by,
                created_at=invited.created_at,
                expires_at=invited.expires_at,
            )
        )
        await session.flush()
    session.add(
        LinkRow(
            id=link.id,
            kind=link.kind.value,
            token_hash=hashed,
            user_id=link.user_id,
            invitation_id=invited.id if invited else None,
            created_at=at,
            expires_at=link.expires_at,
        )
    )
    await session.flush()


async def find(session: AsyncSession, hashed: str) -> Link | None:
    """The link with this hash, used or not. In a write transaction its row is locked."""
    query = select(LinkRow).where(LinkRow.token_hash == hashed).with_for_update()
    row = await session.scalar(query)
    if row is None:
        return None
    invited = await session.get(InvitationRow, row.invitation_id) if row.invitation_id else None
    return Link(
        id=row.id,
        kind=LinkKind(row.kind),
        user_id=row.user_id,
        invitation=invitation(invited) if invited else None,
        expires_at=row.expires_at,
        used_at=row.used_at,
    )


async def use(session: AsyncSession, link: Link, at: datetime) -> None:
    """Mark a link, and its invitation, as used."""
    await session.execute(update(LinkRow).where(LinkRow.id == link.id).values(used_at=at))
    if link.invitation is not None:
        query = update(InvitationRow).where(InvitationRow.id == link.invitation.id)
        await session.execute(query.values(used_at=at))


async def void(
    session: AsyncSession, kind: LinkKind, at: datetime, *, user_id: str | None = None
) -> None:
    """Let every unused link of a kind (and, where named, of a user) be used up."""
    query = update(LinkRow).where(LinkRow.kind == kind.value, LinkRow.used_at.is_(None))
    if user_id is not None:
        query = query.where(LinkRow.user_id == user_id)
    await session.execute(query.values(used_at=at))


async def invitation_by_id(session: AsyncSession, invitation_id: str) -> Invitation | None:
    """The invitation with this id."""
    row = await session.get(InvitationRow, invitation_id)
    return invitation(row) if row is not None else None


async def withdraw(session: AsyncSession, invitation_id: str) -> None:
    """Delete an unused invitation and its link."""
    await session.execute(delete(LinkRow).where(LinkRow.invitation_id == invitation_id))
    await session.execute(delete(InvitationRow).where(InvitationRow.id == invitation_id))


async def invitations(session: AsyncSession, page: Page) -> Sequence[Invitation]:
    """Invitations, newest first."""
    query = page_after(select(InvitationRow), page, InvitationRow.created_at, InvitationRow.id)
    return [invitation(row) for row in await session.scalars(query)]


async def delete_expired(session: AsyncSession, now: datetime) -> None:
    """Forget links that have expired; invitations stay listed."""
    await session.execute(delete(LinkRow).where(LinkRow.expires_at <= now))
