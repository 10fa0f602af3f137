"""Which adapters lie on this machine: the folder `adapters` in home, watched, added to, taken from.

A folder takes its name only when every file is in it, so a name that is there is whole. `refresh`
looks for what is new, changed or gone; reading the numbers is left to whoever serves them.
"""

from __future__ import annotations

import re
import secrets
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from osslo.errors import AdapterError, ConfigurationError, ConflictError, NotFoundError
from osslo.model.adapters.peft import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles, open_adapter
from osslo.model.config import ModelConfig

FOLDER = "adapters"
"""The folder in home."""

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_COPIED = (CONFIG_FILE, WEIGHTS_FILE, "README.md", "LICENSE", "NOTICE")

_Signature = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class KnownAdapter:
    """One folder. `files` is None where it cannot be served; `error` then says why. `added` is in
    seconds of Unix time."""

    name: str
    folder: Path
    added: int
    files: AdapterFiles | None
    error: str = ""


class AdapterCatalogue:
    """The adapters in `folder` that are for the model of shape `config`. Thread-safe.

    `max_rank` refuses larger ones; `fingerprint` is the base's.
    """

    def __init__(
        self, folder: Path, config: ModelConfig, *, fingerprint: str | None, max_rank: int
    ) -> None:
        self.folder = folder
        self._config = config
        self._fingerprint = fingerprint
        self._max_rank = max_rank
        self._refreshing = threading.Lock()
        self._known: dict[str, tuple[_Signature, KnownAdapter]] = {}

    def refresh(self) -> None:
        """Look again. What has not changed is not read again, and keeps its `KnownAdapter`."""
        with self._refreshing:
            known: dict[str, tuple[_Signature, KnownAdapter]] = {}
            for folder in _folders(self.folder):
                signature = _signature(folder)
                before = self._known.get(folder.name)
                if before is not None and before[0] == signature:
                    known[folder.name] = before
                elif signature is not None:
                    known[folder.name] = signature, self._read(folder, signature)
            self._known = known  # replaced whole: readers take no lock

    def all(self) -> tuple[KnownAdapter, ...]:
        """Every folder found, by name, also those that cannot be served."""
        return tuple(known for _, known in sorted(self._known.values(), key=lambda k: k[1].name))

    def offered(self) -> list[tuple[str, int]]:
        """Names of those that can be served, and when they were added in seconds of Unix time."""
        return [(known.name, known.added) for known in self.all() if known.files is not None]

    def get(self, name: str) -> KnownAdapter | None:
        """The adapter of this name, if its folder is there."""
        found = self._known.get(name)
        return None if found is None else found[1]

    def check(self, folder: Path) -> AdapterFiles:
        """Read a folder anywhere, numbers and all. Raises AdapterError if it cannot be served."""
        files = self._open(folder)
        files.load()
        return files

    def _read(self, folder: Path, signature: _Signature) -> KnownAdapter:
        added = max(time_ns for _, time_ns, _ in signature) // 1_000_000_000 if signature else 0
        try:
            return KnownAdapter(folder.name, folder, added, self._open(folder))
        except AdapterError as error:
            return KnownAdapter(folder.name, folder, added, None, shown(error, folder))

    def _open(self, folder: Path) -> AdapterFiles:
        files = open_adapter(folder, self._config, fingerprint=self._fingerprint)
        if files.rank > self._max_rank:
            raise AdapterError(
                f"{folder}: its rank is {files.rank}, but this server takes up to "
                f"{self._max_rank}: raise OSSLO_MAX_ADAPTER_RANK"
            )
        return files


def shown(error: AdapterError, folder: Path) -> str:
    """What is wrong, without where on this machine the adapter lies."""
    return error.message.replace(f"{folder}/", "").replace(f"{folder}: ", "")


def add_adapter(source: Path, root: Path, name: str, check: Callable[[Path], AdapterFiles]) -> Path:
    """Copy the adapter in `source` into `root` as `name`, whole or not at all; gives its folder.

    The copy is what is checked. Raises AdapterError for one that cannot be served, ConflictError if
    the name is taken.
    """
    target = root / checked_name(name)
    if target.exists():
        raise ConflictError(f"there is an adapter {name!r} already; remove it first", param="name")
    root.mkdir(parents=True, exist_ok=True)
    partial = root / f".{name}.{secrets.token_hex(4)}.partial"
    partial.mkdir()
    try:
        for file in _COPIED:
            origin = source / file
            if origin.is_file():
                shutil.copyfile(origin, partial / file)
        check(partial)
        partial.rename(target)
    except AdapterError as error:
        raise AdapterError(f"{source}: {shown(error, partial)}") from error
    except OSError as error:
        raise AdapterError(f"{source}: cannot be copied: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def remove_adapter(root: Path, name: str) -> None:
    """Take an adapter's folder away: from one moment to the next its name is gone.

    Requests that run with it keep what is loaded. Raises NotFoundError.
    """
    folder = root / checked_name(name)
    if not folder.is_dir():
        raise NotFoundError(f"There is no adapter {name!r}.", param="name")
    gone = root / f".{name}.{secrets.token_hex(4)}.removed"
    folder.rename(gone)
    shutil.rmtree(gone)


def checked_name(name: str) -> str:
    """`name` itself. Raises ConfigurationError if no adapter can be called so."""
    if not NAME.fullmatch(name):
        raise ConfigurationError(
            f"an adapter cannot be called {name[:80]!r}: up to 64 of a-z, 0-9, '.', '_' and '-', "
            "the first a letter or digit",
            param="name",
        )
    return name


def _folders(root: Path) -> list[Path]:
    try:
        return [path for path in root.iterdir() if NAME.fullmatch(path.name) and path.is_dir()]
    except OSError:
        return []  # no adapters were ever added


def _signature(folder: Path) -> _Signature | None:
    """What changes when an adapter's files do; None once the folder is gone."""
    found = []
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        try:
            status = (folder / name).stat()
        except OSError:
            continue
        found.append((status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(found) if folder.is_dir() else None
