"""Osslo beside llama.cpp: the same weights, ids, machine and run, in turn. `make bench-peers`.

For each row both engines run in rounds, one after the other, each in a process of its own (they do
not fit into memory together). llama.cpp gets its best flags for each row, found in the first
round and kept. The report has every sample; ratios are of medians and above 1 where Osslo is
better.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import machine, peer_build
from bench.peer_files import Files, full_size, stand_in

ROOT = Path(__file__).parent.parent
BYTES_PER_TOKEN_GB = 2.57
"""What decoding one token of gpt-oss-20b reads: 4 of 32 experts, attention and head."""

ROWS: Mapping[str, str] = MappingProxyType(
    {
        "prefill_128": "prefill:128",
        "prefill_512": "prefill:512",
        "prefill_2048": "prefill:2048",
        "decode_0": "decode:0:64",
        "decode_4096": "decode:4096:32",
        "streams_8": "streams:8:128:64",
        "decode_16384": "decode:16384:32",
        "decode_32768": "decode:32768:32",
        "warm_start_s": "start",
    }
)
"""Each row and the job that measures it. Rates are tokens a second; names in _s are seconds."""

DEFAULT_ROWS = tuple(row for row in ROWS if row not in ("decode_16384", "decode_32768"))
FLAG_CHOICES = tuple((flash, repack) for repack in (1, 0) for flash in (0, 1))
AT_LEAST: Mapping[str, float] = MappingProxyType(
    {
        "prefill_128": 2.0,
        "prefill_512": 2.5,
        "prefill_2048": 2.5,
        "decode_0": 1.15,
        "decode_4096": 1.4,
        "decode_16384": 1.4,
        "decode_32768": 1.4,
        "streams_8": 2.0,
        "streams_8_decode": 2.0,
        "standin_decode": 1.2,
        "standin_prefill": 2.0,
    }
)


@dataclass(frozen=True, slots=True)
class Flags:
    """llama.cpp's choices that matter here."""

    flash: int
    repack: int


@dataclass(frozen=True, slots=True)
class Pair:
    """The two engines set up for one model."""

    driver: Path
    files: Files
    threads: int

    def osslo(self) -> list[str]:
        """The process that measures Osslo."""
        worker = str(ROOT / "bench" / "osslo_worker.py")
        return [sys.executable, worker, str(self.files.model), str(self.files.ids), self._threads]

    def peer(self, flags: Flags) -> list[str]:
        """The process that measures llama.cpp."""
        numbers = [self._threads, str(flags.flash), str(flags.repack)]
        files = [str(self.files.peer_model), str(self.files.ids)]
        return [str(self.driver), *files, *numbers, str(self.files.state)]

    @property
    def _threads(self) -> str:
        return str(self.threads)


class WorkerFailure(SystemExit):
    """A worker's process that ended before its jobs were done."""


@dataclass(slots=True)
class Samples:
    """All measurements of one engine: row name to values, and the peak memory of its processes."""

    values: dict[str, list[float]]
    rss_gib: float = 0.0
    notes: dict[str, float] | None = None

    def add(self, row: str, value: float) -> None:
        self.values.setdefault(row, []).append(value)


# --- running one process --------------------------------------------------------------------------


