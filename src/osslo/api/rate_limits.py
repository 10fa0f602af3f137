"""Rate limits where turns meet HTTP: the meter that asks them, and the headers that tell them.

A turn of one HTTP request is admitted before it reaches the ledger. However many turns a request
has (`n`, tool rounds), it counts as one request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from osslo.accounts.rates import Admitted, RateLimiter, Standing, Subject, Window, subjects_of
from osslo.accounts.service import Accounts
from osslo.chat.events import TurnEnded
from osslo.chat.metering import Bill, Charge, ForwardedCharge, Meter
from osslo.errors import OssloError, RateLimitError


class RateHeaders:
    """What one HTTP request's answer will say of limits. Whoever admits a turn fills it in."""

    __slots__ = ("counted", "standing")

    def __init__(self) -> None:
        self.counted = False
        self.standing = Standing()


RATE_HEADERS: ContextVar[RateHeaders | None] = ContextVar("osslo_rate_headers", default=None)
"""The current HTTP request's; None outside of one."""


class LimitedMeter:
    """A meter that asks the rate limits first. Implements `osslo.chat.metering.Meter`."""

    def __init__(self, accounts: Accounts, inner: Meter) -> None:
        self._accounts = accounts
        self._inner = inner
        self._finishing: set[asyncio.Task[None]] = set()

    async def open(
        self, bill: Bill, *, request_id: str, prompt_tokens: int, max_tokens: int
    ) -> Charge:
        subjects = await self._subjects(bill)
        if not subjects:
            return await self._inner.open(
                bill, request_id=request_id, prompt_tokens=prompt_tokens, max_tokens=max_tokens
            )
        admitted = await self._admit(subjects, prompt_tokens, max_tokens)
        try:
            charge = await self._inner.open(
                bill, request_id=request_id, prompt_tokens=prompt_tokens, max_tokens=max_tokens
            )
        except BaseException:
            await self._accounts.rates.finish(admitted, completion_tokens=0)
            raise
        return _LimitedCharge(charge, admitted, self)

    def finish(self, admitted: Admitted, completion_tokens: int) -> None:
        """Count an ended turn's tokens, without making its end wait."""
        rates = self._accounts.rates
        task = asyncio.ensure_future(rates.finish(admitted, completion_tokens=completion_tokens))
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    async def _subjects(self, bill: Bill) -> tuple[Subject, ...]:
        keyring = self._accounts.keyring
        if bill.user_id is None:
            return ()
        defaults = (await keyring.options()).default_limits
        if bill.key_id is not None:
            holder = await keyring.holder(bill.key_id)
            return subjects_of(holder.user, defaults, holder.key) if holder is not None else ()
        user = await keyring.user(bill.user_id)
        return subjects_of(user, defaults) if user is not None else ()

    async def _admit(
        self, subjects: tuple[Subject, ...], prompt_tokens: int, max_tokens: int
    ) -> Admitted:
        rates: RateLimiter = self._accounts.rates
        headers = RATE_HEADERS.get() or RateHeaders()
        try:
            admitted = await rates.admit(
                subjects,
                prompt_tokens=prompt_tokens,
                max_tokens=max_tokens,
                counts_request=not headers.counted,
            )
        except RateLimitError:
            headers.standing = await rates.standing(subjects)
            raise
        headers.counted = True
        headers.standing = admitted.standing
        return admitted


@dataclass(frozen=True, slots=True)
class _LimitedCharge(ForwardedCharge):
    admitted: Admitted
    meter: LimitedMeter

    def settle(self, ended: TurnEnded) -> None:
        self.meter.finish(self.admitted, ended.usage.completion_tokens)
        self.inner.settle(ended)

    def release(self, error: OssloError) -> None:
        self.meter.finish(self.admitted, 0)
        self.inner.release(error)


def rate_headers(
    standing: Standing, *, anthropic: bool, now: datetime
) -> Iterator[tuple[str, str]]:
    """The headers that tell `standing`: OpenAI's (`x-ratelimit-*`), or Anthropic's."""
    for name, window in (("requests", standing.requests), ("tokens", standing.tokens)):
        if window is None:
            continue
        if anthropic:
            yield from _anthropic(name, window, now)
        else:
            yield f"x-ratelimit-limit-{name}", str(window.limit)
            yield f"x-ratelimit-remaining-{name}", str(window.remaining)
            yield f"x-ratelimit-reset-{name}", go_duration(window.reset_s)


def _anthropic(name: str, window: Window, now: datetime) -> Iterator[tuple[str, str]]:
    reset = (now.astimezone(UTC) + timedelta(seconds=window.reset_s)).replace(microsecond=0)
    prefix = f"anthropic-ratelimit-{name}-"
    yield prefix + "limit", str(window.limit)
    yield prefix + "remaining", str(window.remaining)
    yield prefix + "reset", reset.isoformat().replace("+00:00", "Z")


def go_duration(seconds: float) -> str:
    """Seconds as OpenAI's headers spell them: `20ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    shown = f"{rest:.3f}".rstrip("0").rstrip(".")
    return f"{int(minutes)}m{shown}s" if minutes else f"{shown}s"
