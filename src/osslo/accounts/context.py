"""What every service of the accounts works with: database, clock, secrets, audit log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from osslo.accounts.passwords import Passwords
from osslo.accounts.records import Actor
from osslo.accounts.repository import audit, settings
from osslo.accounts.secrets import Pepper
from osslo.db.database import Database


def utc_now() -> datetime:
    """The moment, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Context:
    """Shared by the services of one process."""

    database: Database
    pepper: Pepper
    passwords: Passwords = field(default_factory=Passwords)
    now: Callable[[], datetime] = utc_now

    @asynccontextmanager
    async def change(self) -> AsyncIterator[AsyncSession]:
        """A transaction that changes accounts: such changes happen one after another on all
        replicas, and each tells every replica to look again."""
        async with self.database.write() as session:
            await settings.changing(session)
            yield session

    async def note(
        self,
        session: AsyncSession,
        actor: Actor,
        act: str,
        target: str | None = None,
        **details: Any,
    ) -> None:
        """Put an act into the audit log, in the transaction that does it. Details that are None
        are left out."""
        told = {name: value for name, value in details.items() if value is not None}
        await audit.add(session, actor, act, target, details=told, at=self.now())
