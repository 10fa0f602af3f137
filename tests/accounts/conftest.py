"""Accounts over real databases, with cheap password hashes and a clock that tests turn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from osslo.accounts.context import Context
from osslo.accounts.passwords import Passwords
from osslo.accounts.records import COMMAND_LINE, Actor, KeyRules, NewKey, Role, User
from osslo.accounts.secrets import Pepper
from osslo.accounts.service import Accounts, assemble
from osslo.db.database import Database, sqlite_url
from osslo.db.migrate import upgrade

PASSWORD = "four unrelated words"
PEPPER = Pepper(b"a pepper for tests, and only for tests")


@dataclass
class Clock:
    """A clock that moves when it is told to: a date, and seconds that only grow."""

    at: datetime = field(default_factory=lambda: datetime(2026, 3, 1, 12, tzinfo=UTC))
    ticks: float = 1000.0

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.ticks

    def advance(self, **parts: float) -> None:
        step = timedelta(**parts)
        self.at += step
        self.ticks += step.total_seconds()


def cheap_passwords() -> Passwords:
    """argon2id with the least parameters, so that tests are quick."""
    return Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


def make_accounts(database: Database, clock: Clock | None = None) -> Accounts:
    now: Callable[[], datetime] = clock.now if clock else (lambda: datetime.now(UTC))
    return assemble(Context(database, PEPPER, cheap_passwords(), now))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def sqlite(tmp_path: Path, clock: Clock) -> AsyncIterator[Accounts]:
    """Accounts on SQLite, for rules in which no database has a part."""
    database = Database(sqlite_url(tmp_path / "osslo.db"))
    await upgrade(database)
    yield make_accounts(database, clock)
    await database.close()


@pytest.fixture
def accounts(database: Database, clock: Clock) -> Accounts:
    return make_accounts(database, clock)


def actor(user: User) -> Actor:
    """The user, in a session."""
    return Actor(kind="user", role=user.role, user_id=user.id, address="192.0.2.1")


async def make_user(
    accounts: Accounts, name: str = "ann", role: Role = Role.MEMBER, password: str | None = None
) -> User:
    return await accounts.users.create(
        COMMAND_LINE, email=f"{name}@example.com", name=name, role=role, password=password
    )


async def make_key(accounts: Accounts, user: User, **rules: object) -> NewKey:
    given = {"name": "a key"} | rules
    return await accounts.keys.create(actor(user), user.id, KeyRules(**given))  # type: ignore[arg-type]  # whatever the test gives
