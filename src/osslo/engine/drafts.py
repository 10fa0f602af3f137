"""Drafts: tokens guessed to follow a text, which one step checks together.

A guess is looked up: what came after the same few tokens the last time they stood in the text
(Saxena, "Prompt lookup decoding", 2023). Each position's token is chosen from its own logits as
without drafts, and a draft only saves the step that would have brought its logits; so the answer is
the same, bit by bit, and whether to guess is a question of time alone. `Pace` answers it by
measuring.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MATCH_TOKENS = 3
"""Tokens that must have stood in the text before."""

_FEW = 4  # steps of either kind before they are compared
_WEIGHT = 1 / 8  # of the newest step in the averages
_FIRST_PAUSE = 32  # steps until drafts are tried again, doubled each time they do not pay
_LONGEST_PAUSE = 512
_CHECK_EVERY = 64  # steps after which the pace without drafts is measured again


def look_up(text: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """The `count` tokens that followed the last `MATCH_TOKENS` of `text` the last time, over and
    over where the text ends before; none if those never stood there before."""
    places = text.size - MATCH_TOKENS  # where a match may begin, the text's own end left out
    if count < 1 or places < 1:
        return text[:0]
    same = text[:places] == text[places]
    for step in range(1, MATCH_TOKENS):
        same &= text[step : places + step] == text[places + step]
    begin = places - 1 - int(same[::-1].argmax())
    if not same[begin]:
        return text[:0]
    return np.resize(text[begin + MATCH_TOKENS : begin + MATCH_TOKENS + count], count)


@dataclass(slots=True)
class _Average:
    """Tokens a second, newer steps counting more: of rates, so that a long step changes little."""

    steps: int = 0
    rate: float = 0.0

    def add(self, rate: float) -> None:
        self.steps += 1
        self.rate += max(_WEIGHT, 1 / self.steps) * (rate - self.rate)


@dataclass(slots=True)
class _Company:
    """What was measured with a number of sequences. `wait` is how many steps there are until the
    kind of step that is not chosen now has its turn."""

    plain: _Average = field(default_factory=_Average)
    drafted: _Average = field(default_factory=_Average)
    wait: int = _CHECK_EVERY
    pause: int = _FIRST_PAUSE

    @property
    def pays(self) -> bool:
        return self.drafted.rate > self.plain.rate


class Pace:
    """Decides for each decoding step whether it has drafts, by the tokens a second that steps with
    and without them brought, apart for each number of sequences decoding together.

    Where drafts do not pay they are tried once in a pause that grows, which costs less than 1 %.
    """

    def __init__(self) -> None:
        self._companies: dict[int, _Company] = {}

    def wants_drafts(self, sequences: int) -> bool:
        """Whether the next step of so many sequences should have drafts, if any can be guessed."""
        company = self._companies.setdefault(sequences, _Company())
        if company.plain.steps < _FEW:
            return False
        return company.drafted.steps < _FEW or company.pays == (company.wait > 0)

    def note(self, sequences: int, *, drafted: bool, tokens: int, seconds: float) -> None:
        """A decoding step of so many sequences brought `tokens`."""
        if seconds <= 0:
            return
        company = self._companies.setdefault(sequences, _Company())
        (company.drafted if drafted else company.plain).add(tokens / seconds)
        company.wait -= 1
        if company.pays:
            company.pause = _FIRST_PAUSE
            if not drafted and company.wait <= 0:
                company.wait = _CHECK_EVERY
        elif drafted:
            company.wait = company.pause
            company.pause = min(2 * company.pause, _LONGEST_PAUSE)