def run_jobs(command: list[str], jobs: list[str]) -> list[dict[str, float]]:
    """Run one engine's process over `jobs`; one record a job. `wall` is the time to its line."""
    begin = time.monotonic()
    records = []
    with subprocess.Popen([*command, *jobs], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            records.append({**json.loads(line), "wall": time.monotonic() - begin})
    if process.returncode != 0 or len(records) != len(jobs):
        raise WorkerFailure(f"{command[0]} failed on {jobs} with exit code {process.returncode}")
    return records


def pack_for(pair: Pair) -> None:
    """Pack Osslo's copy in a process of its own, so that no measurement's memory includes it."""
    run_jobs(pair.osslo(), [])


def rates(row: str, record: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """The rows that one record gives, as (name, value)."""
    kind, *numbers = ROWS[row].split(":")
    sizes = [int(number) for number in numbers]
    if kind == "start":
        yield row, record["wall"]
    elif kind == "prefill":
        yield row, sizes[0] / record["seconds"]
    elif kind == "decode":
        yield row, sizes[1] / record["decode_seconds"]
    else:
        streams, _prompt, tokens = sizes
        yield row, streams * tokens / record["seconds"]
        decoded = record.get("decode_tokens", streams * (tokens - 1))
        yield f"{row}_decode", decoded / record["decode_seconds"]


def measure(command: list[str], rows: Iterable[str], samples: Samples) -> None:
    """One process over `rows`. The start comes from a process of its own, the second of two, so
    that what the first one read is still in memory."""
    rows = list(rows)
    for row in [row for row in rows if ROWS[row] == "start"]:
        run_jobs(command, ["start"])
        for name, value in rates(row, run_jobs(command, ["start"])[0]):
            samples.add(name, value)
    rest = [row for row in rows if ROWS[row] != "start"]
    if not rest:
        return
    # The first job pays for page faults and is not counted.
    records = run_jobs(command, ["prefill:128", *(ROWS[row] for row in rest)])[1:]
    for row, record in zip(rest, records, strict=True):
        for name, value in rates(row, record):
            samples.add(name, value)
        samples.rss_gib = max(samples.rss_gib, record["rss_gib"])
        extra = {k: v for k, v in record.items() if k in ("python_share", "experts_per_step")}
        if extra:
            samples.notes = {**(samples.notes or {}), **{f"{row}.{k}": v for k, v in extra.items()}}


# --- llama.cpp at its best ------------------------------------------------------------------------


def choose_flags(pair: Pair, rows: list[str]) -> dict[str, Flags]:
    """Try all flags once on every row; the best for each row. Flags that llama.cpp does not survive
    on this processor are told and left out. Raises `SystemExit` if it survives none."""
    tried: dict[str, dict[Flags, float]] = {row: {} for row in rows}
    for flash, repack in FLAG_CHOICES:
        flags = Flags(flash, repack)
        samples = Samples({})
        try:
            measure(pair.peer(flags), rows, samples)
        except WorkerFailure as failure:
            say(f"  llama.cpp fa={flash} repack={repack}: left out, {failure}")
            continue
        for row in rows:
            tried[row][flags] = samples.values[row][0]
            say(f"  llama.cpp fa={flash} repack={repack} {row}: {samples.values[row][0]:.2f}")
    if not all(tried.values()):
        raise SystemExit("llama.cpp runs with none of its flags here")
    pick = {row: min if row.endswith("_s") else max for row in rows}
    return {row: pick[row](tried[row], key=tried[row].__getitem__) for row in rows}


def interleave(
    pair: Pair, rows: list[str], flags: Mapping[str, Flags], rounds: int
) -> tuple[Samples, Samples]:
    """`rounds` times: Osslo over all rows, then llama.cpp over all rows, grouped by flags."""
    ours, theirs = Samples({}), Samples({})
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        machine.warm(pair.files.model)
        measure(pair.osslo(), rows, ours)
        machine.warm(pair.files.peer_model)
        for choice in dict.fromkeys(flags[row] for row in rows):
            wanted = [row for row in rows if flags[row] == choice]
            measure(pair.peer(choice), wanted, theirs)
    return ours, theirs


# --- the report -----------------------------------------------------------------------------------


def table(ours: Samples, theirs: Samples) -> list[dict[str, object]]:
    """One record a row: medians, ratio (above 1: Osslo is better), goal, raw samples."""
    rows = []
    for name, values in ours.values.items():
        mine = statistics.median(values)
        peer = statistics.median(theirs.values[name])
        ratio = peer / mine if name.endswith("_s") else mine / peer
        rows.append(
            {
                "name": name,
                "osslo": round(mine, 3),
                "peer": round(peer, 3),
                "ratio": round(ratio, 3),
                "at_least": AT_LEAST.get(name),
                "raw": {"osslo": values, "peer": theirs.values[name]},
            }
        )
    memory = {"name": "rss_gib", "osslo": round(ours.rss_gib, 2), "peer": round(theirs.rss_gib, 2)}
    return [*rows, {**memory, "ratio": round(theirs.rss_gib / max(ours.rss_gib, 1e-9), 3)}]


def osslo_only(pair: Pair) -> list[dict[str, object]]:
    """Rows without a peer: the second of two requests that share 2k tokens, and memory at 8k."""
    jobs = ["prefix:2048", "decode:8064:64"]
    prefix, deep = run_jobs(pair.osslo(), jobs)
    return [
        {"name": "prefix_ttft_share", "osslo": prefix["share"], "at_most": 0.05},
        {"name": "rss_gib_8k", "osslo": deep["rss_gib"], "at_most": 12.6},
    ]


def bandwidth_share(rows: list[dict[str, object]], limits: machine.Limits) -> None:
    """Add to `decode_0` the share of this run's read bandwidth that decoding uses."""
    for row in rows:
        if row["name"] == "decode_0":
            used = float(str(row["osslo"])) * BYTES_PER_TOKEN_GB
            row["bandwidth_share"] = round(used / limits.read_gb_s, 3)


def show(rows: list[dict[str, object]]) -> None:
    """The table, for people."""
    say(f"{'row':22} {'osslo':>9} {'llama.cpp':>9} {'ratio':>7} {'goal':>6}")
    for row in rows:
        numbers = [row.get("osslo"), row.get("peer"), row.get("ratio")]
        shown = [f"{n:9.2f}" if isinstance(n, float) else " " * 9 for n in numbers]
        goal = row.get("at_least") or row.get("at_most") or ""
        say(f"{row['name']!s:22} {shown[0]} {shown[1]} {shown[2][2:]} {goal!s:>6}")


def say(line: str) -> None:
    """A line of progress."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def compare(
    pair: Pair, rows: list[str], rounds: int
) -> tuple[list[dict[str, object]], dict[str, object]]:
    """Flags, rounds and table for one model."""
    flags = choose_flags(pair, rows)
    ours, theirs = interleave(pair, rows, flags, rounds)
    chosen = {row: asdict(choice) for row, choice in flags.items()}
    return table(ours, theirs), {"peer_flags": chosen, "notes": ours.notes or {}}


def compare_stand_in(pair: Pair, rounds: int) -> list[dict[str, object]]:
    """The same for the stand-in, under names of its own."""
    names = {"prefill_512": "standin_prefill", "decode_0": "standin_decode"}
    found, _ = compare(pair, list(names), rounds)
    return [
        {**row, "name": names[str(row["name"])], "at_least": AT_LEAST[names[str(row["name"])]]}
        for row in found
        if row["name"] in names
    ]


def commit() -> str:
    """The commit measured, with a mark if files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Osslo beside llama.cpp, interleaved.")
    parser.add_argument("--out", type=Path, required=True, help="the report, JSON")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--rows", default=",".join(DEFAULT_ROWS), help="comma-separated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--force", action="store_true", help="measure on a busy machine too")
    parser.add_argument("--no-standin", action="store_true", help="leave the stand-in's rows out")
    return parser.parse_args()


def main() -> None:
    """Build, check, measure, report."""
    options = arguments()
    rows = options.rows.split(",")
    if unknown := [row for row in rows if row not in ROWS]:
        raise SystemExit(f"unknown rows {unknown}; there are {', '.join(ROWS)}")
    os.environ["OMP_WAIT_POLICY"] = "active"  # llama.cpp at its best: its threads do not sleep
    peer = peer_build.build(options.build)
    pair = Pair(peer.driver, full_size(options.build), machine.threads())
    pack_for(pair)
    if not options.force:
        machine.wait_until_quiet(patience_s=60)
    limits = machine.measure_limits(options.build)
    results, details = compare(pair, rows, options.rounds)
    bandwidth_share(results, limits)
    if set(rows) >= set(DEFAULT_ROWS):
        results += osslo_only(pair)
        small = Pair(peer.driver, stand_in(options.build, peer.quantize), pair.threads)
        pack_for(small)
        results += [] if options.no_standin else compare_stand_in(small, options.rounds)
    show(results)
    report = {
        "machine": machine.describe(),
        "limits": asdict(limits),
        "osslo": commit(),
        "peer": peer.version,
        "rows": results,
        **details,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    say(f"written to {options.out}")


if __name__ == "__main__":
    main()
