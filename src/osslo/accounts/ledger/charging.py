"""What serving asks of the ledger: open a charge, tell its progress, end it.

Between two durable counts at most `durable_every_tokens` tokens are generated: a charge that runs
ahead of the database asks its turn to wait (`keep_up`). So a crash loses at most that many tokens
of a request, in the customer's favour.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable

from osslo.accounts.ledger.operations import End, Late, Progress, Reserve, Result
from osslo.accounts.ledger.records import Counts, Outcome, Rates, Reservation
from osslo.accounts.ledger.writer import LedgerWriter

DURABLE_EVERY_TOKENS = 64

RatesOf = Callable[[str], Awaitable[Rates]]
"""The rates that hold now for a model."""


class Charging:
    """Opens charges for one process, whose id stands on its reservations."""

    def __init__(
        self,
        writer: LedgerWriter,
        rates: RatesOf,
        *,
        process_id: str,
        durable_every_tokens: int = DURABLE_EVERY_TOKENS,
    ) -> None:
        self._writer = writer
        self._rates = rates
        self._process_id = process_id
        self._every = durable_every_tokens

    async def open(
        self,
        *,
        user_id: str,
        key_id: str | None,
        model: str,
        protocol: str,
        request_id: str,
        prompt_tokens: int,
        max_tokens: int,
        may_lower: bool = False,
        batch: bool = False,
    ) -> OpenCharge:
        """Reserve the most that the request may cost. With `may_lower`, what the money covers of
        `max_tokens` may be granted instead.

        Raises `QuotaError` if it is not covered, `OverloadedError` if the database stays away.
        """
        rates = await self._rates(model)
        asked = Reservation(
            id="res_" + secrets.token_hex(12),
            request_id=request_id,
            process_id=self._process_id,
            user_id=user_id,
            key_id=key_id or "",
            model=model,
            protocol=protocol,
            rates=rates,
            reserved_nanousd=rates.most(prompt_tokens, max_tokens),
            max_tokens=max_tokens,
            counts=Counts(prompt_tokens),
            batch=batch,
        )
        granted = await self._writer.reserve(Reserve(asked, may_lower=may_lower))
        return OpenCharge(self._writer, granted, self._every)


class OpenCharge:
    """One running request's charge. Ends with exactly one `end`; later ones are ignored."""

    def __init__(self, writer: LedgerWriter, reservation: Reservation, every_tokens: int) -> None:
        self._writer = writer
        self._reservation = reservation
        self._every = every_tokens
        self._told = self._queued = self._durable = 0
        self._last = reservation.counts
        self._largest_step = 1
        self._caught_up = asyncio.Event()
        self._ended = self._swept = False

    @property
    def max_tokens(self) -> int:
        """How many output tokens are covered."""
        return self._reservation.max_tokens

    def progress(self, counts: Counts) -> None:
        """So much was generated so far. Queues a durable count at every half of the interval."""
        self._largest_step = max(self._largest_step, counts.completion_tokens - self._told)
        self._told = counts.completion_tokens
        self._last = counts
        if not self._ended and self._told - self._queued >= max(1, self._every // 2):
            self._make_durable()

    async def keep_up(self) -> None:
        """Wait while the next step could take more than the interval out of a crash's reach."""
        while not self._ended and self._durable < self._told:
            if self._told + self._largest_step - self._durable <= self._every:
                return
            if self._queued < self._told:
                self._make_durable()
            self._caught_up.clear()
            await self._caught_up.wait()

    def _make_durable(self) -> None:
        reservation, told, counts = self._reservation, self._told, self._last
        self._queued = told
        if self._swept:
            done = self._writer.put(Late(reservation, counts))
        else:
            done = self._writer.put(Progress(reservation.id, counts))

        def became_durable(done: asyncio.Future[Result]) -> None:
            if done.result() is False and not self._ended:
                self._swept = True  # what is durable from now on is what is charged
                self._make_durable()
                return
            self._durable = max(self._durable, told)
            self._caught_up.set()

        done.add_done_callback(became_durable)

    def end(self, counts: Counts, outcome: Outcome) -> asyncio.Future[Result] | None:
        """Charge exactly `counts`. The future need not be awaited."""
        if self._ended:
            return None
        self._ended = True
        self._caught_up.set()
        return self._writer.put(End(self._reservation, counts, outcome))
