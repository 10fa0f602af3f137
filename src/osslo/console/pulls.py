"""Fetching a model in the background, one at a time, with a state that pages can show.

The download itself is `model.hub`'s; a thread runs it, and cancelling stops it at its next report.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from osslo.errors import ConfigurationError, ConflictError, OssloError, RequestError
from osslo.model.discovery import ModelRoots, find_local
from osslo.model.hub import Hub, parse_name, pull

_GB = 1e9


@dataclass(frozen=True, slots=True)
class Pull:
    """A fetch, running or ended. `what` is done now, to a file of `total_bytes`; `error` is why it
    failed."""

    name: str
    what: str = ""
    running: bool = True
    done_bytes: int = 0
    total_bytes: int = 0
    error: str | None = None

    @property
    def text(self) -> str:
        """Where it stands, in words."""
        if self.error is not None:
            return f"{self.name} could not be fetched: {self.error}"
        if not self.running:
            return f"{self.name} is here. It is served after the next start."
        if not self.total_bytes:
            return "looking for its files"
        return f"{self.what}, {self.done_bytes / _GB:.2f} of {self.total_bytes / _GB:.2f} GB"


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A model found on this machine."""

    name: str
    source: str
    size: str


class _CancelledError(Exception):
    """Raised by the progress report to end a download."""


class Pulls:
    """Fetches models into a folder. Safe to use from the event loop and its own thread."""

    def __init__(self, folder: Path, roots: ModelRoots, hub: Hub) -> None:
        self._folder = folder
        self._roots = roots
        self._hub = hub
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._state: Pull | None = None

    @property
    def state(self) -> Pull | None:
        """The newest fetch, or None if there was none."""
        return self._state

    def begin(self, name: str) -> None:
        """Start to fetch `name`. Raises `ConflictError` while another fetch runs, and
        `RequestError` for a name that means no model."""
        try:
            parse_name(name)
        except ConfigurationError as error:  # a person typed it, nobody configured it
            raise RequestError(error.message) from error
        with self._lock:
            if self._state is not None and self._state.running:
                raise ConflictError(f"{self._state.name} is being fetched; wait or cancel it.")
            self._state = Pull(name)
            self._stop.clear()
        threading.Thread(target=self._run, args=(name,), name="osslo-pull", daemon=True).start()

    def cancel(self) -> None:
        """Stop the fetch that runs, if any."""
        self._stop.set()

    async def on_disk(self) -> list[OnDisk]:
        """The models on this machine."""
        return await asyncio.to_thread(self._found)

    def _found(self) -> list[OnDisk]:
        return [
            OnDisk(model.name, model.source, f"{model.stored_bytes / _GB:.1f} GB")
            for model in find_local(self._roots)
        ]

    def _run(self, name: str) -> None:
        try:
            pull(name, self._folder, hub=self._hub, progress=self._report)
        except _CancelledError:
            self._change(lambda state: replace(state, running=False, error="cancelled"))
        except OssloError as error:
            message = error.message
            self._change(lambda state: replace(state, running=False, error=message))
        except Exception as error:  # whatever happens, the page must not show it as running
            kind = type(error).__name__
            self._change(lambda state: replace(state, running=False, error=kind))
        else:
            self._change(lambda state: replace(state, running=False))

    def _report(self, what: str, done_bytes: int, total_bytes: int) -> None:
        if self._stop.is_set():
            raise _CancelledError
        self._change(
            lambda state: replace(state, what=what, done_bytes=done_bytes, total_bytes=total_bytes)
        )

    def _change(self, to: Callable[[Pull], Pull]) -> None:
        with self._lock:
            if self._state is not None:
                self._state = to(self._state)
