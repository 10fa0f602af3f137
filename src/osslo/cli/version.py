"""`osslo version`."""

from __future__ import annotations

from osslo import __version__
from osslo.cli.output import Output


def command() -> None:
    """Print Osslo's version."""
    Output().text(f"osslo {__version__}")
