"""A ledger on a real database, as one process of a server has it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy import func, select

from osslo.accounts.ledger.charging import Charging, OpenCharge
from osslo.accounts.ledger.operations import Post
from osslo.accounts.ledger.records import EntryKind, Rates
from osslo.accounts.ledger.tables import BalanceRow, EntryRow, ReservationRow, UsageRow
from osslo.accounts.ledger.writer import LedgerWriter
from osslo.db.database import Database
from osslo.db.steps import steps_of

RATES = Rates(80, 40, 320)
DOLLAR = 1_000_000_000


@dataclass(frozen=True)
class Ledger:
    """One process's writer and charging, and what tests look up."""

    database: Database
    writer: LedgerWriter
    charging: Charging

    async def give(self, user_id: str, amount: int, key: str | None = None) -> None:
        """Top up."""
        await self.writer.post(
            Post(user_id, EntryKind.TOP_UP, amount, key or f"gift:{user_id}:{amount}")
        )

    async def open(self, user_id: str = "ann", **changes: object) -> OpenCharge:
        """A charge for 100 tokens of prompt and up to 1000 of output."""
        asked: dict[str, object] = {
            "user_id": user_id,
            "key_id": "key_1",
            "model": "gpt-oss-20b",
            "protocol": "chat.completions",
            "request_id": "chatcmpl-1",
            "prompt_tokens": 100,
            "max_tokens": 1000,
        }
        return await self.charging.open(**(asked | changes))  # type: ignore[arg-type]  # a test's

    async def balance(self, user_id: str = "ann") -> int:
        """The balance; it is checked to be the sum of the ledger, after each entry and now."""
        async with self.database.read() as session:
            query = select(BalanceRow.balance_nanousd).where(BalanceRow.user_id == user_id)
            balance = (await session.execute(query)).scalar_one_or_none() or 0
            entries = select(EntryRow).where(EntryRow.user_id == user_id).order_by(EntryRow.id)
            total = 0
            for entry in await session.scalars(entries):
                total += entry.amount_nanousd
                assert entry.balance_nanousd == total
        assert total == balance
        return balance

    async def open_reservations(self) -> int:
        async with self.database.read() as session:
            query = select(func.count()).select_from(ReservationRow)
            return (await session.execute(query)).scalar_one()

    async def usage(self) -> list[UsageRow]:
        async with self.database.read() as session:
            return list((await session.execute(select(UsageRow))).scalars())


@asynccontextmanager
async def ledger_on(
    database: Database, process_id: str = "proc_a", *, every: int = 64, wait_s: float = 5.0
) -> AsyncIterator[Ledger]:
    """A ledger for the length of the block."""
    writer = LedgerWriter(steps_of(database), reserve_wait_s=wait_s)
    writer.start()

    async def rates(_: str) -> Rates:
        return RATES

    charging = Charging(writer, rates, process_id=process_id, durable_every_tokens=every)
    try:
        yield Ledger(database, writer, charging)
    finally:
        await writer.close()
