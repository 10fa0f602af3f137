"""Usage in equal parts of time, and rolled up, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from osslo.accounts.ledger.buckets import BucketQuery, Sums, usage_buckets
from osslo.accounts.ledger.operations import Sweep
from osslo.accounts.ledger.records import Counts, Outcome, Status
from osslo.accounts.ledger.retention import usage_sweep
from osslo.accounts.ledger.tables import ReservationRow, UsageRow
from osslo.db.database import Database
from osslo.store.sweep import sweep_once
from tests.accounts.ledger_stage import DOLLAR, Ledger, ledger_on

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)


async def used(ledger: Ledger, at: datetime, *, model: str, batch: bool = False) -> None:
    """A request of 100 and 10 tokens that ended at a moment."""
    charge = await ledger.open(model=model, batch=batch)
    ended = charge.end(Counts(100, 10, cached_tokens=40), Outcome(Status.COMPLETED))
    assert ended is not None
    await ended
    async with ledger.database.write() as session:
        newest = select(UsageRow).where(UsageRow.at > BEGIN + timedelta(days=100))
        (row,) = await session.scalars(newest)
        row.at = at


async def test_hours_and_days_outlive_the_rows(database: Database) -> None:
    async with ledger_on(database) as ledger:
        await ledger.give("ann", DOLLAR)
        for minutes in (0, 59, 60, 24 * 60 - 1, 24 * 60):
            at = BEGIN + timedelta(minutes=minutes, seconds=59.5)
            await used(ledger, at, model="a" if minutes else "b", batch=minutes == 60)
        balance = await ledger.balance()

        async def buckets(width_s: int, **more: object) -> list[tuple[int, list[object]]]:
            wanted = BucketQuery(BEGIN, BEGIN + timedelta(days=3), width_s, **more)  # type: ignore[arg-type]  # a test's
            found = await usage_buckets(database, wanted)
            start = int(BEGIN.timestamp())
            return [
                (begins - start, [(*each.group.values(), each.sums) for each in groups])
                for begins, groups in found.items()
            ]

        one = Sums(1, 100, 40, 10, 60 * 80 + 40 * 40 + 10 * 320)
        four = Sums(4, 400, 160, 40, 4 * one.cost_nanousd)
        days = [(0, [(four,)]), (86_400, [(one,)])]
        hours = await buckets(3600, group_by=("model", "batch"))
        assert await buckets(86_400) == days
        assert hours[:2] == [
            (0, [("a", False, one), ("b", False, one)]),
            (3600, [("a", True, one)]),
        ]
        assert [begins for begins, _ in await buckets(60)] == [0, 3540, 3600, 86_340, 86_400]
        sweeps = [usage_sweep(2)]
        assert await sweep_once(database, sweeps, BEGIN + timedelta(days=2, hours=2)) == 3
        assert await sweep_once(database, sweeps, BEGIN + timedelta(days=2, hours=2)) == 0
        assert await buckets(86_400) == days
        assert await buckets(3600, group_by=("model", "batch")) == hours
        assert [begins for begins, _ in await buckets(60)] == [86_340, 86_400]
        assert await sweep_once(database, sweeps, BEGIN + timedelta(days=9)) == 2
        assert await buckets(86_400) == days
        assert await ledger.balance() == balance  # checked to be the sum of the ledger
        async with database.read() as session:
            count = await session.scalar(select(func.count()).select_from(UsageRow))
        assert count == 0


async def test_what_a_sweeper_ended_stays_for_who_may_correct_it(database: Database) -> None:
    """A process that stood still for a week charges the rest of its request."""
    async with ledger_on(database) as ledger:
        await ledger.give("ann", DOLLAR)
        charge = await ledger.open()
        async with database.read() as session:
            reservation = (await session.scalars(select(ReservationRow.id))).one()
        await ledger.writer.sweep([Sweep(reservation, "ann")])
        sweeps, now = [usage_sweep(1)], datetime.now(UTC)
        assert await sweep_once(database, sweeps, now + timedelta(days=7)) == 0
        ended = charge.end(Counts(100, 10, cached_tokens=0), Outcome(Status.COMPLETED))
        assert ended is not None
        cost = 100 * 80 + 10 * 320
        assert await ended == cost
        assert await ledger.balance() == DOLLAR - cost
        assert await sweep_once(database, sweeps, now + timedelta(days=7)) == 1
        assert await sweep_once(database, sweeps, now + timedelta(days=7)) == 0
