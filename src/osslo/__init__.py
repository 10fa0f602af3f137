"""Osslo: gpt-oss behind your own API.

import osslo

with osslo.load("gpt-oss-20b") as model:
    print(model.chat("What is the capital of Norway?").text)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from osslo.local import LocalModel, load

__version__ = "0.1.0"
__all__ = ["LocalModel", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """The Python API is loaded when it is first asked for: the command line and the server do not
    pay for it."""
    if name in ("LocalModel", "load"):
        from osslo import local  # noqa: PLC0415  (see above)

        return getattr(local, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
