"""Finding and loading a model for a command, with a bar for what takes long."""

from __future__ import annotations

from pathlib import Path

from osslo.cli.output import Output
from osslo.local import LocalModel, load
from osslo.model.discovery import FoundModel, ModelRoots, find_local
from osslo.model.model import Model
from osslo.opening import locate, open_native
from osslo.settings import Settings, load_settings


def find(output: Output, model: str | None) -> Path:
    """The checkpoint or packed file of a model, as serving would find it."""
    with output.progress() as bar:
        return locate(load_settings(overrides={"model": model}), bar.step).path


def known_models(settings: Settings, name: str | None = None) -> tuple[FoundModel, ...]:
    """Models whose weights are on this machine, all or those that `name` means."""
    return find_local(ModelRoots.of(settings.folders, settings.paths.model_roots), name)


def native_with_bar(output: Output, model: str | None, *, threads: int | None = None) -> Model:
    """The native model alone, without an engine."""
    settings = load_settings(overrides={"model": model, "threads": threads})
    with output.progress() as bar:
        return open_native(settings, locate(settings, bar.step), bar.step)


def load_with_bar(
    output: Output, model: str | None, *, context: int | None = None, threads: int | None = None
) -> LocalModel:
    """`osslo.load`."""
    with output.progress() as bar:
        return load(model, threads=threads, context=context, progress=bar.step)
