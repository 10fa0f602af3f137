"""What a measurement must know of the machine: its name, its limits, and whether it is quiet."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
QUIET_SHARE = 0.03
"""Processor time that others may take, as a share of all cores, before a run is refused."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The machine's best: sequential reads from memory and int8 multiply-adds, all threads."""

    threads: int
    read_gb_s: float
    int8_gmac_s: float


def describe() -> dict[str, object]:
    """Processor, cores, memory, system and compiler, for the report."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory_kib = int(Path("/proc/meminfo").read_text(encoding="utf-8").split()[1])
    compiler = subprocess.run(["c++", "--version"], capture_output=True, text=True, check=True)
    return {
        "cpu": cpu,
        "cores": threads(),
        "memory_gib": round(memory_kib / (1 << 20), 1),
        "system": platform.platform(),
        "compiler": compiler.stdout.splitlines()[0],
    }


def threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def busy_share(seconds: float) -> float:
    """The share of all processor time that was in use (by anybody) over the next `seconds`."""
    before = _processor_ticks()
    time.sleep(seconds)
    after = _processor_ticks()
    total = sum(after) - sum(before)
    idle = after[3] + after[4] - before[3] - before[4]
    return 1 - idle / total if total else 0.0


def wait_until_quiet(*, patience_s: float) -> None:
    """Return once the machine idles; `SystemExit` that names the busiest processes if it won't."""
    deadline = time.monotonic() + patience_s
    while (busy := busy_share(3.0)) > QUIET_SHARE:
        if time.monotonic() > deadline:
            command = ["ps", "-eo", "pcpu,comm", "--sort=-pcpu"]
            shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            raise SystemExit(
                f"the machine is not quiet: {busy:.0%} of its processor time is in use. "
                f"The busiest:\n" + "\n".join(shown.splitlines()[:6])
            )


def measure_limits(build: Path) -> Limits:
    """Compile and run the probe."""
    binary = build / "machine"
    command = ["c++", "-O3", "-march=native", "-std=c++17", "-pthread"]
    subprocess.run([*command, str(HERE / "peer" / "machine.cpp"), "-o", str(binary)], check=True)
    output = subprocess.run([str(binary), str(threads())], capture_output=True, check=True).stdout
    found = json.loads(output)
    return Limits(found["threads"], found["read_gb_s"], found["int8_gmac_s"])


def warm(path: Path) -> None:
    """Read a file, or a folder's, once, so that the page cache has it as far as memory allows."""
    buffer = bytearray(1 << 24)
    for part in sorted(path.iterdir()) if path.is_dir() else [path]:
        with part.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _processor_ticks() -> list[int]:
    line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    return [int(word) for word in line.split()[1:9]]
