"""What pages need to know of money and usage, read from the ledger in the pages' own words."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

from osslo.accounts.ledger.reading import FirstToken
from osslo.accounts.records import Actor
from osslo.api.accounts.usage_export import UsageLog


@dataclass(frozen=True, slots=True)
class DayUse:
    """What one key used of one model on one day (UTC)."""

    day: date
    model: str
    key_id: str
    requests: int
    tokens: int
    cost_nanousd: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What a user used since a day; `ttft_ms` is the median time to the first token."""

    requests: int
    failed: int
    tokens: int
    cached_tokens: int
    cost_nanousd: int
    ttft_ms: float | None


@dataclass(frozen=True, slots=True)
class Movement:
    """Money that came or went other than by requests."""

    at: datetime
    what: str
    amount_nanousd: int


class Books(UsageLog, Protocol):
    """Balances and usage; `usage` lists requests."""

    async def balances(self, user_ids: Sequence[str]) -> Mapping[str, int]:
        """What each user can spend, in nano-dollars."""
        ...

    async def movements(self, user_id: str) -> Sequence[Movement]:
        """Top-ups and corrections, newest first."""
        ...

    async def top_up(
        self,
        actor: Actor,
        user_id: str,
        amount_nanousd: int,
        *,
        note: str,
        idempotency_key: str,
    ) -> None:
        """Add to a balance; once for each key."""
        ...

    async def daily(self, user_id: str, *, since: date) -> Sequence[DayUse]:
        """Use by day, model and key."""
        ...

    async def totals(self, user_id: str, *, since: date) -> Totals:
        """All use since a day."""
        ...

    async def first_tokens(self, user_id: str, *, since: date) -> Sequence[FirstToken]:
        """How long the first tokens of the newest answers took."""
        ...

    async def emails(self, user_ids: Collection[str]) -> dict[str, str]:
        """The e-mail addresses of users."""
        ...
