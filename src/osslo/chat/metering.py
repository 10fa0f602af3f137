"""The seam to accounts: what a turn tells whoever counts and charges it.

A `Meter` opens a `Charge` before the backend is asked, and that charge ends in exactly one call of
`settle` or `release`. Nothing here knows money; `accounts` brings the meter that does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from osslo.chat.events import TurnEnded
from osslo.errors import OssloError
from osslo.types import GenerationRequest, Usage


@dataclass(frozen=True, slots=True)
class Bill:
    """Who asks for a turn and through which protocol. Ids are None where there are no accounts.

    `may_lower` says that the caller named no limit of output tokens: where money is short, fewer
    may be granted than the turn asks for. `batch` says that it is a batch's.
    """

    model: str
    protocol: str
    user_id: str | None = None
    key_id: str | None = None
    may_lower: bool = False
    batch: bool = False


class Charge(Protocol):
    """One accepted request's count. No method but `keep_up` waits: what must be durable is
    queued."""

    @property
    def max_tokens(self) -> int:
        """How many output tokens were granted."""
        ...

    def progress(self, usage: Usage, *, cached_known: bool) -> None:
        """So many tokens so far; called as they come. `cached_known` says that the count of cached
        tokens is known already."""
        ...

    async def keep_up(self) -> None:
        """Wait, before more is generated, until enough of what was is durable."""
        ...

    def settle(self, ended: TurnEnded) -> None:
        """The turn ended, however: this is its exact usage."""
        ...

    def release(self, error: OssloError) -> None:
        """The backend refused the request; nothing was used."""
        ...


class Meter(Protocol):
    """Opens charges."""

    async def open(
        self, bill: Bill, *, request_id: str, prompt_tokens: int, max_tokens: int
    ) -> Charge:
        """A charge for at most these tokens. Raises `RateLimitError` where a limit or the balance
        does not allow it; then nothing is left open."""
        ...


@dataclass(frozen=True, slots=True)
class FreeCharge:
    """Costs nothing."""

    max_tokens: int

    def progress(self, usage: Usage, *, cached_known: bool) -> None:
        """Nothing is counted."""

    async def keep_up(self) -> None:
        """Nothing is waited for."""

    def settle(self, ended: TurnEnded) -> None:
        """Nothing is charged."""

    def release(self, error: OssloError) -> None:
        """Nothing was reserved."""


@dataclass(frozen=True, slots=True)
class ForwardedCharge:
    """Another charge, for those that do something more when it ends."""

    inner: Charge

    @property
    def max_tokens(self) -> int:
        return self.inner.max_tokens

    def progress(self, usage: Usage, *, cached_known: bool) -> None:
        self.inner.progress(usage, cached_known=cached_known)

    async def keep_up(self) -> None:
        await self.inner.keep_up()


class FreeMeter:
    """Nothing is counted and nothing costs."""

    async def open(
        self,
        bill: Bill,  # noqa: ARG002 - the interface's, as are the next
        *,
        request_id: str,  # noqa: ARG002
        prompt_tokens: int,  # noqa: ARG002
        max_tokens: int,
    ) -> Charge:
        return FreeCharge(max_tokens)


def granted(request: GenerationRequest, max_tokens: int) -> GenerationRequest:
    """`request` with the output limit that its charge grants, which is never above its own."""
    limit = min(max_tokens, request.sampling.max_tokens)
    return replace(request, sampling=replace(request.sampling, max_tokens=limit))
