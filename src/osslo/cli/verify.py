"""`osslo verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from osslo.cli.output import Output
from osslo.model.packed_file import verify


def command(
    path: Annotated[Path, typer.Argument(help="A packed file (.osslo).", show_default=False)],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a packed file's contents against its checksums.

    Loading checks header, shapes and size only, to be quick; this reads everything.

    Example:

        osslo verify ~/.cache/osslo/packed/gpt-oss-20b-default-0123456789ab.osslo
    """
    output = Output()
    with output.progress() as bar:
        header = verify(path, lambda done, total: bar.step("reading", done, total))
    if as_json:
        output.json(
            {
                "path": path,
                "name": header.name,
                "precision": header.precision,
                "tensors": len(header.tensors),
                "bytes": header.file_bytes,
                "intact": True,
            }
        )
        return
    output.text(f"{path}: {header.name}, {len(header.tensors)} tensors, all intact")
