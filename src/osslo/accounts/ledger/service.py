"""The ledger of one process, wired: writer, sweeper, charging, reading, and giving money."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from functools import partial

from sqlalchemy.ext.asyncio import AsyncSession

from osslo.accounts.context import Context
from osslo.accounts.ledger.charging import DURABLE_EVERY_TOKENS, Charging
from osslo.accounts.ledger.journal import commit
from osslo.accounts.ledger.operations import Post, Posted
from osslo.accounts.ledger.reading import LedgerReader
from osslo.accounts.ledger.records import FREE, EntryKind, Rates
from osslo.accounts.ledger.sweeper import LEASE_S, Sweeper
from osslo.accounts.ledger.writer import LedgerWriter
from osslo.accounts.options import options_from
from osslo.accounts.permissions import check_least
from osslo.accounts.prices import PriceService
from osslo.accounts.reachable import Reachable
from osslo.accounts.records import Actor, Role, User
from osslo.accounts.repository import settings
from osslo.db.steps import steps_of
from osslo.errors import OssloError, RequestError

_PRICES_FOR_S = 1.0
MAX_AMOUNT_NANOUSD = 10**15
"""A million dollars: more at once is a slip."""


class Ledger:
    """Everything about money that one process does. `start` it in the loop that serves."""

    def __init__(
        self,
        context: Context,
        prices: PriceService,
        *,
        durable_every_tokens: int = DURABLE_EVERY_TOKENS,
        lease_s: float = LEASE_S,
    ) -> None:
        self.process_id = "proc_" + secrets.token_hex(8)
        self.reader = LedgerReader(context.database)
        self._context = context
        self._rates = CachedRates(prices)
        self._every = durable_every_tokens
        self._lease_s = lease_s
        self._writer: LedgerWriter | None = None
        self._sweeper: Sweeper | None = None

    async def start(self) -> None:
        """Begin to commit and to watch other processes."""
        self._writer = LedgerWriter(steps_of(self._context.database))
        self._writer.start()
        self._sweeper = Sweeper(
            self._context.database,
            self._writer,
            process_id=self.process_id,
            lease_s=self._lease_s,
        )
        self._sweeper.start()

    async def close(self) -> None:
        """Commit what waits, and stop."""
        if self._sweeper is not None:
            await self._sweeper.close()
        if self._writer is not None:
            await self._writer.close()

    @property
    def charging(self) -> Charging:
        """Opens charges. Raises `OssloError` before `start`."""
        return Charging(
            self._started,
            self._rates.of,
            process_id=self.process_id,
            durable_every_tokens=self._every,
        )

    async def top_up(
        self,
        actor: Actor,
        user_id: str,
        amount_nanousd: int,
        *,
        note: str | None,
        idempotency_key: str,
    ) -> Posted:
        """Give money, or take it where the amount is negative, once for each `idempotency_key`.

        Raises `RequestError` for an amount that cannot be, or more than is there to take.
        """
        check_least(actor, Role.ADMIN)
        if not 0 < abs(amount_nanousd) <= MAX_AMOUNT_NANOUSD:
            raise RequestError(
                "The amount must be above zero and at most a million dollars.",
                param="amount_nanousd",
            )
        kind = EntryKind.TOP_UP if amount_nanousd > 0 else EntryKind.ADJUSTMENT
        key = f"post:{user_id}:{idempotency_key or secrets.token_hex(12)}"
        posted = await self._started.post(
            Post(user_id, kind, amount_nanousd, key, actor.user_id, note or None)
        )
        if posted.new:
            async with self._context.change() as session:
                await self._context.note(
                    session, actor, "balance.top_up", user_id, amount_nanousd=amount_nanousd
                )
        return posted

    @property
    def _started(self) -> LedgerWriter:
        if self._writer is None:
            raise OssloError("The ledger has not been started.")
        return self._writer


async def welcome(session: AsyncSession, user: User) -> None:
    """Give a new user the welcome credit, in the transaction that makes the user."""
    credit = options_from(await settings.every(session)).welcome_credit_nanousd
    if credit == 0:
        return
    await session.flush()
    gift = Post(user.id, EntryKind.WELCOME, credit, f"welcome:{user.id}", None, "welcome")
    connection = await session.connection()
    await connection.run_sync(partial(commit, operations=[gift]))


class CachedRates:
    """What models cost now, read at most once a second."""

    def __init__(
        self, prices: PriceService, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._prices = prices
        self._clock = clock
        self._known: dict[str, tuple[float, Rates]] = {}

    async def of(self, model: str) -> Rates:
        """The rates of `model`; nothing where it has no price. Raises `OverloadedError` while the
        database is away."""
        known = self._known.get(model)
        now = self._clock()
        if known is not None and now - known[0] < _PRICES_FOR_S:
            return known[1]
        async with Reachable():
            price = await self._prices.of(model)
        rates = (
            FREE
            if price is None
            else Rates(price.input_nanousd, price.cached_input_nanousd, price.output_nanousd)
        )
        self._known[model] = (now, rates)
        return rates
