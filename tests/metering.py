"""A meter that notes what it is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from osslo.chat.events import TurnEnded
from osslo.chat.metering import Bill
from osslo.errors import OssloError
from osslo.types import Usage


@dataclass
class NotedCharge:
    """What one charge was told."""

    bill: Bill
    max_tokens: int
    counted: list[Usage] = field(default_factory=list)
    settled: list[TurnEnded] = field(default_factory=list)
    released: list[OssloError] = field(default_factory=list)

    def progress(self, usage: Usage, *, cached_known: bool = True) -> None:
        self.counted.append(usage)

    async def keep_up(self) -> None:
        pass

    def settle(self, ended: TurnEnded) -> None:
        self.settled.append(ended)

    def release(self, error: OssloError) -> None:
        self.released.append(error)


@dataclass
class NotingMeter:
    """Implements `osslo.chat.metering.Meter`; refuses with `refusal` if there is one."""

    refusal: OssloError | None = None
    charges: list[NotedCharge] = field(default_factory=list)

    async def open(
        self, bill: Bill, *, request_id: str, prompt_tokens: int, max_tokens: int
    ) -> NotedCharge:
        if self.refusal is not None:
            raise self.refusal
        charge = NotedCharge(bill, max_tokens)
        self.charges.append(charge)
        return charge
