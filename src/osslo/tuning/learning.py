"""What of a model learns, and the records that say so. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Method(StrEnum):
    LORA = "lora"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class LoraShape:
    """Rank, and the factor that a delta is scaled by."""

    rank: int
    scale: float


@dataclass(frozen=True, slots=True)
class Learning:
    """What of a model learns. `rank` and `alpha` are LoRA's, `attention` and `experts` say where it
    is; `router` lets a full fine-tuning move the router too. `rounding` trains with experts rounded
    to MXFP4 in the forward."""

    method: Method = Method.LORA
    rank: int = 16
    alpha: float = 32.0
    attention: bool = True
    experts: bool = True
    router: bool = False
    rounding: bool = False

    @property
    def lora(self) -> LoraShape | None:
        if self.method is Method.FULL:
            return None
        return LoraShape(self.rank, self.alpha / self.rank)
