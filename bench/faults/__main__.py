"""`make fault-injection`: kills servers under load and audits the ledger; writes the report.

Exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench import machine
from bench.faults.audit import Row
from bench.faults.run import RunPlan, run

DATABASES = ("sqlite", "postgresql")


def main() -> int:
    """Run; 1 if a row misses its target."""
    options = _options()
    seed = secrets.randbits(32) if options.seed is None else options.seed
    commit = _commit()
    sys.stdout.write(f"seed {seed}\n")
    rows: list[dict[str, object]] = []
    for database in DATABASES if options.database == "all" else (options.database,):
        plan = RunPlan(
            database=database,
            requests=options.requests,
            kills=options.kills,
            kills_in_each_phase=options.kills_in_each_phase,
            workers=options.workers,
            lease_s=options.lease_s,
            seed=seed,
        )
        found = _run(plan, options.keep)
        _show(database, found)
        rows += [
            {"database": database, **asdict(row), "met": row.is_met}
            for row in found
        ]  # fmt: skip
    report = {
        "machine": machine.describe(),
        "commit": commit,
        "command": " ".join(["python -m bench.faults", *sys.argv[1:]]),
        "seed": seed,
        "lease_s": options.lease_s,
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if all(row["met"] for row in rows) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--database", choices=("all", *DATABASES), default="all")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--kills-in-each-phase", type=int, default=10)
    parser.add_argument("--workers", type=int, default=16, help="requests at once, of each server")
    parser.add_argument(
        "--lease-s", type=float, default=2.0, help="time without a beat after which one is dead"
    )
    parser.add_argument("--seed", type=int, help="a run's faults and requests again")
    parser.add_argument("--keep", type=Path, help="leave everything in this folder")
    parser.add_argument("--out", type=Path, default=Path("build/fault-injection.json"))
    return parser.parse_args()


def _run(plan: RunPlan, keep: Path | None) -> list[Row]:
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} requests, {task.fields[kills]} kills"),
        TimeElapsedColumn(),
    )
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as temporary,
        Progress(*columns, refresh_per_second=2) as bar,
    ):
        task = bar.add_task(plan.database, total=plan.requests, kills=0)
        folder = Path(temporary)
        if keep is not None:
            folder = keep / plan.database
            folder.mkdir(parents=True)
        return run(
            plan, folder, lambda sent, kills: bar.update(task, completed=sent, kills=kills)
        )  # fmt: skip


def _show(database: str, rows: list[Row]) -> None:
    for row in rows:
        sign = ">=" if row.is_least else "<="
        target = "" if row.target is None else f"{sign} {row.target:,}"
        verdict = "" if row.is_met else "  MISSED"
        sys.stdout.write(f"{database:<10} {row.name:<30} {row.value:>9,} {target}{verdict}\n")


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
