"""Writes docs/cli.md from the commands' own help; `--check` only compares, and fails if stale."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from typer.testing import CliRunner

from osslo.cli.main import COMMANDS, build_app

TARGET = Path(__file__).parent.parent / "docs" / "cli.md"
HEADER = """# Command line

Written by `make docs` from the commands' own help; edit there.
"""


def render() -> str:
    """The whole page, the same on every terminal."""
    app = build_app()
    runner = CliRunner(env={"COLUMNS": "96", "NO_COLOR": "1", "TERM": "dumb"})
    parts = [HEADER]
    for words in ([], *([name] for name in COMMANDS)):
        result = runner.invoke(app, [*words, "--help"], prog_name="osslo")
        if result.exit_code != 0:
            raise SystemExit(f"osslo {' '.join(words)} --help failed: {result.output}")
        text = re.sub(r"\x1b\[[0-9;]*m", "", result.output)
        body = "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
        parts.append(f"## {' '.join(['osslo', *words])}\n\n```text\n{body.strip()}\n```\n")
    return "\n".join(parts)


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
