"""One run on one database: sets the stage, lets load and faults go on together, waits for the
sweepers, and hands the audit what there is."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.faults import load
from bench.faults.audit import Row, audit, open_reservations, read_books, witnessed
from bench.faults.clock import Clock, build_library
from bench.faults.fleet import Fleet, context
from bench.faults.load import LoadPlan
from bench.faults.people import invite
from bench.faults.schedule import LEAST_LIVE, Phase, Saboteur, Tally, lacking
from osslo.accounts.ledger.charging import DURABLE_EVERY_TOKENS
from osslo.db.database import sqlite_url
from osslo.model.synth import synthesize
from tests.databases import PostgresProcess

SEATS = 2
_ALL_SWEPT_S = 90.0


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What to do: at least so many requests and kills, and kills in each phase."""

    database: str
    requests: int
    kills: int
    kills_in_each_phase: int
    workers: int
    lease_s: float
    seed: int


@dataclass(frozen=True, slots=True)
class Stage:
    """A database with its own clock."""

    url: str
    postgres: PostgresProcess | None
    clock: Clock | None


Progress = Callable[[int, int], None]
"""Told how many requests were accepted and how many kills were done."""


def run(plan: RunPlan, folder: Path, progress: Progress) -> list[Row]:
    """The rows of the report. `folder` is empty and short: PostgreSQL's socket lies in it."""
    dice = random.Random(plan.seed)
    library = build_library(folder)
    model, home = folder / "tiny", folder / "home"
    synthesize("tiny", model, format="safetensors", seed=0)
    home.mkdir()
    with _database(plan.database, folder, library) as stage:
        people = asyncio.run(invite(stage.url, home))
        fleet = Fleet(
            folder=folder,
            model=model,
            home=home,
            database_url=stage.url,
            lease_s=plan.lease_s,
            concurrent=plan.workers,
            context=context(library),
        )
        saboteur = Saboteur(fleet, dice, people, stage.postgres, stage.clock)
        told = folder / "told.jsonl"
        try:
            fleet.open(SEATS)
            calls = LoadPlan(people, plan.workers, told, plan.seed)
            _under_load(plan, saboteur, calls, progress)
            _wait_until_swept(stage.url)
        finally:
            fleet.close()
        books = asyncio.run(read_books(stage.url))
    answers = [json.loads(line) for line in told.read_text(encoding="utf-8").splitlines()]
    money = audit(books, witnessed(fleet.boxes), answers, DURABLE_EVERY_TOKENS)
    return [*money, *_done(plan, saboteur.tally, answers)]


@contextmanager
def _database(kind: str, folder: Path, library: Path) -> Iterator[Stage]:
    if kind == "sqlite":
        yield Stage(sqlite_url(folder / "osslo.db"), None, None)
        return
    place = folder / "pg"
    place.mkdir()
    shared = shutil.copy(library, place)
    clock = Clock(place / "clock")
    folder.chmod(0o711)
    environment = {"LD_PRELOAD": shared, "FAULTS_CLOCK": str(clock.path)}
    process = PostgresProcess(place, environment=environment)
    process.start()
    try:
        yield Stage(f"postgresql://osslo@/postgres?host={place}", process, clock)
    finally:
        process.stop()


def _under_load(plan: RunPlan, saboteur: Saboteur, load_plan: LoadPlan, progress: Progress) -> None:
    """Requests and faults side by side until there were enough of both."""
    fleet = saboteur.fleet
    accepted = fleet.context.Value("q", 0)
    stop = fleet.context.Value("b", False)
    caller = fleet.context.Process(
        target=load.run, args=(load_plan, fleet.ports, accepted, stop), daemon=True
    )
    caller.start()
    try:
        while not _is_enough(plan, accepted.value, saboteur.tally):
            saboteur.tend()
            progress(accepted.value, saboteur.tally.kills)
            if not caller.is_alive():
                raise RuntimeError("the load ended by itself")
            if accepted.value * plan.kills >= (saboteur.tally.kills + 0.5) * plan.requests:
                saboteur.strike(lacking(saboteur.tally, plan.kills_in_each_phase))
            else:
                time.sleep(0.02)
    finally:
        stop.value = True
    saboteur.quiet()
    while caller.is_alive():
        saboteur.tend()
        caller.join(0.05)
    if caller.exitcode:
        raise RuntimeError("the load failed")


def _is_enough(plan: RunPlan, accepted: int, tally: Tally) -> bool:
    missing = lacking(tally, plan.kills_in_each_phase)
    return accepted >= plan.requests and tally.kills >= plan.kills and not missing


def _wait_until_swept(database_url: str) -> None:
    """Until no reservation is open, or for as long as a sweep can take: then it stays in the
    report."""
    deadline = time.monotonic() + _ALL_SWEPT_S
    while asyncio.run(open_reservations(database_url)) and time.monotonic() < deadline:
        time.sleep(0.2)


def _done(plan: RunPlan, tally: Tally, answers: list[dict[str, Any]]) -> list[Row]:
    """The rows that say what was done."""

    def at_least(name: str, value: int, target: int) -> Row:
        return Row(name, value, target, value, is_least=True)

    accepted = sum(each["status"] == 200 for each in answers)
    refused = [each for each in answers if each["status"] not in (0, 200)]
    told = (503, 529)  # come back later, as OpenAI's protocols and Anthropic's say it
    broken = [each for each in answers if each["status"] >= 500 and each["status"] not in told]
    return [
        at_least("requests", accepted, plan.requests),
        at_least("kills", tally.kills, plan.kills),
        *(
            at_least(f"kills_in_{phase}", tally.phases[phase], plan.kills_in_each_phase)
            for phase in Phase
        ),
        Row("least_live_streams_at_a_kill", min(tally.live, default=0), LEAST_LIVE, tally.kills,
            is_least=True),
        Row("kills_with_fewer_live_streams", tally.idle_kills, None, tally.kills),
        Row("database_restarts", tally.database_restarts, None, tally.database_restarts),
        Row("suspensions", tally.suspensions, None, tally.suspensions),
        Row("clock_jumps", tally.clock_jumps, None, tally.clock_jumps),
        Row("refused_requests", len(refused), None, len(answers)),
        Row("server_errors", len(broken), None, len(answers)),
        Row("lost_connections", sum(each["end"].startswith("lost") for each in answers), None,
            len(answers)),
    ]  # fmt: skip
