"""Adapters in memory: loaded when first asked for, shared by all who use them, unloaded when idle.

The pool owns how many are loaded and how much memory they take. It is used from the callers'
threads (loading takes as long as reading the file) and from the engine's, never from an event loop
unless the adapter is loaded already. A request holds a `Lease` from before it is accepted until it
has ended, so that nothing in use is ever unloaded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from osslo.errors import (
    AdapterError,
    ConflictError,
    ModelNotFoundError,
    OssloError,
    OverloadedError,
)
from osslo.model.adapters.catalogue import AdapterCatalogue, KnownAdapter, shown
from osslo.model.adapters.factors import Adapter
from osslo.model.adapters.peft import AdapterFiles
from osslo.model.forward import LoadedAdapter
from osslo.model.memory import gib

SPARE_BYTES = 256 << 20
"""What loading must leave of the machine's memory where no limit was set."""

_RETRY_AFTER_S = 5.0


@dataclass(slots=True, eq=False)
class _Entry:
    """One adapter in memory, or on its way there (`loaded` None)."""

    name: str
    files: AdapterFiles
    loaded: LoadedAdapter | None = None
    users: int = 0
    used: int = 0  # tick of the last use


@dataclass(frozen=True, slots=True, eq=False)
class Lease:
    """An adapter in use. Give it back once, with `AdapterPool.release`."""

    name: str
    adapter: LoadedAdapter
    entry: _Entry


@dataclass(frozen=True, slots=True)
class AdapterStatus:
    """One adapter as operators see it. `error` is set where it cannot be served."""

    name: str
    base_name: str
    rank: int
    targets: tuple[str, ...]
    resident_bytes: int
    added: int
    loaded: bool
    users: int
    error: str


