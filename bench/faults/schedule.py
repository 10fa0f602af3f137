"""Which fault comes when: kills in each phase of a request, at random moments within it, and among
them restarts of the database, suspended processes and jumping clocks.

A phase is the ledger's open transaction at the death: one with reservations, ends or sweeps in it.
A kill outside of those is one of streams. It is read from the black box after the death, so that it
is known and not aimed at; the aim only sees to it that the rare phases come often enough.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from bench.faults.blackbox import RESERVE, SETTLE, SWEEP, Reading
from bench.faults.clock import Clock
from bench.faults.fleet import Fleet, Seat
from bench.faults.people import GIFT_NANOUSD, Means, Person, give
from osslo.db.steps import is_transient
from tests.databases import PostgresProcess

LEAST_LIVE = 8
"""Streams that must be live at a kill for it to count."""

_POLL_S = 0.00005
_INTO_PHASE_S = 0.0015
_PHASE_WAIT_S = 5.0
_ALL_STANDING_S = 20.0
_GIFT_EVERY_S = 4.0
_LARGEST_JUMP_S = 6 * 3600.0


class Phase(StrEnum):
    RESERVE = "reserve"
    STREAM = "stream"
    SETTLE = "settle"
    SWEEP = "sweep"


_BITS = {Phase.RESERVE: RESERVE, Phase.SETTLE: SETTLE, Phase.SWEEP: SWEEP}
_DECK = {Phase.RESERVE: 18, Phase.SETTLE: 18, Phase.SWEEP: 18, Phase.STREAM: 46}
"""Aims in a hundred."""


@dataclass(slots=True)
class Tally:
    """What was done. `idle_kills` met fewer than `LEAST_LIVE` streams and count for nothing."""

    phases: Counter[Phase] = field(default_factory=Counter)
    idle_kills: int = 0
    live: list[int] = field(default_factory=list)
    database_restarts: int = 0
    suspensions: int = 0
    clock_jumps: int = 0

    @property
    def kills(self) -> int:
        return sum(self.phases.values())


@dataclass(slots=True)
class Saboteur:
    """Does the damage. `database_clock` and `postgres` are None for SQLite."""

    fleet: Fleet
    dice: random.Random
    people: Sequence[Person]
    postgres: PostgresProcess | None
    database_clock: Clock | None
    tally: Tally = field(default_factory=Tally)
    _deck: list[Phase] = field(default_factory=list)
    _doomed: set[int] = field(default_factory=set)
    _gifts: int = 0
    _given_at: float = 0.0

    def tend(self) -> None:
        """What goes on between faults: servers come up, suspended ones wake, the poor get money."""
        for seat in self.fleet.seats:
            if self.fleet.wake(seat) and seat.number in self._doomed:
                self._doomed.discard(seat.number)
                time.sleep(self.dice.uniform(0.0, 1.0))
                self._kill(seat, Phase.STREAM)
            elif seat.suspended_until is None:
                self.fleet.is_up(seat)
        if time.monotonic() - self._given_at > _GIFT_EVERY_S:
            self._give()

    def strike(self, lacking: Sequence[Phase]) -> None:
        """One fault that kills, perhaps after another one. `lacking` are the phases with too few
        kills."""
        if self.dice.random() < 0.3:
            self._jump()
        if self.dice.random() < 0.12:
            self._suspend()
        if self.dice.random() < 0.12:
            self._restart_database()
            return
        aim = self._aim(lacking)
        seat = self._wait_for(aim)
        if seat is not None:
            self._kill(seat, aim)

    def quiet(self) -> None:
        """No more faults: whoever is suspended goes on."""
        self._doomed.clear()
        for seat in self.fleet.seats:
            if seat.suspended_until is not None:
                seat.suspended_until = 0.0
        self.tend()

    # --- kills -----------------------------------------------------------------------------------

    def _aim(self, lacking: Sequence[Phase]) -> Phase:
        if not self._deck:
            wanted = [phase for phase, count in _DECK.items() for _ in range(count)]
            self._deck = list(lacking) if self.tally.kills >= len(wanted) and lacking else wanted
            self.dice.shuffle(self._deck)
        return self._deck.pop()

    def _wait_for(self, aim: Phase) -> Seat | None:
        """The seat whose process is in that phase now, with enough live streams; None if none came
        to it in time. Returns at a random moment of the phase."""
        if aim is Phase.STREAM:
            time.sleep(self.dice.uniform(0.0, 0.25))
        deadline = time.monotonic() + _PHASE_WAIT_S
        while time.monotonic() < deadline:
            for seat in self._standing():
                if self._is_in(aim, seat.gauge.read()):
                    if aim is not Phase.STREAM:
                        time.sleep(self.dice.uniform(0.0, _INTO_PHASE_S))
                    return seat
            time.sleep(_POLL_S)
        return None

    def _is_in(self, aim: Phase, reading: Reading) -> bool:
        if reading.live < LEAST_LIVE:
            return False
        if aim is Phase.STREAM:
            return not reading.kinds & (RESERVE | SETTLE | SWEEP)
        return bool(reading.kinds & _BITS[aim])

    def _standing(self) -> list[Seat]:
        seats = [
            seat
            for seat in self.fleet.seats
            if seat.suspended_until is None and self.fleet.is_up(seat)
        ]
        self.dice.shuffle(seats)
        return seats

    def _kill(self, seat: Seat, aim: Phase) -> None:
        box = self.fleet.kill(seat)
        self.fleet.start(seat)
        if box.live < LEAST_LIVE:
            self.tally.idle_kills += 1
            return
        self.tally.phases[_phase_of(box.open_kinds, aim)] += 1
        self.tally.live.append(box.live)

    # --- other faults ----------------------------------------------------------------------------

    def _restart_database(self) -> None:
        """PostgreSQL stops without a shutdown and recovers, and often a server dies with it. SQLite
        has no process of its own: all servers die at once, and the next one recovers the WAL."""
        if self.postgres is None:
            seats = self._all_standing()
            for seat in seats:
                self._kill(seat, Phase.STREAM)
            if not seats:
                return
        else:
            seats = [seat for seat in self._standing() if seat.live >= LEAST_LIVE]
            self.postgres.stop(signal.SIGQUIT)
            if seats and self.dice.random() < 0.5:
                time.sleep(self.dice.uniform(0.0, 0.5))
                self._kill(seats[0], Phase.STREAM)
            time.sleep(self.dice.choice((0.0, 0.5, 2.0)))
            self.postgres.start()
        self.tally.database_restarts += 1

    def _all_standing(self) -> list[Seat]:
        """All seats, at a moment at which each has enough live streams; none if that does not
        come."""
        deadline = time.monotonic() + _ALL_STANDING_S
        while time.monotonic() < deadline:
            seats = [seat for seat in self._standing() if seat.live >= LEAST_LIVE]
            if len(seats) == len(self.fleet.seats):
                return seats
            self.tend()
            time.sleep(_POLL_S)
        return []

    def _suspend(self) -> None:
        """A process stands still until others hold it for dead; half of them die soon after."""
        standing = self._standing()
        if len(standing) < len(self.fleet.seats):
            return
        seat = standing[0]
        self.fleet.suspend(seat, self.fleet.lease_s * self.dice.uniform(0.5, 3.0))
        if self.dice.random() < 0.5:
            self._doomed.add(seat.number)
        self.tally.suspensions += 1

    def _jump(self) -> None:
        clocks = [seat.clock for seat in self.fleet.seats]
        if self.database_clock is not None:
            clocks.append(self.database_clock)
        self.dice.choice(clocks).set(self.dice.uniform(-_LARGEST_JUMP_S, _LARGEST_JUMP_S))
        self.tally.clock_jumps += 1

    def _give(self) -> None:
        """Money for one of the poor; the same gift is tried again if the database is away."""
        poor = [person for person in self.people if person.means is Means.POOR]
        person = poor[self._gifts % len(poor)]
        name = f"gift {self._gifts}"
        self._given_at = time.monotonic()
        try:
            asyncio.run(give(self.fleet.database_url, person.user_id, GIFT_NANOUSD, name))
        except Exception as error:
            if not is_transient(error):
                raise
            return
        self._gifts += 1


def _phase_of(kinds: int, aim: Phase) -> Phase:
    """The phase of a death: the aim if it was met, else the rarest that the transaction has."""
    if aim in _BITS and kinds & _BITS[aim]:
        return aim
    for phase in (Phase.SWEEP, Phase.SETTLE, Phase.RESERVE):
        if kinds & _BITS[phase]:
            return phase
    return Phase.STREAM


def lacking(tally: Tally, least: int) -> list[Phase]:
    """The phases that have had fewer than `least` kills."""
    return [phase for phase in Phase if tally.phases[phase] < least]
