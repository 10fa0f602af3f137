"""The meter that charges: turns told to the ledger, in the ledger's words."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import MappingProxyType

from osslo.accounts.ledger.charging import OpenCharge
from osslo.accounts.ledger.records import Counts, Outcome, Status
from osslo.accounts.ledger.service import Ledger
from osslo.chat.events import TurnEnd, TurnEnded
from osslo.chat.metering import Bill, Charge, FreeCharge
from osslo.errors import OssloError
from osslo.types import Usage

_STATUS = MappingProxyType(
    {
        TurnEnd.STOP: Status.COMPLETED,
        TurnEnd.TOOL_CALLS: Status.COMPLETED,
        TurnEnd.CONTENT_FILTER: Status.COMPLETED,
        TurnEnd.LENGTH: Status.LENGTH,
        TurnEnd.ABORT: Status.CANCELLED,
        TurnEnd.ERROR: Status.FAILED,
    }
)


class LedgerMeter:
    """Charges users; callers without an account are free. A `osslo.chat.metering.Meter`."""

    def __init__(self, ledger: Ledger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._clock = clock

    async def open(
        self, bill: Bill, *, request_id: str, prompt_tokens: int, max_tokens: int
    ) -> Charge:
        if bill.user_id is None:
            return FreeCharge(max_tokens)
        charge = await self._ledger.charging.open(
            user_id=bill.user_id,
            key_id=bill.key_id,
            model=bill.model,
            protocol=bill.protocol,
            request_id=request_id,
            prompt_tokens=prompt_tokens,
            max_tokens=max_tokens,
            may_lower=bill.may_lower,
            batch=bill.batch,
        )
        return _LedgerCharge(charge, prompt_tokens, self._clock)


class _LedgerCharge:
    def __init__(self, charge: OpenCharge, prompt_tokens: int, clock: Callable[[], float]) -> None:
        self._charge = charge
        self._prompt_tokens = prompt_tokens
        self._clock = clock
        self._began = clock()

    @property
    def max_tokens(self) -> int:
        return self._charge.max_tokens

    def progress(self, usage: Usage, *, cached_known: bool) -> None:
        self._charge.progress(_counts(usage, cached_known=cached_known))

    async def keep_up(self) -> None:
        await self._charge.keep_up()

    def settle(self, ended: TurnEnded) -> None:
        counts = _counts(ended.usage, cached_known=ended.cached_known)
        self._charge.end(counts, self._outcome(ended))

    def release(self, error: OssloError) -> None:
        outcome = Outcome(Status.REFUSED, error=error.code, duration_ms=self._elapsed_ms())
        self._charge.end(Counts(self._prompt_tokens), outcome)

    def _outcome(self, ended: TurnEnded) -> Outcome:
        first_s, decode_s = ended.first_output_s, ended.timings.decode_s if ended.timings else 0.0
        tokens = ended.usage.completion_tokens
        return Outcome(
            _STATUS[ended.reason],
            error=ended.error.code if ended.error is not None else None,
            first_token_ms=None if first_s is None else first_s * 1000,
            duration_ms=self._elapsed_ms(),
            tokens_per_second=(tokens - 1) / decode_s if tokens > 1 and decode_s > 0 else None,
        )

    def _elapsed_ms(self) -> float:
        return (self._clock() - self._began) * 1000


def _counts(usage: Usage, *, cached_known: bool) -> Counts:
    return Counts(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens if cached_known else None,
        reasoning_tokens=usage.reasoning_tokens,
    )
