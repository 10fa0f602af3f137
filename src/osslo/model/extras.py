"""Whether optional extras are installed."""

from __future__ import annotations

from importlib.util import find_spec

from osslo.errors import DependencyMissingError

PACKAGES = ("torch", "transformers")
INSTALL = "pip install 'osslo[tune]'"


def require_torch() -> None:
    """Raises `DependencyMissingError` that says how to install what lacks."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise DependencyMissingError(
            f"fine-tuning needs {' and '.join(missing)}: {INSTALL} (for a CPU, get torch first: "
            "pip install torch --index-url https://download.pytorch.org/whl/cpu)"
        )
