"""`osslo synth`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from osslo.cli.output import Output, gib
from osslo.model.presets import PRESETS
from osslo.model.synth import synthesize


class Format(StrEnum):
    SAFETENSORS = "safetensors"
    ORIGINAL = "original"
    GGUF = "gguf"


def command(
    out: Annotated[Path, typer.Argument(help="Folder to write; for GGUF, the file.")],
    preset: Annotated[
        str, typer.Option(help=f"The shapes to write: {', '.join(PRESETS)}.")
    ] = "gpt-oss-20b",
    format_: Annotated[
        Format, typer.Option("--format", help="The files' layout.")
    ] = Format.SAFETENSORS,
    seed: Annotated[int, typer.Option(help="Another seed gives other weights.")] = 0,
) -> None:
    """Write a checkpoint of random weights in a model's exact shapes.

    It computes what the model would, as fast, and says nothing. For benchmarks and tests.

    Examples:

        osslo synth build/tiny --preset tiny

        osslo synth build/gpt-oss-20b.gguf --preset gpt-oss-20b --format gguf
    """
    output = Output()
    with output.progress() as bar:
        written = synthesize(
            preset,
            out,
            format=format_.value,
            seed=seed,
            progress=lambda done, total: bar.step(f"writing {preset}", done, total),
        )
    files = [written] if written.is_file() else list(written.iterdir())
    output.text(f"{written}: {gib(sum(file.stat().st_size for file in files))}")
