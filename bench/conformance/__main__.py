"""Runs the rows and writes `build/conformance.json`; see `make conformance`.

    python -m bench.conformance [--rows NAME,NAME] [--scale 0.01] [--seed 1] [--out FILE]

The numbers of samples are those of the targets times `--scale`. Each row prints its line when it is
done, and is kept in the file at once; rows of an earlier run that were not run again stay in it.
What failed is in `conformance-failures/` beside the file, one JSON line each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import machine
from bench.conformance import fuzz, malformed, overload, replay, schemas, speed
from bench.conformance.rows import Failures, Row


@dataclass(frozen=True, slots=True)
class Order:
    """How much of a row to run."""

    scale: float
    seed: int
    failures: Failures
    peers: speed.Peers

    def count(self, full: int, least: int = 1) -> int:
        return max(least, round(full * self.scale))


ROWS: Mapping[str, Callable[[Order], Row]] = {
    "malformed_calls_lost": lambda o: asyncio.run(malformed.run(o.count(10_000), o.failures)),
    "replay_differences": lambda o: asyncio.run(replay.run(o.count(1000), o.seed, o.failures)),
    "fuzz_5xx": lambda o: fuzz.run(o.count(10_000), o.count(20), o.seed, o.failures),
    "schema_violations": lambda o: asyncio.run(schemas.run(o.count(10_000), o.seed, o.failures)),
    "overload_errors": lambda o: overload.run(max(4.0, 60 * o.scale), o.seed, o.failures),
    "added_ttft_p50_ms": lambda o: speed.ttft(o.count(400, 40), o.seed, o.peers),
    "events_per_second": lambda o: speed.events(o.count(5)),
}


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m bench.conformance", description=__doc__)
    options.add_argument("--rows", help="names with commas; all if left out")
    options.add_argument("--scale", type=float, default=1.0, help="share of the samples")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--litellm", type=Path, help="its program, to be measured beside us")
    options.add_argument("--llama-server", type=Path, help="the same of llama.cpp's")
    options.add_argument("--out", type=Path, default=Path("build/conformance.json"))
    given = options.parse_args()
    names = given.rows.split(",") if given.rows else list(ROWS)
    unknown = set(names) - set(ROWS)
    if unknown:
        options.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    print(f"seed {given.seed}", flush=True)
    peers = speed.Peers(given.litellm, given.llama_server)
    missed = 0
    for name in names:
        failures = Failures(name, given.out.parent / "conformance-failures")
        began = time.monotonic()
        row = ROWS[name](Order(given.scale, given.seed, failures, peers))
        took = time.monotonic() - began
        keep(row, given.out, seconds=took, seed=given.seed)
        print(shown(row, took, failures), flush=True)
        missed += not row.met
    sys.exit(1 if missed else 0)


def keep(row: Row, out: Path, *, seconds: float, seed: int) -> None:
    """Put `row` into the file in place of an older one of its name."""
    held: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"rows": []}
    rows = {old["name"]: old for old in held["rows"]}
    made = {"seconds": round(seconds, 1), "seed": seed, "commit": commit()}
    rows[row.name] = row.as_json() | made
    held = {"machine": machine.describe(), "rows": [rows[n] for n in ROWS if n in rows]}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(held, indent=2) + "\n")


def commit() -> str:
    """The commit that runs, with a mark where files differ from it."""
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def shown(row: Row, seconds: float, failures: Failures) -> str:
    """A row as the terminal shows it."""
    sign = "<=" if row.better == "lower" else ">="
    line = (
        f"{'met   ' if row.met else 'MISSED'} {row.name:22} {row.value:>8} {sign} {row.target:g}"
        f"  ({row.samples} samples, {seconds:.0f} s)  {row.remarks}"
    )
    return f"{line}\n       see {failures.path}" if failures.count else line


if __name__ == "__main__":
    main()
