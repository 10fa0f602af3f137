"""A process's own wall clock, set from outside: builds `clock.c`, owns the file that moves it."""

from __future__ import annotations

import ctypes
import mmap
import struct
import subprocess
from pathlib import Path

_NS = 1_000_000_000


def build_library(folder: Path) -> Path:
    """Compile the library to preload into `folder`."""
    library = folder / "faults_clock.so"
    command = ["cc", "-O2", "-std=c11", "-Wall", "-Werror", "-shared", "-fPIC"]
    source = Path(__file__).with_name("clock.c")
    subprocess.run([*command, str(source), "-o", str(library), "-ldl"], check=True)
    library.chmod(0o644)
    return library


class Clock:
    """How far one process's (or database's) wall clock is from the machine's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(8))
        path.chmod(0o644)
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 8)

    def set(self, seconds: float) -> None:
        """Move the clock to `seconds` ahead of the machine's, or behind it."""
        struct.pack_into("q", self._page, 0, round(seconds * _NS))


def attach(path: Path) -> None:
    """Let this process, which has the library preloaded, live by the clock at `path`."""
    if ctypes.CDLL(None).faults_attach_clock(str(path).encode()):
        raise RuntimeError(f"the clock {path} cannot be read")
