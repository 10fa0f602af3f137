"""`osslo pack`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from osslo.cli.output import Output, gib
from osslo.model.checkpoints import open_checkpoint
from osslo.model.pack import ensure_packed, pack
from osslo.settings import load_settings


class PrecisionChoice(StrEnum):
    DEFAULT = "default"
    EXACT = "exact"


def command(
    model: Annotated[Path, typer.Argument(help="A checkpoint's folder or file.")],
    *,
    out: Annotated[
        Path | None, typer.Option(help="The file to write; else a place in the cache.")
    ] = None,
    precision: Annotated[
        PrecisionChoice, typer.Option(help="What weights and activations become.")
    ] = PrecisionChoice.DEFAULT,
) -> None:
    """Write the packed file that serving loads.

    Serving packs by itself on the first load; packing beforehand saves that time, and a packed
    file can be copied to machines that have no checkpoint.

    Examples:

        osslo pack ~/models/gpt-oss-20b

        osslo pack gpt-oss-20b.gguf --out gpt-oss-20b.osslo
    """
    output = Output()
    checkpoint = open_checkpoint(model)
    with output.progress() as bar:

        def progress(done: int, total: int) -> None:
            bar.step(f"packing {model.name}", done, total)

        if out is not None:
            written = pack(checkpoint, out, precision=precision.value, progress=progress)
        else:
            folder = load_settings().folders.cache / "packed"
            written = ensure_packed(
                checkpoint, folder, precision=precision.value, progress=progress
            )
    output.text(f"{written}: {gib(written.stat().st_size)}")
