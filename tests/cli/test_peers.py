"""The comparison with llama.cpp reports every row it promises, and judges it rightly.

The engines are a script that prints what engines print.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench import peers
from bench.peer_files import Files
from bench.peer_report import GOALS, bandwidth_share, judge, lines, records

WORKER = """
import json, sys
pace = float(sys.argv[1])
for job in sys.argv[2:]:
    kind, *sizes = job.split(":")
    print(json.dumps({
        "job": job, "seconds": pace, "decode_seconds": pace / 2, "decode_tokens": 10, "share": 0.04,
        "rss_gib": pace, "python_share": 0.002, "experts_per_step": 4.0 * (kind != "prefill"),
    }), flush=True)
"""


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    return path


class Scripted(peers.Pair):
    """Engines of which Osslo needs one second for each job and the other two."""

    def osslo(self, prefixes: Path | None = None) -> list[str]:
        if prefixes is not None:
            prefixes.mkdir(exist_ok=True)
        return [sys.executable, str(self.driver), "1"]

    def peer(self, flags: peers.Flags) -> list[str]:
        return [sys.executable, str(self.driver), str(4 - flags.repack - flags.flash)]


def pair_of(worker: Path) -> Scripted:
    return Scripted(worker, Files(worker, worker, worker, worker.parent), 2)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.machine, "warm", lambda path: None)


@pytest.mark.usefixtures("quick")
def test_a_full_run_has_all_rows(worker: Path) -> None:
    pair = pair_of(worker)
    full = peers.compare(pair, list(peers.DEFAULT_ROWS), 2)
    rows = peers.table(full.ours, full.theirs)
    rows.append(bandwidth_share(full.ours.values["decode_0"], 200.0))
    rows += peers.osslo_only(pair, full.theirs.rss_gib)
    rows += peers.stand_in_rows(peers.compare(pair, list(peers.STAND_IN_ROWS), 2))
    assert {entry.name for entry in rows} == set(GOALS) - {"decode_16384", "decode_32768"}
    assert len(rows) == len(GOALS) - 2
    by_name = {entry.name: entry for entry in rows}
    assert by_name["prefill_512"].ratio == pytest.approx(2.0)
    assert by_name["prefill_512"].raw == {"osslo": [512, 512], "peer": [256, 256]}
    assert by_name["prefill_512"].met is False
    assert by_name["streams_8_decode"].osslo == pytest.approx(20)
    assert by_name["decode_0"].met is True
    assert by_name["bandwidth_share"].met is True
    assert by_name["rss_gib"].peer == 2.0
    assert by_name["prefix_disk_ttft_share"].osslo == 1.0
    assert by_name["prefix_disk_ttft_share"].met is False
    assert full.flags["prefill_128"] == peers.Flags(1, 1)
    assert full.ours.experts_per_step == {"decode_0": 4.0, "decode_4096": 4.0, "streams_8": 4.0}


def test_bounds_are_of_the_ratio_or_of_the_number() -> None:
    assert judge("decode_4096", [14.0], [10.0]).met is True
    assert judge("decode_4096", [13.9], [10.0]).met is False
    assert judge("warm_start_s", [1.0, 0.9, 5.0], [2.0]).met is True
    assert judge("warm_start_s", [1.1], [20.0]).met is False
    assert judge("warm_start_s", [0.5], [2.0]).ratio == pytest.approx(4.0)
    assert judge("python_share", [0.02]).met is False
    assert judge("prefill_64", [1.0], [1.0]).met is None


def test_the_table_and_the_records() -> None:
    rows = [judge("decode_0", [1 / 3], [0.1]), judge("python_share", [0.02])]
    shown = lines(rows)
    assert shown[1].split() == ["decode_0", "0.333", "0.100", "3.33", ">=", "1.15", "yes"]
    assert shown[2].split() == ["python_share", "0.020", "<=", "0.01", "NO"]
    (first, second) = records(rows)
    assert first["ratio"] == 3.333
    assert first["raw"] == {"osslo": [1 / 3], "peer": [0.1]}
    assert second["at_most"] == 0.01
    assert second["peer"] is None


def test_a_worker_that_fails_is_told() -> None:
    with pytest.raises(peers.WorkerFailure, match="failed on"):
        peers.run_jobs([sys.executable, "-c", "raise SystemExit(3)"], ["start"])


def test_flags_of_an_earlier_report_are_kept(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"peer_flags": {"decode_0": {"flash": 0, "repack": 1}}}))
    kept = peers.flags_of(report, "peer_flags", ["decode_0"])
    assert kept == {"decode_0": peers.Flags(flash=0, repack=1)}
    assert peers.flags_of(None, "peer_flags", ["decode_0"]) is None
    assert peers.flags_of(report, "standin_peer_flags", ["decode_0"]) is None
    with pytest.raises(SystemExit, match="no flags for prefill_128"):
        peers.flags_of(report, "peer_flags", ["decode_0", "prefill_128"])
