"""The seam to accounts: what a turn tells whoever counts and charges it.

A `Meter` opens a `Charge` before the backend is asked, and that charge ends in exactly one call of
`settle` or `release`. Nothing here knows money; `accounts` brings the meter that does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from osslo.chat.events import TurnEnded
from osslo.errors import OssloError
from osslo.types import Usage


@dataclass(frozen=True, slots=True)
class Bill:
    """Who asks for a turn and through which protocol. Ids are None where there are no accounts."""

    model: str
    protocol: str
    user_id: str | None = None
    key_id: str | None = None


class Charge(Protocol):
    """One accepted request's count. No method blocks: what must be durable is queued."""

    def progress(self, usage: Usage) -> None:
        """So many tokens so far; called as they come."""
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


class _FreeCharge:
    def _nothing(self, _: Usage | TurnEnded | OssloError) -> None:
        """Free."""

    progress = settle = release = _nothing


class FreeMeter:
    """Nothing is counted and nothing costs."""

    async def open(
        self,
        bill: Bill,  # noqa: ARG002 - the interface's, as are the next
        *,
        request_id: str,  # noqa: ARG002
        prompt_tokens: int,  # noqa: ARG002
        max_tokens: int,  # noqa: ARG002
    ) -> Charge:
        return _FreeCharge()
