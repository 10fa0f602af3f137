"""What a guard may look at. There is no judge of texts yet, so only `off` is taken anywhere."""

from __future__ import annotations

from enum import StrEnum


class GuardMode(StrEnum):
    """What of a request the judge looks at."""

    OFF = "off"
    INPUT = "input"
    OUTPUT = "output"
    BOTH = "both"

    @property
    def judges_input(self) -> bool:
        return self in (GuardMode.INPUT, GuardMode.BOTH)

    @property
    def judges_output(self) -> bool:
        return self in (GuardMode.OUTPUT, GuardMode.BOTH)
