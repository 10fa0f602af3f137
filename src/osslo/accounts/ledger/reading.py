"""Reading the ledger: balances, movements of money, usage. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

from sqlalchemy import Select, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from osslo.accounts.ledger.buckets import BucketQuery, GroupSums, usage_buckets
from osslo.accounts.ledger.records import (
    Account,
    EntryKind,
    LedgerEntry,
    Status,
    UsageRecord,
)
from osslo.accounts.ledger.tables import (
    BalanceRow,
    DailyUsageRow,
    EntryRow,
    ReservationRow,
    UsageRow,
)
from osslo.db.database import Database

FAILURES = (Status.FAILED, Status.REFUSED, Status.CRASHED)
MOVEMENTS = (EntryKind.TOP_UP, EntryKind.WELCOME, EntryKind.ADJUSTMENT)
"""Money that moved other than by requests."""

MEDIAN_OF = 1000
"""A median is taken over so many of the newest requests."""

TIMES_OF = 5000
"""Times by day are those of so many of the newest requests."""


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Which requests are wanted; None lets everything through. `until` is exclusive."""

    user_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    key_id: str | None = None
    model: str | None = None
    failed: bool | None = None


@dataclass(frozen=True, slots=True)
class DailyUsage:
    """What one key used of one model over one protocol on one day (UTC)."""

    day: date
    user_id: str
    key_id: str
    model: str
    protocol: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cost_nanousd: int


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """All that was used. `first_token_ms` is the median of the newest `MEDIAN_OF` answers."""

    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost_nanousd: int = 0
    first_token_ms: float | None = None


@dataclass(frozen=True, slots=True)
class FirstToken:
    """How long one answer's first token took."""

    day: date
    key_id: str
    model: str
    first_token_ms: float


class LedgerReader:
    """Queries over the ledger of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def accounts(self, user_ids: Collection[str]) -> Mapping[str, Account]:
        """The money of each user who ever had any."""
        balances = select(BalanceRow).where(BalanceRow.user_id.in_(user_ids))
        reserved = (
            select(ReservationRow.user_id, func.sum(ReservationRow.reserved_nanousd))
            .where(ReservationRow.user_id.in_(user_ids))
            .group_by(ReservationRow.user_id)
        )
        async with self._database.read() as session:
            aside = {user: int(total) for user, total in await session.execute(reserved)}
            return {
                row.user_id: Account(row.user_id, row.balance_nanousd, aside.get(row.user_id, 0))
                for row in await session.scalars(balances)
            }

    async def entries(
        self,
        user_id: str,
        *,
        limit: int,
        before: int | None = None,
        kinds: Collection[EntryKind] | None = None,
    ) -> Sequence[LedgerEntry]:
        """A user's movements, newest first, with ids below `before`; one more than `limit` if
        there are more."""
        query = select(EntryRow).where(EntryRow.user_id == user_id)
        if before is not None:
            query = query.where(EntryRow.id < before)
        if kinds is not None:
            query = query.where(EntryRow.kind.in_([kind.value for kind in kinds]))
        query = query.order_by(EntryRow.id.desc()).limit(limit + 1)
        async with self._database.read() as session:
            return [_entry(row) for row in await session.scalars(query)]

    async def usage(
        self, wanted: UsageFilter, *, limit: int, after: str | None = None
    ) -> Sequence[UsageRecord]:
        """Requests, newest first, after the one whose id is `after`; one more than `limit` if
        there are more. An unknown `after` gives none."""
        query = _filtered(select(UsageRow), wanted)
        if after is not None:
            last = select(UsageRow.at).where(UsageRow.id == after).scalar_subquery()
            query = query.where(
                or_(UsageRow.at < last, and_(UsageRow.at == last, UsageRow.id < after))
            )
        query = query.order_by(UsageRow.at.desc(), UsageRow.id.desc()).limit(limit + 1)
        async with self._database.read() as session:
            return [_record(row) for row in await session.scalars(query)]

    async def buckets(self, wanted: BucketQuery) -> Mapping[int, Sequence[GroupSums]]:
        """Usage in equal parts of time, by the Unix second at which each begins."""
        return await usage_buckets(self._database, wanted)

    async def daily(
        self, *, since: date, until: date | None = None, user_id: str | None = None
    ) -> Sequence[DailyUsage]:
        """Use by day, user, key, model and protocol, oldest first; `until` is exclusive."""
        query = select(DailyUsageRow).where(DailyUsageRow.day >= since)
        if until is not None:
            query = query.where(DailyUsageRow.day < until)
        if user_id is not None:
            query = query.where(DailyUsageRow.user_id == user_id)
        async with self._database.read() as session:
            rows = await session.scalars(query.order_by(DailyUsageRow.day))
            return [_daily(row) for row in rows]

    async def totals(self, user_id: str, *, since: date) -> UsageTotals:
        """All use of a user since a day: counts from the daily sums, failures and the median from
        the requests' own rows, as long as they are kept."""
        row = DailyUsageRow
        sums = select(
            func.coalesce(func.sum(row.requests), 0),
            func.coalesce(func.sum(row.prompt_tokens), 0),
            func.coalesce(func.sum(row.cached_tokens), 0),
            func.coalesce(func.sum(row.completion_tokens), 0),
            func.coalesce(func.sum(row.cost_nanousd), 0),
        ).where(row.user_id == user_id, row.day >= since)
        wanted = UsageFilter(user_id, since=datetime.combine(since, time(), UTC), failed=True)
        failures = _filtered(select(func.count()).select_from(UsageRow), wanted)
        async with self._database.read() as session:
            requests, prompt, cached, completion, cost = (await session.execute(sums)).one()
            failed = (await session.execute(failures)).scalar_one()
            median = await _median_first_token(session, user_id, since)
        return UsageTotals(
            int(requests), failed, int(prompt), int(cached), int(completion), int(cost), median
        )

    async def first_tokens(self, user_id: str, *, since: date) -> Sequence[FirstToken]:
        """The times to the first token of a user's newest `TIMES_OF` answers since a day."""
        row = UsageRow
        query = (
            select(row.at, row.key_id, row.model, row.first_token_ms)
            .where(row.user_id == user_id, row.at >= datetime.combine(since, time(), UTC))
            .where(row.first_token_ms.is_not(None))
            .order_by(row.at.desc())
            .limit(TIMES_OF)
        )
        async with self._database.read() as session:
            return [
                FirstToken(at.astimezone(UTC).date(), key_id, model, took or 0.0)
                for at, key_id, model, took in await session.execute(query)
            ]


