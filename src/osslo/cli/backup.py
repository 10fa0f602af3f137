"""`osslo backup`: everything that a server keeps, in one archive."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer

from osslo.backup import Place, Summary, write_backup
from osslo.cli.accounts import ConfigOption, JsonOption
from osslo.cli.output import Output, gib
from osslo.db.database import Database
from osslo.serve import database_url, file_folder
from osslo.settings import Settings, load_settings


def command(
    target: Annotated[Path, typer.Argument(help="The archive to write.", show_default=False)],
    *,
    secrets: Annotated[
        bool,
        typer.Option("--secrets", help="The pepper, the sealing key and the server's key too."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the archive.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Back up accounts, ledger, usage, what callers keep, and files, while servers run.

    The archive is the same for SQLite and PostgreSQL, and can be restored into either. Without
    --secrets it holds no pepper, and without that no key in it works: keep the pepper elsewhere.
    With it, whoever has the archive can use whatever keys they also have.

    Examples:

        osslo backup /backups/osslo-monday.tar.gz

        osslo backup /safe/osslo-whole.tar.gz --secrets
    """
    settings = load_settings(config_path=config)
    output = Output()
    with output.progress(unit="items") as bar:
        summary = asyncio.run(
            with_place(
                settings,
                lambda place: write_backup(
                    place, target, secrets=secrets, force=force, progress=bar.step
                ),
            )
        )
    if as_json:
        output.json(summary)
        return
    show(output, summary)
    output.text(f"{target}: {gib(target.stat().st_size)}")
    if "pepper" not in summary.secrets:
        output.note(
            "the pepper is not in this archive, and no key works without it: keep "
            f"{settings.folders.home / 'pepper'} (or OSSLO_KEY_PEPPER) elsewhere"
        )


async def with_place(settings: Settings, work: Callable[[Place], Awaitable[Summary]]) -> Summary:
    """Do `work` on the database, files and home that the settings name."""
    database = Database(database_url(settings))
    try:
        home = settings.folders.home
        return await work(Place(database=database, files=file_folder(settings), home=home))
    finally:
        await database.close()


def show(output: Output, summary: Summary) -> None:
    """What an archive holds, in a few rows."""
    counts = summary.rows
    output.rows(
        [
            ("made", f"{summary.created_at} by Osslo {summary.osslo}"),
            ("schema", summary.revision),
            ("users", f"{counts.get('users', 0):,}"),
            ("ledger entries", f"{counts.get('ledger_entries', 0):,}"),
            ("rows in all", f"{sum(counts.values()):,}"),
            ("files", f"{summary.files:,}"),
            ("secrets", ", ".join(summary.secrets) or "none"),
        ]
    )
    if summary.missing_files:
        output.note(f"{summary.missing_files} files were gone from the disk")
