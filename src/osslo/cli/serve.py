"""`osslo serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from osslo.cli.output import Output
from osslo.cli.pack import PrecisionChoice
from osslo.serve import build, run, startup_text
from osslo.settings import load_settings


def command(
    model: Annotated[
        str | None,
        typer.Argument(help="Name or path; else OSSLO_MODEL.", show_default=False),
    ] = None,
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 picks a free one.")] = None,
    api_key: Annotated[
        str | None, typer.Option(help="The key that callers need.", show_default=False)
    ] = None,
    context: Annotated[int | None, typer.Option(help="Context in tokens.")] = None,
    threads: Annotated[int | None, typer.Option(help="Compute threads.")] = None,
    precision: Annotated[PrecisionChoice | None, typer.Option(help="Numeric precision.")] = None,
    max_running: Annotated[int | None, typer.Option(help="Requests decoded together.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file with settings.")] = None,
) -> None:
    """Serve a model behind the OpenAI-compatible API.

    Flags win over OSSLO_* variables, which win over the TOML file. Without a model, gpt-oss-20b is
    served if its weights are on this machine, and else a small stand-in, fetched once.

    Examples:

        osslo serve

        osslo serve gpt-oss-20b --port 9000 --context 16384

        OSSLO_API_KEY=sk-mine osslo serve ~/models/gpt-oss-20b.gguf
    """
    output = Output()
    settings = load_settings(
        config_path=config,
        overrides={
            "model": model,
            "host": host,
            "port": port,
            "api_key": api_key,
            "context": context,
            "threads": threads,
            "precision": precision.value if precision else None,
            "max_running": max_running,
        },
    )
    with output.progress() as bar:
        server = build(settings, progress=bar.step)
    run(server, lambda url: output.text(startup_text(server, url)))
