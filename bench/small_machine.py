"""The full-size model on a machine of 15 GiB: a memory cgroup, page cache counted.

Run as root on Linux: `python bench/small_machine.py PACKED_FILE`. The file's cached pages are
dropped first, so that the group pays for all it reads. Prints, and with --out writes, peak memory
and the major faults of steady decoding, which must be none.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
from pathlib import Path

import numpy as np

from osslo.cli.measure import Meter, peak_rss_gib
from osslo.model.model import Model

CONTEXT_TOKENS = 8192
PROMPT_TOKENS = 2048
"""Long enough that every expert of every layer has been read before decoding is watched."""

DECODED_TOKENS = 128
V1 = Path("/sys/fs/cgroup/memory")
V2 = Path("/sys/fs/cgroup")


def enter_group(limit_bytes: int) -> Path:
    """Move this process into a new memory cgroup of `limit_bytes`, without swap."""
    root, limit = (V1, "memory.limit_in_bytes") if V1.is_dir() else (V2, "memory.max")
    group = root / f"osslo-small-machine-{os.getpid()}"
    group.mkdir()
    (group / limit).write_text(str(limit_bytes))
    (group / "cgroup.procs").write_text(str(os.getpid()))
    return group


def leave_group(group: Path) -> None:
    """Back to the root; the group is removed with what it cached."""
    (group.parent / "cgroup.procs").write_text(str(os.getpid()))
    group.rmdir()


def used_gib(group: Path) -> float:
    """What the group is charged for at this moment, page cache included."""
    v1, v2 = group / "memory.usage_in_bytes", group / "memory.current"
    return int((v1 if v1.exists() else v2).read_text()) / 2**30


def drop_cache(path: Path) -> None:
    """Forget the file's cached pages."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def major_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def measure(packed: Path, group: Path) -> dict[str, float]:
    """Prefill, then watch `DECODED_TOKENS` being decoded behind it."""
    model = Model.load(packed)
    random = np.random.default_rng(0)
    ids = random.integers(0, model.vocab_size, (3, CONTEXT_TOKENS + 1)).astype(np.int32)
    with Meter(model, ids, context_tokens=CONTEXT_TOKENS, streams=1) as meter:
        meter.prefill(PROMPT_TOKENS)
        meter.decode(PROMPT_TOKENS, DECODED_TOKENS)  # warms up what decoding alone touches
        before = major_faults()
        steady = meter.decode(PROMPT_TOKENS, DECODED_TOKENS)
        faults = major_faults() - before
        return {
            "context_tokens": CONTEXT_TOKENS,
            "decode_tokens_per_s": round(steady.decode_tokens / steady.decode_seconds, 2),
            "steady_major_faults": faults,
            "peak_rss_gib": round(peak_rss_gib(), 2),
            "group_used_gib": round(used_gib(group), 2),
        }


def main() -> int:
    """Measure; 1 if steady decoding had major faults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packed", type=Path)
    parser.add_argument("--limit-gib", type=float, default=15.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    drop_cache(options.packed)
    group = enter_group(int(options.limit_gib * 2**30))
    try:
        result = {"limit_gib": options.limit_gib, **measure(options.packed, group)}
    finally:
        leave_group(group)
    text = json.dumps(result, indent=2)
    sys.stdout.write(text + "\n")
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 1 if result["steady_major_faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
