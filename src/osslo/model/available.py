"""How much memory this process may still take: the machine's, and what its cgroups leave of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_UNLIMITED = 1 << 60  # cgroup v1 writes a huge number where there is no limit


def available_memory(*, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that can be taken without swapping or meeting a cgroup's limit (v1 and v2).

    Page cache counts as free, since the kernel gives it up: packed weights are mapped files.
    """
    free = [_machine_available(proc), *_cgroup_available(proc, cgroups)]
    return max(0, min(free))


def _machine_available(proc: Path) -> int:
    try:
        rows = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _cgroup_available(proc: Path, cgroups: Path) -> Iterator[int]:
    """What each memory cgroup above this process leaves."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _walk(cgroups, path, "memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
            yield from _walk(cgroups / "memory", path, *names)


def _walk(root: Path, path: str, limit: str, usage: str, prefix: str) -> Iterator[int]:
    """A cgroup and its parents; where a container hides the path, the root is its own cgroup."""
    at = root / path.strip("/")
    for folder in (at, *at.parents):
        left = _left(folder, limit, usage, prefix)
        if left is not None:
            yield left
        if folder == root:
            return


def _left(folder: Path, limit_name: str, usage_name: str, prefix: str) -> int | None:
    limit, usage = _number(folder / limit_name), _number(folder / usage_name)
    if limit is None or usage is None or limit >= _UNLIMITED:
        return None
    try:
        rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        cache = sum(int(rows[prefix + name]) for name in ("inactive_file", "active_file"))
    except (OSError, KeyError, ValueError):
        cache = 0
    return limit - usage + min(cache, usage)


def _number(path: Path) -> int | None:
    """The number in a file; None where it is absent or says `max`."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
