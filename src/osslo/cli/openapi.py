"""`osslo openapi`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from osslo.api.app import create_app
from osslo.api.auth import SingleKeyRing
from osslo.api.services import Services
from osslo.chat.models import ModelRegistry
from osslo.cli.output import Output
from osslo.db.database import Database
from osslo.errors import ConfigurationError


class DocumentFormat(StrEnum):
    """How the document is written."""

    JSON = "json"
    YAML = "yaml"


def command(
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A file to write; its ending may choose the format."),
    ] = None,
    document_format: Annotated[
        DocumentFormat | None, typer.Option("--format", help="json (the default) or yaml.")
    ] = None,
    server: Annotated[
        str, typer.Option(help="The base URL that tools send requests to.")
    ] = "http://127.0.0.1:8000",
) -> None:
    """Print the API's OpenAPI document, for API testers and client generators.

    Needs no model and no running server.

    Examples:

        osslo openapi > openapi.json

        osslo openapi --output osslo.yaml --server https://llm.example.org
    """
    chosen = document_format or _format_of(output)
    text = _write(openapi_document(server), chosen)
    if output is None:
        Output().out.out(text, highlight=False, end="")
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{output} cannot be written ({error.strerror})") from error
    Output().note(f"Wrote {output}.")


def openapi_document(server: str) -> dict[str, Any]:
    """The document of a server at the base URL `server`: the application's own, built without a
    model; its database is never opened."""
    services = Services(
        registry=ModelRegistry(()),
        keys=SingleKeyRing(""),
        database=Database("sqlite:///:memory:"),
    )
    document: dict[str, Any] = create_app(services).openapi()
    return {**document, "servers": [{"url": server.rstrip("/")}]}


def _format_of(output: Path | None) -> DocumentFormat:
    yaml_file = output is not None and output.suffix in (".yaml", ".yml")
    return DocumentFormat.YAML if yaml_file else DocumentFormat.JSON


def _write(document: dict[str, Any], chosen: DocumentFormat) -> str:
    if chosen is DocumentFormat.YAML:
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
