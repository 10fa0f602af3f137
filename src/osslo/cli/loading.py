"""Loading a model for a command, with a bar while it is packed."""

from __future__ import annotations

from osslo.cli.output import Output
from osslo.local import LocalModel, load
from osslo.model.pack import Precision


def load_with_bar(
    output: Output,
    model: str,
    *,
    context: int | None = None,
    threads: int | None = None,
    precision: Precision = "default",
) -> LocalModel:
    """`osslo.load`, and on stderr how far packing has come."""
    with output.progress() as bar:
        return load(
            model,
            threads=threads,
            context=context,
            precision=precision,
            progress=lambda done, total: bar.step("packing", done, total),
        )
