"""Settings kept in the database, and the counter that tells replicas of changes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from osslo.accounts.tables import SettingRow, VersionRow


async def every(session: AsyncSession) -> dict[str, Any]:
    """All that were ever set."""
    return {row.key: row.value for row in await session.scalars(select(SettingRow))}


async def put(session: AsyncSession, key: str, value: Any) -> None:
    """Set one."""
    await session.merge(SettingRow(key=key, value=value))
    await session.flush()


async def version(session: AsyncSession) -> int:
    """How often accounts have changed."""
    return (await session.scalar(select(VersionRow.version))) or 0


async def changing(session: AsyncSession) -> None:
    """Count a change. It also makes such changes wait for each other until they commit."""
    await session.execute(update(VersionRow).values(version=VersionRow.version + 1))
