"""Who calls, and what money they have: most have plenty, some are always short of it, and one has
a key that may not spend much."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from osslo.accounts.ledger.journal import commit
from osslo.accounts.ledger.operations import Post
from osslo.accounts.ledger.records import EntryKind
from osslo.accounts.records import COMMAND_LINE, Actor, KeyRules, User
from osslo.accounts.service import Accounts, open_accounts
from osslo.db.database import Database
from osslo.db.migrate import upgrade
from osslo.settings import AccountsSettings

DOLLAR = 1_000_000_000
RICH, POOR = 8, 3
KEY_LIMIT_NANOUSD = DOLLAR // 100
GIFT_NANOUSD = 60_000
"""What the poor get at a time: less than most of their requests put aside."""


class Means(StrEnum):
    RICH = "rich"
    POOR = "poor"
    LIMITED = "limited"


@dataclass(frozen=True, slots=True)
class Person:
    """A user with a key."""

    user_id: str
    key: str
    means: Means


async def invite(database_url: str, home: Path) -> tuple[Person, ...]:
    """Migrate the database and fill it with people."""
    database = Database(database_url)
    try:
        await upgrade(database)
        accounts = open_accounts(database, AccountsSettings(), home)
        kinds = [*[Means.RICH] * RICH, *[Means.POOR] * POOR, Means.LIMITED]
        people = [await _person(accounts, f"u{place}", kind) for place, kind in enumerate(kinds)]
    finally:
        await database.close()
    for person in people:
        amount = GIFT_NANOUSD if person.means is Means.POOR else 100 * DOLLAR
        await give(database_url, person.user_id, amount, f"first:{person.user_id}")
    return tuple(people)


async def _person(accounts: Accounts, name: str, means: Means) -> Person:
    user: User = await accounts.users.create(
        COMMAND_LINE, email=f"{name}@example.org", name=name, password=None
    )
    limit = KEY_LIMIT_NANOUSD if means is Means.LIMITED else None
    key = await accounts.keys.create(
        Actor("user", user.role, user.id),
        user.id,
        KeyRules(name=name, spending_limit_nanousd=limit),
    )
    return Person(user.id, key.text, means)


async def give(database_url: str, user_id: str, amount_nanousd: int, name: str) -> None:
    """Top up, as a payment system does that is not sure of the answer: twice, under one key."""
    post = Post(user_id, EntryKind.TOP_UP, amount_nanousd, f"post:{user_id}:{name}")
    database = Database(database_url)
    try:
        for _ in range(2):
            async with database.write() as session:
                connection = await session.connection()
                await connection.run_sync(partial(commit, operations=[post], again=True))
    finally:
        await database.close()
