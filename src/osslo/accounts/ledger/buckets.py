"""Usage and cost in equal parts of time, grouped and filtered: what OpenAI's usage API asks for.

Parts begin at whole minutes, hours or days (UTC). Requests whose own rows were rolled up are known
by the hour: they count in hours and days, and no longer in minutes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, cast, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from osslo.accounts.ledger.tables import HourlyUsageRow, UsageRow
from osslo.db.database import Database

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400

GROUPS = ("user_id", "key_id", "model", "batch")
"""By what usage can be grouped."""

_COUNTED = ("prompt_tokens", "cached_tokens", "completion_tokens", "cost_nanousd")


@dataclass(frozen=True, slots=True)
class BucketQuery:
    """Which usage, from `since` until before `until`, in parts of `width_s` seconds. Where a filter
    is None everything is let through."""

    since: datetime
    until: datetime
    width_s: int
    group_by: tuple[str, ...] = ()
    user_ids: tuple[str, ...] | None = None
    key_ids: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    batch: bool | None = None


@dataclass(slots=True)
class Sums:
    """What a group used in a part of time."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost_nanousd: int = 0


@dataclass(frozen=True, slots=True)
class GroupSums:
    """A group, by the values that it is grouped by, and its sums."""

    group: Mapping[str, Any]
    sums: Sums = field(default_factory=Sums)


async def usage_buckets(
    database: Database, wanted: BucketQuery
) -> Mapping[int, Sequence[GroupSums]]:
    """The groups of each part that has any, by the Unix second at which the part begins."""
    found: dict[tuple[int, tuple[Any, ...]], Sums] = {}
    tables = (UsageRow, HourlyUsageRow) if wanted.width_s >= HOUR_S else (UsageRow,)
    async with database.read() as session:
        for table in tables:
            await _add(session, table, wanted, found)
    buckets: dict[int, list[GroupSums]] = {}
    for (begins, values), sums in sorted(found.items(), key=lambda item: str(item[0])):
        group = MappingProxyType(dict(zip(wanted.group_by, values, strict=True)))
        buckets.setdefault(begins, []).append(GroupSums(group, sums))
    return buckets


async def _add(
    session: AsyncSession,
    table: Any,
    wanted: BucketQuery,
    found: dict[tuple[int, tuple[Any, ...]], Sums],
) -> None:
    moment = table.at if table is UsageRow else table.hour
    begins = _begins(moment, wanted.width_s, session).label("begins")
    groups = [getattr(table, name) for name in wanted.group_by]
    requests = func.count() if table is UsageRow else func.sum(table.requests)
    sums = [func.sum(getattr(table, name)) for name in _COUNTED]
    query = select(begins, *groups, requests, *sums)
    query = _filtered(query, table, wanted).where(moment >= wanted.since, moment < wanted.until)
    for row in await session.execute(query.group_by(begins, *groups)):
        values = tuple(row[1 : 1 + len(groups)])
        total = found.setdefault((int(row[0]), values), Sums())
        total.requests += int(row[1 + len(groups)])
        for name, value in zip(_COUNTED, row[2 + len(groups) :], strict=True):
            setattr(total, name, getattr(total, name) + int(value))


def _filtered(query: Select[Any], table: Any, wanted: BucketQuery) -> Select[Any]:
    for name, values in (
        ("user_id", wanted.user_ids),
        ("key_id", wanted.key_ids),
        ("model", wanted.models),
    ):
        if values is not None:
            query = query.where(getattr(table, name).in_(values))
    return query if wanted.batch is None else query.where(table.batch.is_(wanted.batch))


def _begins(moment: Any, width_s: int, session: AsyncSession) -> ColumnElement[int]:
    """The Unix second at which the part begins that a moment lies in."""
    seconds: ColumnElement[int]
    if session.get_bind().dialect.name == "sqlite":
        seconds = cast(func.strftime("%s", moment), BigInteger)
    else:
        seconds = cast(func.floor(func.extract("epoch", moment)), BigInteger)
    return seconds - seconds % width_s
