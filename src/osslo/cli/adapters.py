"""`osslo adapters …`: LoRA adapters on this machine. A running server sees changes by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from osslo.cli.accounts import JsonOption
from osslo.cli.loading import find
from osslo.cli.output import Output
from osslo.model.adapters.catalogue import (
    FOLDER,
    AdapterCatalogue,
    KnownAdapter,
    add_adapter,
    remove_adapter,
)
from osslo.model.checkpoints import open_checkpoint
from osslo.model.memory import gib
from osslo.model.packed_file import SUFFIX, read_header
from osslo.settings import load_settings

_HELP = """List, add and remove LoRA adapters.

Example:

    osslo adapters add support ./my-adapter
"""
group = typer.Typer(no_args_is_help=True, help=_HELP)

NameArgument = Annotated[
    str, typer.Argument(help="What callers put behind the model's name.", show_default=False)
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="The base; else what serve would take.", show_default=False),
]


@group.command("list")
def list_(*, model: ModelOption = None, as_json: JsonOption = False) -> None:
    """Show the adapters that lie in OSSLO_HOME/adapters, and whether they fit the model.

    Example:

        osslo adapters list
    """
    output = Output()
    catalogue = _catalogue(output, model)
    catalogue.refresh()
    if as_json:
        output.json([_told(known) for known in catalogue.all()])
        return
    output.table(
        ("name", "rank", "targets", "memory", "trained on", "problem"),
        [_row(known) for known in catalogue.all()],
    )


@group.command("add")
def add(
    name: NameArgument,
    folder: Annotated[Path, typer.Argument(help="A folder in PEFT's layout.", show_default=False)],
    *,
    model: ModelOption = None,
) -> None:
    """Copy an adapter to where it is served from, after reading it whole.

    Example:

        osslo adapters add support ./my-adapter
    """
    output = Output()
    catalogue = _catalogue(output, model)
    path = add_adapter(folder, catalogue.folder, name, catalogue.check)
    output.text(str(path))
    output.note(f"callers name it MODEL:{name}; a running server has it within a second or two")


@group.command("remove")
def remove(name: NameArgument) -> None:
    """Delete an adapter. Requests that run with it end as if nothing had happened.

    Example:

        osslo adapters remove support
    """
    remove_adapter(load_settings().folders.home / FOLDER, name)
    Output().text(f"{name} is removed")


def _catalogue(output: Output, model: str | None) -> AdapterCatalogue:
    settings = load_settings()
    path = find(output, model)
    if path.suffix == SUFFIX:
        header = read_header(path)
        config, fingerprint = header.config, header.fingerprint
    else:
        checkpoint = open_checkpoint(path)
        config, fingerprint = checkpoint.config, checkpoint.fingerprint()
    return AdapterCatalogue(
        settings.folders.home / FOLDER,
        config,
        fingerprint=fingerprint,
        max_rank=settings.model.max_adapter_rank,
    )


def _row(known: KnownAdapter) -> tuple[str, ...]:
    files = known.files
    if files is None:
        return known.name, "", "", "", "", known.error
    targets = ", ".join(files.targets)
    return known.name, str(files.rank), targets, gib(files.resident_bytes), files.base_name, ""


def _told(known: KnownAdapter) -> dict[str, object]:
    files = known.files
    return {
        "name": known.name,
        "rank": files.rank if files else None,
        "targets": list(files.targets) if files else [],
        "resident_bytes": files.resident_bytes if files else None,
        "base_model_name": files.base_name if files else None,
        "error": known.error or None,
    }
