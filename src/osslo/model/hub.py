"""`osslo pull`: fetching a model's files from the Hugging Face hub, once, checked and pinned.

The first pull resolves a revision to its commit and records it, with every file's checksum, in a
lock file beside the weights; later pulls check against that lock and need no network if everything
is there. Finding what other programs have fetched is `discovery`'s.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import HfApi, get_token, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from osslo.errors import ConfigurationError, DownloadError
from osslo.model.download import FileSum, fetch_file, matches, partial_bytes
from osslo.model.repositories import REPOSITORIES

LOCK_NAME = "osslo-lock.json"
DEFAULT_ENDPOINT = "https://huggingface.co"

# Only the top folder: `original/` and `metal/` hold the same weights again.
_WANTED = (
    "*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "LICENSE*",
    "README.md",
)
_BESIDE_GGUF = ("LICENSE*", "README.md")
_REPOSITORY = re.compile(r"(?!\.)[\w.-]+/(?!\.)[\w.-]+")
_SPARE_BYTES = 1 << 30
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how many bytes of how many."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository at one commit."""

    name: str
    sum: FileSum


@dataclass(frozen=True, slots=True)
class Lock:
    """What was fetched: a repository's files at one commit."""

    repository: str
    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.sum.size_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class Hub:
    """Where and how to fetch. `token` None takes the one that `huggingface_hub` knows, if any."""

    endpoint: str = DEFAULT_ENDPOINT
    token: str | bool | None = None
    offline: bool = False


