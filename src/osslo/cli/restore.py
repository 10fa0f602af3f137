"""`osslo restore`: an archive of `osslo backup`, back into a database."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from osslo.backup import check_backup, restore_backup
from osslo.cli.accounts import ConfigOption, JsonOption
from osslo.cli.backup import show, with_place
from osslo.cli.output import Output
from osslo.settings import load_settings


def command(
    source: Annotated[Path, typer.Argument(help="The archive.", show_default=False)],
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Only check the archive, and say what it holds.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace everything that the database holds.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Restore a backup into the database that the settings name: SQLite or PostgreSQL.

    The whole archive is checked first. Then everything is restored in one transaction, or nothing
    is. Stop the servers before; requests that ran at the time of the backup are settled by the
    first server that starts.

    Examples:

        osslo restore /backups/osslo-monday.tar.gz --check

        OSSLO_DATABASE_URL=postgresql://db/osslo osslo restore /backups/osslo-monday.tar.gz
    """
    settings = load_settings(config_path=config)
    output = Output()
    with output.progress(unit="items") as bar:
        if check:
            summary = check_backup(source, bar.step)
        else:
            summary = asyncio.run(
                with_place(
                    settings,
                    lambda place: restore_backup(source, place, force=force, progress=bar.step),
                )
            )
    if as_json:
        output.json(summary)
        return
    show(output, summary)
    output.text("the archive is whole" if check else "restored")
    pepper = settings.folders.home / "pepper"
    known = pepper.exists() or settings.accounts.key_pepper is not None
    if not check and not known:
        output.note(f"keys work once the old server's pepper is at {pepper}")
