"""Short answers written for this recipe: two plain sentences, as an answer should be.

Questions and subjects are apart from the held-out ones (`bench.stand_in_eval`).
"""

from __future__ import annotations

from pathlib import Path

from recipes.stand_in.base_answers import Answered


def read() -> tuple[Answered, ...]:
    """The pairs of `written_answers.txt`: question and answer, parted by a tab."""
    text = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
    return tuple(Answered(*line.split("\t")) for line in text.splitlines())