def pull(
    name: str,
    models: Path,
    *,
    revision: str | None = None,
    hub: Hub | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fetch a model into a folder below `models`, and return that folder.

    `name` is a short name, a repository (`owner/name`), or one GGUF file of it
    (`owner/name:file.gguf`). Without `revision` a model that is there stays at its commit; with
    one it is brought to it. Every file is checked against the hub's checksums. Raises
    `ConfigurationError` for a name that cannot be one, and `DownloadError`.
    """
    hub = hub or Hub()
    repository, file = parse_name(name)
    folder = models / repository
    lock = read_lock(folder)
    if lock is not None and lock.repository == repository and revision in (None, lock.commit):
        wanted = _with_file(lock, file)
    else:
        wanted = None
    if wanted is None:
        wanted = _resolve(hub, repository, revision, file)
    missing = [item for item in wanted.files if not _is_there(folder, item, progress)]
    if missing:
        if hub.offline:
            raise DownloadError(_offline_message(repository, "offline mode is on"))
        _check_disk(folder, missing)
        _fetch_all(hub, wanted, missing, folder, progress)
    _write_lock(folder, wanted)
    return folder


def parse_name(name: str) -> tuple[str, str | None]:
    """The repository, and the GGUF file in it that is meant, if one is named."""
    repository, _, file = name.partition(":")
    repository = REPOSITORIES.get(repository, repository)
    if not _REPOSITORY.fullmatch(repository) or (file and not _is_gguf(file)):
        known = ", ".join(REPOSITORIES)
        raise ConfigurationError(
            f"{name!r} names no model to pull: known names are {known}; a repository is written "
            "owner/name, one of its GGUF files owner/name:file.gguf"
        )
    return repository, file or None


def read_lock(folder: Path) -> Lock | None:
    """The lock beside fetched weights; None if there is none that can be read."""
    try:
        document = json.loads((folder / LOCK_NAME).read_text(encoding="utf-8"))
        files = tuple(RemoteFile(f["name"], FileSum(**f["sum"])) for f in document["files"])
        return Lock(document["repository"], document["commit"], files)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_lock(folder: Path, lock: Lock) -> None:
    text = json.dumps(asdict(lock), indent=2) + "\n"
    partial = folder / f".{LOCK_NAME}.part"
    partial.write_text(text, encoding="utf-8")
    partial.replace(folder / LOCK_NAME)


# --- what to fetch --------------------------------------------------------------------------------


def _resolve(hub: Hub, repository: str, revision: str | None, file: str | None) -> Lock:
    """Ask the hub for the files of a revision and the commit that it stands for."""
    if hub.offline:
        raise DownloadError(_offline_message(repository, "offline mode is on"))
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    try:
        info = api.model_info(repository, revision=revision, files_metadata=True)
    except Exception as error:  # the library's HTTP client, and so its errors, changed twice
        raise _translated(error, hub, repository, revision) from error
    files = [_remote_file(entry) for entry in info.siblings or ()]
    chosen = select_files([found for found in files if found is not None], repository, file)
    if info.sha is None:
        raise DownloadError(f"{hub.endpoint} names no commit for {repository}; try again later")
    return Lock(repository, info.sha, tuple(chosen))


def _remote_file(entry: Any) -> RemoteFile | None:
    """A file with its sum; None for one of which the hub tells neither size nor sum."""
    large = entry.lfs
    if large is not None:
        return RemoteFile(entry.rfilename, FileSum(large.size, sha256=large.sha256))
    if entry.size is None or entry.blob_id is None:
        return None
    return RemoteFile(entry.rfilename, FileSum(entry.size, blob_sha1=entry.blob_id))


def select_files(
    files: Sequence[RemoteFile], repository: str, file: str | None = None
) -> list[RemoteFile]:
    """The files that are needed: safetensors with what belongs to them, or one GGUF file.

    Raises `DownloadError` if there is neither, or a choice to make.
    """
    top = [item for item in files if "/" not in item.name]
    if file is None and any(item.name.endswith(".safetensors") for item in top):
        return [item for item in top if _matches_any(item.name, _WANTED)]
    ggufs = [item for item in files if _is_gguf(item.name)]
    named = [item for item in ggufs if file in (None, item.name)]
    if len(named) == 1:
        return [*named, *(item for item in top if _matches_any(item.name, _BESIDE_GGUF))]
    if not ggufs:
        raise DownloadError(f"{repository} holds neither safetensors nor GGUF files")
    choice = ", ".join(item.name for item in ggufs)
    raise DownloadError(f"{repository}: name one of its files, as {repository}:FILE: {choice}")


def _is_gguf(name: str) -> bool:
    """A GGUF file's name that stays within the folder it is joined to."""
    return name.endswith(".gguf") and not name.startswith("/") and ".." not in name.split("/")


def _matches_any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _with_file(lock: Lock, file: str | None) -> Lock | None:
    """The lock, if it answers for the file that is asked for."""
    known = file is None or any(item.name == file for item in lock.files)
    return lock if known else None


def _translated(
    error: Exception, hub: Hub, repository: str, revision: str | None
) -> DownloadError | ConfigurationError:
    match error:
        case HFValidationError():
            return ConfigurationError(f"{repository!r} is not a repository's name (owner/name)")
        case GatedRepoError():
            return DownloadError(
                f"{repository} asks for consent: accept its terms at {hub.endpoint}/{repository} "
                "and log in with `hf auth login`"
            )
        case RevisionNotFoundError():
            return DownloadError(f"{repository} has no revision {revision}")
        case RepositoryNotFoundError():
            return DownloadError(
                f"{hub.endpoint} has no repository {repository} (or it is private: log in with "
                "`hf auth login`)"
            )
        case HfHubHTTPError():
            return DownloadError(f"{hub.endpoint} refused: {_first_line(error)}")
        case _:
            return DownloadError(_offline_message(repository, _first_line(error)))


def _offline_message(repository: str, reason: str) -> str:
    return (
        f"{repository} could not be fetched: {reason}. Without a network, copy its folder from "
        "another machine and give its path, or run the stand-in"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# --- fetching -------------------------------------------------------------------------------------


def _is_there(folder: Path, item: RemoteFile, progress: Progress | None) -> bool:
    def report(done: int) -> None:
        if progress:
            progress(f"checking {item.name}", done, item.sum.size_bytes)

    return matches(folder / item.name, item.sum, report)


def _check_disk(folder: Path, missing: Iterable[RemoteFile]) -> None:
    needed = sum(
        max(0, item.sum.size_bytes - partial_bytes(folder / item.name)) for item in missing
    )
    at = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(at).free
    if needed + _SPARE_BYTES > free:
        raise DownloadError(
            f"{folder}: {needed / 1e9:.1f} GB are to be fetched, but only {free / 1e9:.1f} GB are "
            "free; make room or set another models folder"
        )


def _fetch_all(
    hub: Hub,
    lock: Lock,
    missing: Iterable[RemoteFile],
    folder: Path,
    progress: Progress | None,
) -> None:
    token = hub.token if isinstance(hub.token, str) else hub.token is not False and get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(timeout=_TIMEOUT, follow_redirects=True) as client:
        for item in missing:

            def report(done: int, item: RemoteFile = item) -> None:
                if progress:
                    progress(f"fetching {item.name}", done, item.sum.size_bytes)

            url = hf_hub_url(
                lock.repository, item.name, revision=lock.commit, endpoint=hub.endpoint
            )
            fetch_file(client, url, folder / item.name, item.sum, headers=headers, report=report)
