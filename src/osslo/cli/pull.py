"""`osslo pull`."""

from __future__ import annotations

from typing import Annotated

import typer

from osslo.cli.loading import known_models
from osslo.cli.output import Output
from osslo.model.hub import Hub, pull
from osslo.settings import Settings, load_settings


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="gpt-oss-20b, gpt-oss-120b, OWNER/NAME, or OWNER/NAME:FILE.gguf.",
            show_default=False,
        ),
    ],
    *,
    revision: Annotated[
        str | None, typer.Option(help="A commit, tag or branch; else the newest, once.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Fetch even if another program has the weights.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fetch a model's weights, or find them on this machine.

    Weights that Hugging Face tools, LM Studio or Ollama have fetched are used where they are. What
    is fetched is resumed after a break and checked against the hub's checksums; the commit is
    written beside it, and stays until another --revision is asked for.

    Examples:

        osslo pull gpt-oss-20b

        osslo pull ggml-org/gpt-oss-20b-GGUF:gpt-oss-20b-mxfp4.gguf
    """
    output = Output()
    settings = load_settings()
    found = () if again or revision is not None else known_models(settings, model)
    if found:
        path, source = found[0].path, f"in place, {found[0].source}"
    else:
        with output.progress() as bar:
            path = pull(
                model,
                settings.folders.models,
                revision=revision,
                hub=hub_of(settings),
                progress=bar.step,
            )
        source = "pulled"
    if as_json:
        output.json({"name": model, "path": path, "source": source})
        return
    output.text(f"{path} ({source})")
    output.note(f"osslo serve {model}")


def hub_of(settings: Settings) -> Hub:
    """The hub that the settings name."""
    endpoint = settings.paths.hub_endpoint
    offline = settings.paths.offline
    return Hub(endpoint=endpoint, offline=offline) if endpoint else Hub(offline=offline)
