"""The audit log: rows are added and read, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from osslo.accounts.records import Actor, AuditEntry
from osslo.accounts.tables import AuditRow


async def add(
    session: AsyncSession,
    actor: Actor,
    act: str,
    target: str | None,
    *,
    details: Mapping[str, Any],
    at: datetime,
) -> None:
    """Note one act, in the transaction that does it."""
    session.add(
        AuditRow(
            at=at,
            actor=actor.kind,
            actor_id=actor.user_id,
            act=act,
            target=target,
            details=dict(details),
            address=actor.address,
        )
    )


async def page(
    session: AsyncSession,
    *,
    limit: int,
    before: int | None = None,
    act: str | None = None,
    actor_id: str | None = None,
    target: str | None = None,
) -> Sequence[AuditEntry]:
    """Entries, newest first, with ids below `before`; one more than `limit` if there are more."""
    query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(AuditRow.id < before)
    for column, wanted in (
        (AuditRow.act, act),
        (AuditRow.actor_id, actor_id),
        (AuditRow.target, target),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    return [
        AuditEntry(
            row.id, row.at, row.actor, row.actor_id, row.act, row.target, row.details, row.address
        )
        for row in await session.scalars(query)
    ]