async def _median_first_token(session: AsyncSession, user_id: str, since: date) -> float | None:
    query = (
        select(UsageRow.first_token_ms)
        .where(
            UsageRow.user_id == user_id,
            UsageRow.at >= datetime.combine(since, time(), UTC),
            UsageRow.first_token_ms.is_not(None),
        )
        .order_by(UsageRow.at.desc())
        .limit(MEDIAN_OF)
    )
    values = sorted(value for value in await session.scalars(query) if value is not None)
    return values[len(values) // 2] if values else None


def _filtered(query: Select[Any], wanted: UsageFilter) -> Select[Any]:
    for column, value in (
        (UsageRow.user_id, wanted.user_id),
        (UsageRow.key_id, wanted.key_id),
        (UsageRow.model, wanted.model),
    ):
        if value is not None:
            query = query.where(column == value)
    if wanted.since is not None:
        query = query.where(UsageRow.at >= wanted.since)
    if wanted.until is not None:
        query = query.where(UsageRow.at < wanted.until)
    if wanted.failed is not None:
        failed = UsageRow.status.in_([status.value for status in FAILURES])
        query = query.where(failed if wanted.failed else ~failed)
    return query


def _entry(row: EntryRow) -> LedgerEntry:
    return LedgerEntry(
        id=row.id,
        at=row.at,
        user_id=row.user_id,
        kind=EntryKind(row.kind),
        amount_nanousd=row.amount_nanousd,
        balance_nanousd=row.balance_nanousd,
        request_id=row.request_id,
        actor_id=row.actor_id,
        note=row.note,
    )


def _record(row: UsageRow) -> UsageRecord:
    return UsageRecord(
        id=row.id,
        request_id=row.request_id,
        at=row.at,
        user_id=row.user_id,
        key_id=row.key_id,
        model=row.model,
        protocol=row.protocol,
        status=Status(row.status),
        error=row.error,
        prompt_tokens=row.prompt_tokens,
        cached_tokens=row.cached_tokens,
        completion_tokens=row.completion_tokens,
        reasoning_tokens=row.reasoning_tokens,
        cost_nanousd=row.cost_nanousd,
        first_token_ms=row.first_token_ms,
        duration_ms=row.duration_ms,
        tokens_per_second=row.tokens_per_second,
        batch=row.batch,
    )


def _daily(row: DailyUsageRow) -> DailyUsage:
    return DailyUsage(
        day=row.day,
        user_id=row.user_id,
        key_id=row.key_id,
        model=row.model,
        protocol=row.protocol,
        requests=row.requests,
        prompt_tokens=row.prompt_tokens,
        cached_tokens=row.cached_tokens,
        completion_tokens=row.completion_tokens,
        reasoning_tokens=row.reasoning_tokens,
        cost_nanousd=row.cost_nanousd,
    )
