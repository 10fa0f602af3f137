"""The servers of a run: two seats at one database, each taken by one process after the other.

Processes come from one that has imported everything already (`forkserver`), so that a restart takes
a fraction of a second. Kills come from outside, by SIGKILL.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.faults import server
from bench.faults.blackbox import Box, Gauge, read_box
from bench.faults.clock import Clock
from bench.faults.server import ServerPlan

_START_S = 120.0
_DRAIN_S = 60.0
_MOST_FAILED_STARTS = 100


def context(library: Path) -> Any:
    """Where processes come from; they all have the clock's library preloaded."""
    os.environ["LD_PRELOAD"] = str(library)
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["bench.faults.server", "bench.faults.load"])
    return made


@dataclass(slots=True)
class Seat:
    """One server's place: its clock stays, its processes come and go."""

    number: int
    clock: Clock
    lives: int = 0
    process: Any = None
    box: Path = Path()
    gauge: Gauge | None = None
    suspended_until: float | None = None

    @property
    def live(self) -> int:
        """Streams that run now."""
        return self.gauge.read().live if self.gauge is not None else 0


@dataclass(slots=True)
class Fleet:
    """Starts and ends the processes of all seats. `ports` tells the load where they listen."""

    folder: Path
    model: Path
    home: Path
    database_url: str
    lease_s: float
    concurrent: int
    context: Any
    seats: tuple[Seat, ...] = ()
    boxes: list[Path] = field(default_factory=list)
    ports: Any = None
    failed_starts: int = 0

    def open(self, count: int) -> None:
        """Make the seats, and start a server in each."""
        self.ports = self.context.Array("i", count)
        self.seats = tuple(
            Seat(number, Clock(self.folder / f"clock-{number}")) for number in range(count)
        )
        for seat in self.seats:
            self.start(seat)
        for seat in self.seats:
            self.wait_until_up(seat)

    def start(self, seat: Seat) -> None:
        """Start a new process in the seat; it listens a little later."""
        seat.lives += 1
        seat.box = self.folder / f"server-{seat.number}-{seat.lives}.box"
        seat.gauge = Gauge(seat.box.with_suffix(".gauge"))
        self.boxes.append(seat.box)
        plan = ServerPlan(
            model=self.model,
            home=self.home,
            database_url=self.database_url,
            box=seat.box,
            clock=seat.clock.path,
            lease_s=self.lease_s,
            concurrent=self.concurrent,
        )
        seat.process = self.context.Process(target=server.run, args=(plan,), daemon=True)
        seat.process.start()

    def is_up(self, seat: Seat) -> bool:
        """Whether it listens; tells the load so. One that could not start, since the database was
        away, is started again, as whoever looks after servers does."""
        if self.ports[seat.number]:
            return True
        if not seat.process.is_alive():
            self.failed_starts += 1
            if self.failed_starts > _MOST_FAILED_STARTS:
                raise RuntimeError(f"servers do not start; see {seat.box.with_suffix('.log')}")
            self.start(seat)
        url = read_box(seat.box).url
        self.ports[seat.number] = (urlsplit(url).port or 0) if url else 0
        return bool(url)

    def wait_until_up(self, seat: Seat) -> None:
        deadline = time.monotonic() + _START_S
        while not self.is_up(seat):
            if time.monotonic() > deadline:
                raise RuntimeError(f"server {seat.number} does not listen")
            time.sleep(0.02)

    def kill(self, seat: Seat) -> Box:
        """SIGKILL; what its black box says of the moment of its death."""
        os.kill(seat.process.pid, signal.SIGKILL)
        self.ports[seat.number] = 0
        seat.process.join()
        seat.suspended_until = None
        return read_box(seat.box)

    def suspend(self, seat: Seat, seconds: float) -> None:
        """SIGSTOP, until `wake` finds that it has lasted for `seconds`."""
        os.kill(seat.process.pid, signal.SIGSTOP)
        seat.suspended_until = time.monotonic() + seconds

    def wake(self, seat: Seat) -> bool:
        """Let a suspended process go on if its time has come; whether it did."""
        if seat.suspended_until is None or time.monotonic() < seat.suspended_until:
            return False
        os.kill(seat.process.pid, signal.SIGCONT)
        seat.suspended_until = None
        return True

    def close(self) -> None:
        """SIGTERM: every server drains and says farewell."""
        for seat in self.seats:
            seat.process.terminate()
        for seat in self.seats:
            seat.process.join(_DRAIN_S)
            if seat.process.is_alive():
                raise RuntimeError(f"server {seat.number} does not drain")
