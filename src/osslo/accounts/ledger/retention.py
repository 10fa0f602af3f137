"""How long requests' own usage rows are kept, and the hourly sums that take their place.

Money does not depend on these rows: balances are sums of ledger entries, which are never deleted,
and spending limits count daily sums, which stay. A row is deleted and added to its hour's sum in
one transaction, so that every request counts once, whoever asks and whenever.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import Connection, Table, delete, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from osslo.accounts.ledger.records import Status
from osslo.accounts.ledger.tables import HourlyUsageRow, UsageRow
from osslo.db.database import Database

_USAGE = cast(Table, UsageRow.__table__)
_HOURLY = cast(Table, HourlyUsageRow.__table__)

_LABELS = ("user_id", "key_id", "model", "protocol", "batch")
_COUNTED = (
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "cost_nanousd",
)
_AT_ONCE = 1000
CRASHED_KEPT_DAYS = 30
"""What a sweeper ended may be corrected by a process that had stood still, as long as it has a
row of its own: longer than any suspended machine's caller waits for an answer."""


def usage_sweep(days: int) -> Callable[[Database, datetime], Awaitable[int]]:
    """A sweep that rolls up and deletes some of the rows older than `days`; it gives how many.
    Whole hours go at once or, where they are large, one part after the other."""

    async def sweep(database: Database, now: datetime) -> int:
        before = (now - timedelta(days=days)).replace(minute=0, second=0, microsecond=0)
        async with database.write() as session:
            connection = await session.connection()
            return await connection.run_sync(_roll_up, before, now)

    return sweep


def _roll_up(connection: Connection, before: datetime, now: datetime) -> int:
    final = or_(
        _USAGE.c.status != Status.CRASHED.value,
        _USAGE.c.at < now - timedelta(days=CRASHED_KEPT_DAYS),
    )
    old = select(_USAGE.c.id).where(_USAGE.c.at < before, final)
    oldest = old.order_by(_USAGE.c.at).limit(_AT_ONCE)
    rows = connection.execute(delete(_USAGE).where(_USAGE.c.id.in_(oldest)).returning(_USAGE)).all()
    sums: dict[tuple[Any, ...], dict[str, int]] = {}
    for row in rows:
        hour = row.at.replace(minute=0, second=0, microsecond=0)
        group = (hour, *(getattr(row, name) for name in _LABELS))
        total = sums.setdefault(group, dict.fromkeys(("requests", *_COUNTED), 0))
        total["requests"] += 1
        for name in _COUNTED:
            total[name] += getattr(row, name)
    if sums:
        _add(connection, sums)
    return len(rows)


def _add(connection: Connection, sums: dict[tuple[Any, ...], dict[str, int]]) -> None:
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    new = dialect.insert(_HOURLY)
    grown = {name: _HOURLY.c[name] + new.excluded[name] for name in ("requests", *_COUNTED)}
    upsert = new.on_conflict_do_update(index_elements=list(_HOURLY.primary_key), set_=grown)
    rows = [
        {**dict(zip(("hour", *_LABELS), group, strict=True)), **total}
        for group, total in sorted(sums.items())
    ]
    connection.execute(upsert, rows)
