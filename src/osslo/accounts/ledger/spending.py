"""When a key's spending limit begins anew. Pure."""

from __future__ import annotations

from datetime import date, timedelta

from osslo.accounts.ledger.records import SpendingRule
from osslo.accounts.records import SpendingPeriod


def spending_rule(limit_nanousd: int, period: SpendingPeriod, today: date) -> SpendingRule:
    """The limit as it applies on `today` (UTC): days begin at midnight, weeks on Monday, months on
    the first; a limit without a period counts everything ever spent."""
    match period:
        case SpendingPeriod.NONE:
            since = None
        case SpendingPeriod.DAILY:
            since = today
        case SpendingPeriod.WEEKLY:
            since = today - timedelta(days=today.weekday())
        case SpendingPeriod.MONTHLY:
            since = today.replace(day=1)
    return SpendingRule(limit_nanousd, since)
