"""The command line's entry: which commands there are, and how an error becomes one line.

Each command lives in a module of its own, which is imported only when it is the one asked for, so
that `osslo --help` and `osslo version` answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Annotated

import typer

from osslo.cli.output import Output
from osslo.errors import ConfigurationError, OssloError, RequestError

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "serve": "Serve a model behind the OpenAI-compatible API.",
        "chat": "Talk to a model in the terminal.",
        "bench": "Measure a model on this machine.",
        "doctor": "Show what this machine offers, and which models are found.",
        "inspect": "Show what is in a checkpoint and what it costs in memory.",
        "pull": "Fetch a model's weights, or find them on this machine.",
        "pack": "Write the packed file that serving loads.",
        "verify": "Check a packed file's contents against its checksums.",
        "tune": "Teach a model your data.",
        "export": "Write an adapter, a merged model or a GGUF file for others.",
        "adapters": "List, add and remove LoRA adapters.",
        "synth": "Write a checkpoint of random weights in a model's exact shapes.",
        "users": "Make and change users.",
        "keys": "Make, rotate and revoke API keys.",
        "usage": "Print or export the usage log.",
        "backup": "Write everything that a server keeps into one archive.",
        "restore": "Restore a backup, into SQLite or PostgreSQL.",
        "prices": "Show and set what models cost.",
        "openapi": "Print the API's OpenAPI document.",
        "version": "Print Osslo's version.",
    }
)
"""Every command and its line in `osslo --help`. The module `osslo.cli.NAME` has `command` or, where
it has commands of its own, `group`."""

USAGE_ERROR = 2
FAILURE = 1


def main() -> None:
    """Run the command line on the process's arguments; the exit code tells how it went."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code.

    0 is success, 2 a wrong flag, setting or request, 1 any other failure, 130 an interrupt. An
    `OssloError` becomes one line on stderr; with `--debug` it is raised instead.
    """
    debug = "--debug" in arguments
    wanted = [argument for argument in arguments if argument != "--debug"]
    try:
        build_app(only=wanted)(args=wanted, prog_name="osslo")
    except OssloError as error:
        if debug:
            raise
        Output().error(error.message)
        wrong_use = isinstance(error, ConfigurationError | RequestError)
        return USAGE_ERROR if wrong_use else FAILURE
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else FAILURE
    return 0


def build_app(only: Sequence[str] | None = None) -> typer.Typer:
    """The Typer application. With `only`, commands not named there are known by their help line
    alone; without it, every command is loaded (documentation and completion need that)."""
    app = typer.Typer(
        name="osslo",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name, summary in COMMANDS.items():
        if only is None or name in only:
            _add(app, name, summary)
        else:
            app.command(name, short_help=summary)(_stub(summary))
    return app


def _root(
    *,
    debug: Annotated[
        bool, typer.Option("--debug", help="On an error, show the whole traceback.")
    ] = False,
) -> None:
    """gpt-oss behind your own API.

    Start with [bold]osslo serve[/]; then [bold]osslo chat[/] in another terminal.
    """


def _add(app: typer.Typer, name: str, summary: str) -> None:
    module = import_module(f"osslo.cli.{name}")
    group: typer.Typer | None = getattr(module, "group", None)
    if group is None:
        app.command(name, short_help=summary)(module.command)
    else:
        app.add_typer(group, name=name, short_help=summary)


def _stub(summary: str) -> Callable[[], None]:
    def command() -> None:
        raise AssertionError("a command that was not loaded was run")

    command.__doc__ = summary
    return command
