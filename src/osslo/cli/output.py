"""How commands speak: results to stdout, everything else to stderr, JSON where a script asks.

Owns the consoles, the one red line of an error, byte and time formats, and the progress bar that
long work reports to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class Output:
    """The two streams of a command. Results go to `out`, so that they can be piped."""

    out: Console = field(default_factory=lambda: Console(highlight=False))
    err: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))

    def json(self, value: Any) -> None:
        """Print `value` (records, enums and paths included) as indented JSON, unstyled."""
        text = json.dumps(value, default=_plain, indent=2, ensure_ascii=False)
        self.out.print(text, markup=False, soft_wrap=True)

    def text(self, line: str) -> None:
        """Print a line as it is: no markup, no wrapping."""
        self.out.print(line, markup=False, soft_wrap=True)

    def note(self, line: str) -> None:
        """Say something beside the result, dimmed, on stderr."""
        self.err.print(line, markup=False, style="dim", soft_wrap=True)

    def error(self, message: str) -> None:
        """The one red line that an error becomes."""
        self.err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)

    def rows(self, rows: Sequence[tuple[str, str]], title: str = "") -> None:
        """Names and values in two columns."""
        table = Table.grid(padding=(0, 2))
        for name, value in rows:
            table.add_row(f"[bold]{escape(name)}[/]", escape(value))
        if title:
            self.out.print(f"[bold underline]{escape(title)}[/]")
        self.out.print(table)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table whose columns after the first are numbers, set to the right."""
        table = Table(box=None, header_style="bold", pad_edge=False)
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        self.out.print(table)

    @contextmanager
    def progress(self, *, unit: str = "bytes") -> Iterator[Bar]:
        """A bar on stderr for work that reports `(done, total)`; `unit` is bytes or items."""
        columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn()]
        if unit == "bytes":
            columns += [DownloadColumn(binary_units=True), TransferSpeedColumn()]
        else:
            columns += [MofNCompleteColumn(), TaskProgressColumn()]
        with Progress(*columns, TimeRemainingColumn(), console=self.err) as shown:
            yield Bar(shown)


class Bar:
    """A progress bar; a new description begins a new line."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._tasks: dict[str, TaskID] = {}

    def step(self, description: str, done: int, total: int) -> None:
        """`done` of `total` of the work called `description` is finished."""
        if description not in self._tasks:
            self._tasks[description] = self._shown.add_task(escape(description), total=total)
        self._shown.update(self._tasks[description], completed=done, total=total)


def gib(amount_bytes: float) -> str:
    """Bytes as a short text in binary units."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if amount_bytes >= unit:
            return f"{amount_bytes / unit:.2f} {name}"
    return f"{amount_bytes:.0f} B"


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, frozenset | set | tuple):
        return list(value)
    return str(value)
