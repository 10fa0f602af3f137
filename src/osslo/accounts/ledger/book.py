"""The rules of money, over the rows that one transaction has loaded. No SQL, no clock, no I/O.

A `Book` is opened on balances that are locked, takes operations one by one, and knows at the end
which rows to write. Two invariants hold after every operation: no balance is negative, and each
balance changed by exactly the sum of the entries written for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from osslo.accounts.ledger.money import show_usd
from osslo.accounts.ledger.operations import (
    LEAST_OUTPUT_TOKENS,
    Beat,
    End,
    Farewell,
    Late,
    Operation,
    Post,
    Posted,
    Progress,
    Reserve,
    Result,
    Sweep,
)
from osslo.accounts.ledger.records import (
    Counts,
    EntryKind,
    Outcome,
    Reservation,
    Status,
)
from osslo.errors import OssloError, QuotaError, RequestError


@dataclass(frozen=True, slots=True)
class NewEntry:
    """A ledger entry to be written."""

    user_id: str
    kind: EntryKind
    amount_nanousd: int
    balance_nanousd: int
    idempotency_key: str
    request_id: str | None = None
    actor_id: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class NewUsage:
    """A usage record to be written; `correction` replaces the one that the sweeper wrote."""

    reservation: Reservation
    counts: Counts
    outcome: Outcome
    cost_nanousd: int
    correction: Ended | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """What is on record of a request that has ended."""

    status: Status
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cost_nanousd: int


@dataclass(slots=True)
class Loaded:
    """The rows that a batch of operations needs, locked until its transaction ends.

    `ending` are the open reservations that the batch ends; `running` the ids of others that are
    open; `known` those it asks for that exist already; `ended` what is on record of those that have
    ended before. `posted` maps idempotency keys that exist to (user, kind, amount). `headroom` is
    what keys with a limit may still spend.
    """

    balances: dict[str, int] = field(default_factory=dict)
    ending: dict[str, Reservation] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    known: dict[str, Reservation] = field(default_factory=dict)
    ended: dict[str, Ended] = field(default_factory=dict)
    posted: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    headroom: dict[str, int] = field(default_factory=dict)


class Book:
    """Applies operations; its public lists are what to write."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self.balances = loaded.balances
        self.entries: list[NewEntry] = []
        self.opened: dict[str, Reservation] = {}
        self.closed: list[str] = []
        self.progressed: dict[str, Counts] = {}
        self.usage: list[NewUsage] = []
        self.beats: set[str] = set()
        self.farewells: set[str] = set()

    def apply(self, operation: Operation) -> Result:
        """Do it. A refusal is returned as the error that the caller is to raise."""
        try:
            return self._apply(operation)
        except OssloError as refusal:
            return refusal

    def _apply(self, operation: Operation) -> Result:
        match operation:
            case Reserve():
                return self._reserve(operation)
            case Progress(reservation_id, counts):
                return self._progress(reservation_id, counts)
            case Late(reservation, counts):
                self._late(reservation, counts)
            case End(reservation, counts, outcome):
                return self._end(reservation, counts, outcome)
            case Sweep(reservation_id):
                return self._sweep(reservation_id)
            case Post():
                return self._post(operation)
            case Beat(process_id):
                self.beats.add(process_id)
            case Farewell(process_id):
                self.farewells.add(process_id)
        return None

    # --- requests --------------------------------------------------------------------------------

    def _reserve(self, asked: Reserve) -> Reservation:
        wanted = asked.reservation
        known = self._loaded.known.get(wanted.id)
        if known is not None or wanted.id in self._loaded.ended:
            return known or wanted  # a commit whose answer was lost
        granted = self._affordable(asked)
        if granted.key_id in self._loaded.headroom:
            self._loaded.headroom[granted.key_id] -= granted.reserved_nanousd
        self._move(granted, EntryKind.RESERVE, -granted.reserved_nanousd)
        self.opened[granted.id] = granted
        return granted

    def _affordable(self, asked: Reserve) -> Reservation:
        """The reservation, with fewer tokens if need be. Raises `QuotaError`."""
        wanted = asked.reservation
        balance = self.balances.get(wanted.user_id, 0)
        headroom = self._loaded.headroom.get(wanted.key_id, balance)
        money = min(balance, headroom)
        if wanted.reserved_nanousd <= money:
            return wanted
        prompt_tokens = wanted.counts.prompt_tokens
        left = money - wanted.rates.prompt_most(prompt_tokens)
        covered = max(0, left) // wanted.rates.output_nanousd if wanted.rates.output_nanousd else 0
        if asked.may_lower and covered >= min(LEAST_OUTPUT_TOKENS, wanted.max_tokens):
            most = wanted.rates.most(prompt_tokens, covered)
            return replace(wanted, max_tokens=covered, reserved_nanousd=most)
        raise _refusal(wanted, balance, headroom, covered)

    def _progress(self, reservation_id: str, counts: Counts) -> bool:
        for held in (self.opened, self._loaded.ending):
            if reservation_id in held:
                held[reservation_id] = replace(held[reservation_id], counts=counts)
                return True
        if reservation_id in self._loaded.running:
            self.progressed[reservation_id] = counts
        return reservation_id in self._loaded.running

    def _late(self, known: Reservation, counts: Counts) -> None:
        ended = self._loaded.ended.get(known.id)
        if ended is None or ended.status is not Status.CRASHED:
            return
        if counts.completion_tokens > ended.completion_tokens:
            self._charge_late(known, ended, counts, Outcome(Status.CRASHED))

    def _end(self, known: Reservation, counts: Counts, outcome: Outcome) -> int:
        found = self._take(known.id)
        if found is not None:
            return self._charge(found, counts, outcome)
        ended = self._loaded.ended.get(known.id)
        if ended is None:  # it was never granted
            return 0
        if ended.status is Status.CRASHED and outcome.status is not Status.CRASHED:
            return self._charge_late(known, ended, counts, outcome)
        return ended.cost_nanousd

    def _sweep(self, reservation_id: str) -> bool:
        found = self._take(reservation_id)
        if found is not None:
            self._charge(found, found.counts, Outcome(Status.CRASHED))
        return found is not None

    def _take(self, reservation_id: str) -> Reservation | None:
        """The open reservation, which is from now on no longer open."""
        self.progressed.pop(reservation_id, None)
        found = self.opened.pop(reservation_id, None)
        if found is None:
            found = self._loaded.ending.pop(reservation_id, None)
            if found is not None:
                self.closed.append(reservation_id)
        return found

    def _charge(self, reservation: Reservation, counts: Counts, outcome: Outcome) -> int:
        """Charge what was used, never more than was reserved, and give the rest back."""
        reserved = reservation.reserved_nanousd
        cost = min(reservation.rates.cost(counts), reserved)
        self._move(reservation, EntryKind.END, reserved - cost)
        self._record(NewUsage(reservation, counts, outcome, cost))
        return cost

    def _charge_late(
        self, reservation: Reservation, ended: Ended, counts: Counts, outcome: Outcome
    ) -> int:
        """The process was thought dead, and the request went on: charge what came after, as far
        as the balance, which has the reservation back, covers it."""
        exact = min(reservation.rates.cost(counts), reservation.reserved_nanousd)
        balance = self.balances.get(reservation.user_id, 0)
        rest = max(0, min(exact - ended.cost_nanousd, balance))
        self._move(reservation, EntryKind.LATE, -rest, f":{counts.completion_tokens}")
        cost = ended.cost_nanousd + rest
        self._record(NewUsage(reservation, counts, outcome, cost, correction=ended))
        return cost

    def _record(self, usage: NewUsage) -> None:
        self.usage.append(usage)
        self._loaded.ended[usage.reservation.id] = Ended(
            status=usage.outcome.status,
            prompt_tokens=usage.counts.prompt_tokens,
            cached_tokens=usage.counts.cached_tokens or 0,
            completion_tokens=usage.counts.completion_tokens,
            reasoning_tokens=usage.counts.reasoning_tokens,
            cost_nanousd=usage.cost_nanousd,
        )

    # --- people ----------------------------------------------------------------------------------

    def _post(self, post: Post) -> Posted:
        before = self._loaded.posted.get(post.idempotency_key)
        balance = self.balances.get(post.user_id, 0)
        if before is not None:
            if before != (post.user_id, post.kind.value, post.amount_nanousd):
                raise RequestError(
                    "This idempotency key was used for another payment; use a new one.",
                    param="idempotency_key",
                    code="idempotency_conflict",
                )
            return Posted(balance, new=False)
        if balance + post.amount_nanousd < 0:
            raise RequestError(
                f"The balance is {show_usd(balance)}; {show_usd(-post.amount_nanousd)} cannot be "
                "taken from it.",
                param="amount",
                code="balance_too_low",
            )
        self._write(
            NewEntry(
                user_id=post.user_id,
                kind=post.kind,
                amount_nanousd=post.amount_nanousd,
                balance_nanousd=balance + post.amount_nanousd,
                idempotency_key=post.idempotency_key,
                actor_id=post.actor_id,
                note=post.note,
            )
        )
        signature = (post.user_id, post.kind.value, post.amount_nanousd)
        self._loaded.posted[post.idempotency_key] = signature
        return Posted(balance + post.amount_nanousd, new=True)

    # --- entries ---------------------------------------------------------------------------------

    def _move(
        self, reservation: Reservation, kind: EntryKind, amount_nanousd: int, step: str = ""
    ) -> None:
        if amount_nanousd == 0:
            return
        balance = self.balances.get(reservation.user_id, 0) + amount_nanousd
        self._write(
            NewEntry(
                user_id=reservation.user_id,
                kind=kind,
                amount_nanousd=amount_nanousd,
                balance_nanousd=balance,
                idempotency_key=f"{kind.value}:{reservation.id}{step}",
                request_id=reservation.request_id,
            )
        )

    def _write(self, entry: NewEntry) -> None:
        if entry.balance_nanousd < 0:
            raise AssertionError("a balance would become negative")
        self.balances[entry.user_id] = entry.balance_nanousd
        self.entries.append(entry)


def _refusal(wanted: Reservation, balance: int, headroom: int, covered: int) -> QuotaError:
    cost = (
        f"this request may cost up to {show_usd(wanted.reserved_nanousd)} "
        f"({wanted.counts.prompt_tokens:,} tokens of input and up to {wanted.max_tokens:,} of "
        "output)"
    )
    fewer = f", or ask for at most {covered:,} output tokens" if covered else ""
    if headroom < balance:
        return QuotaError(
            f"This key may spend {show_usd(max(0, headroom))} more in its current period, and "
            f"{cost}. Raise the key's spending limit, use another key{fewer}."
        )
    return QuotaError(f"Your balance is {show_usd(balance)}, and {cost}. Add credit{fewer}.")
