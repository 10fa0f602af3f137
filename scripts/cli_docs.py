"""Writes docs/cli.md from the commands' own help; `--check` only compares, and fails if stale.

The page is made from the commands' definitions, not from what a terminal shows, so that it is the
same with every version of the libraries that draw help.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from typer.main import get_command

from osslo.cli.main import COMMANDS, build_app

TARGET = Path(__file__).parent.parent / "docs" / "cli.md"
HEADER = """\
# Command line

Written by `make docs` from the commands' own help; edit there. Every command also takes `--help`,
and `--debug` for the whole traceback of an error. Results go to stdout, all else to stderr. Exit
codes: 0 success, 1 failure, 2 wrong use, 130 interrupted.
"""


def render() -> str:
    """The whole page."""
    commands: dict[str, Any] = get_command(build_app()).commands  # type: ignore[attr-defined]  # a group
    sections = (part for name in COMMANDS for part in sections_of(name, commands[name]))
    return "\n".join([HEADER, *sections])


def sections_of(name: str, command: Any) -> Iterator[str]:
    """A command's section, or those of the commands that it has."""
    own = getattr(command, "commands", None)
    if own is None:
        yield section(name, command)
        return
    for child, nested in own.items():
        yield from sections_of(f"{name} {child}", nested)


def section(name: str, command: Any) -> str:
    """One command: usage, text, examples, parameters."""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = " ".join([f"osslo {name}", *map(_usage, arguments), "[OPTIONS]"])
    rows = [row for parameter in command.params for row in _row(parameter)]
    table = ["| parameter | meaning | default |", "|---|---|---|", *rows, ""] if rows else []
    parts = [f"## osslo {name}", "", f"    {usage}", "", *_text(command.help or ""), *table]
    return "\n".join(parts)


def _usage(argument: Any) -> str:
    name = argument.name.upper()
    return name if argument.required else f"[{name}]"


def _text(help_text: str) -> Iterator[str]:
    """The paragraphs; what follows `Example` is code."""
    code = False
    for paragraph in inspect.cleandoc(help_text).split("\n\n"):
        yield f"    {paragraph.strip()}" if code else paragraph
        yield ""
        code = code or paragraph.strip() in ("Example:", "Examples:")


def _row(parameter: Any) -> Iterator[str]:
    if parameter.name in ("help", "debug"):
        return
    is_argument = parameter.param_type_name == "argument"
    names = [parameter.name.upper()] if is_argument else list(parameter.opts)
    default = parameter.default
    shown = default.value if isinstance(default, Enum) else default
    unset = shown is None or shown is False or shown == "" or callable(shown)
    plain = "" if unset else f"`{shown}`"
    yield f"| {', '.join(f'`{name}`' for name in names)} | {parameter.help or ''} | {plain} |"


def main() -> None:
    """Write the page, or check it."""
    page = render()
    if "--check" in sys.argv:
        if not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != page:
            raise SystemExit("docs/cli.md is stale: run `make docs`")
        return
    TARGET.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
