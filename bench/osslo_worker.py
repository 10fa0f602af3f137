"""One process that measures Osslo for bench/peers.py: the same jobs and lines as peer/driver.cpp.

usage: osslo_worker.py [--prefixes FOLDER] CHECKPOINT IDS THREADS JOB...
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from osslo.cli.measure import Measured, Meter
from osslo.engine.prefix_disk import PrefixDisk
from osslo.model.checkpoints import open_checkpoint
from osslo.model.forward import PageKind
from osslo.model.model import Model
from osslo.model.pack import ensure_packed

sys.path.insert(0, str(Path(__file__).parent.parent))
from bench.peer_files import STREAM_TOKENS, STREAMS

SPARE_TOKENS = 64
PREFIX_BYTES = 1 << 30


def context_tokens(jobs: list[str]) -> int:
    """Room for the largest job: all its numbers but the number of streams, added up."""
    sizes = [1024]
    for job in jobs:
        kind, *numbers = job.split(":")
        whole = [int(number) for number in numbers]
        sizes.append(whole[0] * sum(whole[1:]) if kind == "streams" else sum(whole))
    return max(sizes) + SPARE_TOKENS


def open_disk(folder: Path, model: Model) -> PrefixDisk:
    """Prefixes as a server keeps them."""
    sizes = {kind: model.page_bytes(kind) for kind in PageKind}
    return PrefixDisk(folder, max_bytes=PREFIX_BYTES, identity=model.kv_identity, page_bytes=sizes)


def report(measured: Measured) -> None:
    """One JSON line."""
    sys.stdout.write(json.dumps(asdict(measured)) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Load, run the jobs in order, print a line after each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--prefixes", type=Path, help="where prefixes outlive the process")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("ids", type=Path)
    parser.add_argument("threads", type=int)
    parser.add_argument("jobs", nargs="*")
    given = parser.parse_args()
    checkpoint, jobs = given.checkpoint, given.jobs
    packed = ensure_packed(open_checkpoint(checkpoint), checkpoint.parent / "packed")
    model = Model.load(packed, threads=given.threads)
    ids = np.fromfile(given.ids, np.int32).reshape(STREAMS, STREAM_TOKENS)
    disk = open_disk(given.prefixes, model) if given.prefixes else None
    with Meter(model, ids, context_tokens=context_tokens(jobs), disk=disk) as meter:
        for job in jobs:
            if job == "start":
                meter.decode(0, 1)
                report(Measured("start", 0.0))  # the caller's clock counts
            else:
                report(meter.run(job))


if __name__ == "__main__":
    main()
