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
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import machine, peer_build
from bench.peer_files import Files, full_size, stand_in
from bench.peer_report import Row, bandwidth_share, judge, lines, records

ROOT = Path(__file__).parent.parent
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

    def osslo(self, prefixes: Path | None = None) -> list[str]:
        """The process that measures Osslo. With a folder, prefixes outlive it."""
        worker = str(ROOT / "bench" / "osslo_worker.py")
        files = [str(self.files.model), str(self.files.ids)]
        kept = [] if prefixes is None else ["--prefixes", str(prefixes)]
        return [sys.executable, worker, *kept, *files, self._threads]

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
    """All measurements of one engine: row name to values, the peak memory of its processes, and how
    many different experts a layer of a decoding step ran, by row."""

    values: dict[str, list[float]] = field(default_factory=dict)
    rss_gib: float = 0.0
    experts_per_step: dict[str, float] = field(default_factory=dict)

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
        if record.get("experts_per_step"):
            samples.experts_per_step[row] = round(record["experts_per_step"], 2)
        if row == "decode_0" and "python_share" in record:
            samples.add("python_share", record["python_share"])


# --- llama.cpp at its best ------------------------------------------------------------------------


def choose_flags(pair: Pair, rows: list[str]) -> dict[str, Flags]:
    """Try all flags once on every row; the best for each row. Flags that llama.cpp does not survive
    on this processor are told and left out. Raises `SystemExit` if it survives none."""
    tried: dict[str, dict[Flags, float]] = {row: {} for row in rows}
    for flash, repack in FLAG_CHOICES:
        flags = Flags(flash, repack)
        samples = Samples()
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
    ours, theirs = Samples(), Samples()
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


def table(ours: Samples, theirs: Samples) -> list[Row]:
    """The rows that were measured in rounds."""
    return [
        judge(name, values, theirs.values.get(name, ())) for name, values in ours.values.items()
    ]


def osslo_only(pair: Pair, peer_rss_gib: float) -> list[Row]:
    """Rows from processes of their own: the second of two requests that share 2k tokens, the same
    after a restart, and memory at a context of 8k beside the peer's at its largest."""
    prefix, deep = run_jobs(pair.osslo(), ["prefix:2048", "decode:8064:64"])
    return [
        judge("prefix_ttft_share", [prefix["share"]]),
        judge("prefix_disk_ttft_share", [disk_share(pair)]),
        judge("rss_gib", [deep["rss_gib"]], [peer_rss_gib]),
    ]


def disk_share(pair: Pair) -> float:
    """The time to the first token of a request that finds 2k tokens which an ended process kept on
    disk, of the time in that process, which found none. Neither process did anything before."""
    folder = pair.files.state / "prefixes"
    shutil.rmtree(folder, ignore_errors=True)
    (cold,) = run_jobs(pair.osslo(folder), ["first:1:2048"])
    (warm,) = run_jobs(pair.osslo(folder), ["first:2:2048"])
    shutil.rmtree(folder)
    return warm["seconds"] / cold["seconds"]


def say(line: str) -> None:
    """A line of progress."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@dataclass(frozen=True, slots=True)
class Compared:
    """Both engines over one model."""

    ours: Samples
    theirs: Samples
    flags: Mapping[str, Flags]


def compare(
    pair: Pair, rows: list[str], rounds: int, chosen: Mapping[str, Flags] | None = None
) -> Compared:
    """Flags, unless they are `chosen` already, and rounds for one model."""
    flags = choose_flags(pair, rows) if chosen is None else chosen
    ours, theirs = interleave(pair, rows, flags, rounds)
    return Compared(ours, theirs, flags)


def flags_of(report: Path | None, key: str, rows: Iterable[str]) -> Mapping[str, Flags] | None:
    """llama.cpp's flags as an earlier report chose them, None if it has none for this model. Raises
    `SystemExit` if it lacks a row."""
    kept = json.loads(report.read_text(encoding="utf-8")).get(key) if report else None
    if not kept:
        return None
    if missing := [row for row in rows if row not in kept]:
        raise SystemExit(f"{report} has chosen no flags for {', '.join(missing)}")
    return {row: Flags(**kept[row]) for row in rows}


STAND_IN_ROWS = ("prefill_512", "decode_0")


def stand_in_rows(found: Compared) -> list[Row]:
    """The same for the stand-in, under names of its own."""
    names = {
        "prefill_512": "standin_prefill",
        "decode_0": "standin_decode",
        "python_share": "standin_python_share",
    }
    ours, theirs = found.ours.values, found.theirs.values
    return [judge(new, ours[old], theirs.get(old, ())) for old, new in names.items()]


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
    parser.add_argument(
        "--flags-of", type=Path, help="an earlier report whose flags of llama.cpp are taken"
    )
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
    chosen = flags_of(options.flags_of, "peer_flags", rows)
    full = compare(pair, rows, options.rounds, chosen)
    results = table(full.ours, full.theirs)
    if "decode_0" in rows:
        results.append(bandwidth_share(full.ours.values["decode_0"], limits.read_gb_s))
    if set(rows) >= set(DEFAULT_ROWS):
        results += osslo_only(pair, full.theirs.rss_gib)
    small_flags: Mapping[str, Flags] = {}
    if set(rows) >= set(DEFAULT_ROWS) and not options.no_standin:
        small = Pair(peer.driver, stand_in(options.build, peer.quantize), pair.threads)
        pack_for(small)
        chosen = flags_of(options.flags_of, "standin_peer_flags", STAND_IN_ROWS)
        found = compare(small, list(STAND_IN_ROWS), options.rounds, chosen)
        results += stand_in_rows(found)
        small_flags = found.flags
    for line in lines(results):
        say(line)
    say(f"experts per step and layer: {full.ours.experts_per_step}")
    report = {
        "machine": machine.describe(),
        "limits": asdict(limits),
        "osslo": commit(),
        "peer": peer.version,
        "rows": records(results),
        "experts_per_step": full.ours.experts_per_step,
        "peer_flags": {name: asdict(choice) for name, choice in full.flags.items()},
        "standin_peer_flags": {name: asdict(choice) for name, choice in small_flags.items()},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    say(f"written to {options.out}")


if __name__ == "__main__":
    main()
