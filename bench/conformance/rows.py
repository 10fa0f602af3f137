"""A row of the result, progress on the terminal, and failed samples, kept to be run again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")

KEPT_FAILURES = 50
"""Of each row; the count goes on."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of `build/conformance.json`. `better` says on which side of the target `value` has
    to be; `remarks` holds what else was counted."""

    name: str
    value: float
    target: float
    samples: int
    better: Literal["lower", "higher"] = "lower"
    remarks: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        good = self.value <= self.target if self.better == "lower" else self.value >= self.target
        return good and self.samples > 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"met": self.met}


@dataclass(slots=True)
class Failures:
    """Counts what failed and writes the first ones to `folder/NAME.jsonl`; an old file goes."""

    name: str
    folder: Path
    count: int = 0

    def __post_init__(self) -> None:
        self.path.unlink(missing_ok=True)

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.jsonl"

    def add(self, what: str, **details: Any) -> None:
        """Note one failure: what went wrong, and everything that is needed to see it again."""
        self.count += 1
        if self.count > KEPT_FAILURES:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"what": what, **details}, default=repr) + "\n")


def progressing(name: str, items: Iterable[T], total: int, failures: Failures) -> Iterator[T]:
    """Gives `items` and, on a terminal, a line that tells how far it is."""
    shown = 0.0
    for number, item in enumerate(items):
        now = time.monotonic()
        if sys.stderr.isatty() and now - shown > 0.2:
            shown = now
            _say(f"{name:18} {number:>7}/{total}  failed {failures.count}")
        yield item
    _say("")


def _say(line: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()