class AdapterPool:
    """The adapters of one model. Thread-safe.

    At most `max_loaded` are in memory, of at most `max_bytes` together; with None, of as much as
    `available()` bytes leave beyond `SPARE_BYTES`. `load` brings one into the model's form.
    """

    def __init__(
        self,
        catalogue: AdapterCatalogue,
        load: Callable[[Adapter], LoadedAdapter],
        *,
        max_loaded: int,
        max_bytes: int | None,
        available: Callable[[], int],
    ) -> None:
        self.catalogue = catalogue
        self._load = load
        self._max_loaded = max_loaded
        self._max_bytes = max_bytes
        self._available = available
        self._changed = threading.Condition()  # guards everything below
        self._entries: dict[str, _Entry] = {}
        self._retired: list[_Entry] = []  # replaced or removed, but still in use
        self._tick = 0

    # --- using -----------------------------------------------------------------------------------

    def is_loaded(self, name: str) -> bool:
        """Whether `acquire` would answer at once."""
        with self._changed:
            entry = self._entries.get(name)
            known = self.catalogue.get(name)
            return (
                entry is not None
                and entry.loaded is not None
                and known is not None
                and entry.files is known.files
            )

    def acquire(self, name: str) -> Lease:
        """The adapter `name` for one request; loads it if need be, and blocks meanwhile.

        Raises ModelNotFoundError for an unknown name, ConflictError for one that cannot be served
        or never fits, OverloadedError if there is no room until others have ended.
        """
        with self._changed:
            while True:
                entry = self._current(name)
                if entry is None:
                    entry = self._begin(name)
                    break
                if entry.loaded is not None:
                    return self._lease(entry, entry.loaded)
                self._changed.wait()
        loaded: LoadedAdapter | None = None
        try:
            loaded = self._load(entry.files.load())
        except AdapterError as error:
            raise _unusable(name, shown(error, entry.files.folder)) from error
        except OSError as error:
            raise _unusable(name, error.strerror or str(error)) from error
        finally:
            with self._changed:
                entry.users -= 1  # of loading itself
                if loaded is None:
                    self._forget(entry)
                else:
                    entry.loaded = loaded
                    lease = self._lease(entry, loaded)
                self._changed.notify_all()
        return lease

    def release(self, lease: Lease) -> None:
        """A request has ended."""
        with self._changed:
            lease.entry.users -= 1
            if not lease.entry.users and lease.entry in self._retired:
                self._retired.remove(lease.entry)
            self._changed.notify_all()

    def wait_unused(self, name: str, timeout_s: float) -> bool:
        """Wait until no request uses an adapter of this name that is gone; False after the time."""
        deadline = time.monotonic() + timeout_s

        def unused() -> bool:
            return not any(entry.name == name and entry.users for entry in self._all())

        with self._changed:
            self._retire_gone()
            return self._changed.wait_for(unused, max(0.0, deadline - time.monotonic()))

    # --- looking ---------------------------------------------------------------------------------

    def status(self) -> tuple[AdapterStatus, ...]:
        """All adapters that lie there, by name."""
        with self._changed:
            self._retire_gone()
            return tuple(self._status(known) for known in self.catalogue.all())

    def totals(self) -> tuple[int, int]:
        """How many are in memory, and their bytes."""
        with self._changed:
            entries = self._all()
            return len(entries), sum(entry.files.resident_bytes for entry in entries)

    def _status(self, known: KnownAdapter) -> AdapterStatus:
        entry, files = self._entries.get(known.name), known.files
        return AdapterStatus(
            name=known.name,
            base_name=files.base_name if files else "",
            rank=files.rank if files else 0,
            targets=tuple(map(str, files.targets)) if files else (),
            resident_bytes=files.resident_bytes if files else 0,
            added=known.added,
            loaded=entry is not None and entry.loaded is not None,
            users=entry.users if entry is not None else 0,
            error=known.error,
        )

    # --- room ------------------------------------------------------------------------------------

    def _all(self) -> list[_Entry]:
        return [*self._entries.values(), *self._retired]

    def _current(self, name: str) -> _Entry | None:
        """The entry that is of the files which lie there now."""
        self._retire_gone()
        return self._entries.get(name)

    def _retire_gone(self) -> None:
        for entry in list(self._entries.values()):
            known = self.catalogue.get(entry.name)
            if known is None or known.files is not entry.files:
                del self._entries[entry.name]
                if entry.users:
                    self._retired.append(entry)

    def _begin(self, name: str) -> _Entry:
        """Make room, and say that this thread loads."""
        known = self.catalogue.get(name)
        if known is None:
            raise ModelNotFoundError(f"There is no adapter {name!r}.", param="model")
        if known.files is None:
            raise _unusable(name, known.error)
        self._make_room(name, known.files.resident_bytes)
        entry = self._entries[name] = _Entry(name, known.files, users=1)
        return entry

    def _make_room(self, name: str, needed: int) -> None:
        if self._max_bytes is not None and needed > self._max_bytes:
            raise _unusable(
                name,
                f"it needs {gib(needed)} of memory, more than the {gib(self._max_bytes)} that "
                "there are for all adapters (OSSLO_ADAPTER_MEMORY_BYTES)",
            )
        if not self._max_loaded:
            raise _unusable(name, "this server loads no adapters (OSSLO_MAX_ADAPTERS is 0)")
        while not self._has_room(needed):
            idle = [entry for entry in self._entries.values() if not entry.users]
            if idle:
                self._forget(min(idle, key=lambda entry: entry.used))
                continue
            if self._all():
                raise OverloadedError(
                    f"There is no room for the adapter {name!r} while {len(self._all())} others "
                    "are in use; try again later.",
                    retry_after_s=_RETRY_AFTER_S,
                )
            raise OverloadedError(
                f"The adapter {name!r} needs {gib(needed)} of memory, and too little is free.",
                retry_after_s=_RETRY_AFTER_S,
            )

    def _has_room(self, needed: int) -> bool:
        entries = self._all()
        if len(entries) >= self._max_loaded:
            return False
        if self._max_bytes is not None:
            taken = sum(entry.files.resident_bytes for entry in entries)
            return taken + needed <= self._max_bytes
        return needed + SPARE_BYTES <= self._available()

    def _forget(self, entry: _Entry) -> None:
        if self._entries.get(entry.name) is entry:
            del self._entries[entry.name]
        elif entry in self._retired:
            self._retired.remove(entry)

    def _lease(self, entry: _Entry, loaded: LoadedAdapter) -> Lease:
        entry.users += 1
        self._tick += 1
        entry.used = self._tick
        return Lease(entry.name, loaded, entry)


def _unusable(name: str, why: str) -> OssloError:
    return ConflictError(
        f"The adapter {name!r} cannot be served: {why}", param="model", code="adapter_unavailable"
    )
