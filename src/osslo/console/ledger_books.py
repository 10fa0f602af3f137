"""The console's books over the ledger."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import date

from osslo.accounts.ledger.reading import MOVEMENTS, FirstToken, UsageFilter
from osslo.accounts.ledger.records import EntryKind, LedgerEntry, UsageRecord
from osslo.accounts.ledger.service import Ledger
from osslo.accounts.records import SYSTEM, Actor
from osslo.accounts.service import Accounts
from osslo.console.books import DayUse, Movement, Totals
from osslo.errors import NotFoundError

_SHOWN_MOVEMENTS = 50
_WORDS = {
    EntryKind.TOP_UP: "Top-up",
    EntryKind.WELCOME: "Welcome credit",
    EntryKind.ADJUSTMENT: "Correction",
}


class LedgerBooks:
    """Implements `osslo.console.books.Books`."""

    def __init__(self, ledger: Ledger, accounts: Accounts) -> None:
        self._ledger = ledger
        self._accounts = accounts

    async def balances(self, user_ids: Sequence[str]) -> Mapping[str, int]:
        known = await self._ledger.reader.accounts(user_ids)
        return {user_id: account.balance_nanousd for user_id, account in known.items()}

    async def movements(self, user_id: str) -> Sequence[Movement]:
        entries = await self._ledger.reader.entries(
            user_id, limit=_SHOWN_MOVEMENTS, kinds=MOVEMENTS
        )
        return [_movement(entry) for entry in entries[:_SHOWN_MOVEMENTS]]

    async def top_up(
        self,
        actor: Actor,
        user_id: str,
        amount_nanousd: int,
        *,
        note: str,
        idempotency_key: str,
    ) -> None:
        await self._ledger.top_up(
            actor, user_id, amount_nanousd, note=note, idempotency_key=idempotency_key
        )

    async def daily(self, user_id: str, *, since: date) -> Sequence[DayUse]:
        return [
            DayUse(
                day=use.day,
                model=use.model,
                key_id=use.key_id,
                requests=use.requests,
                tokens=use.prompt_tokens + use.completion_tokens,
                cost_nanousd=use.cost_nanousd,
            )
            for use in await self._ledger.reader.daily(since=since, user_id=user_id)
        ]

    async def totals(self, user_id: str, *, since: date) -> Totals:
        totals = await self._ledger.reader.totals(user_id, since=since)
        return Totals(
            requests=totals.requests,
            failed=totals.failed,
            tokens=totals.prompt_tokens + totals.completion_tokens,
            cached_tokens=totals.cached_tokens,
            cost_nanousd=totals.cost_nanousd,
            ttft_ms=totals.first_token_ms,
        )

    async def first_tokens(self, user_id: str, *, since: date) -> Sequence[FirstToken]:
        return await self._ledger.reader.first_tokens(user_id, since=since)

    async def usage(
        self, wanted: UsageFilter, *, limit: int, after: str | None
    ) -> Sequence[UsageRecord]:
        return await self._ledger.reader.usage(wanted, limit=limit, after=after)

    async def emails(self, user_ids: Collection[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for user_id in user_ids:
            try:
                found[user_id] = (await self._accounts.users.get(SYSTEM, user_id)).email
            except NotFoundError:
                continue
        return found


def _movement(entry: LedgerEntry) -> Movement:
    word = _WORDS.get(entry.kind, entry.kind.value)
    note = entry.note if entry.note and entry.kind is not EntryKind.WELCOME else ""
    return Movement(entry.at, f"{word}: {note}" if note else word, entry.amount_nanousd)
