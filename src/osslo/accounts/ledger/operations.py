"""What can be asked of the ledger's writer. Each operation may be applied twice and counts once."""

from __future__ import annotations

from dataclasses import dataclass

from osslo.accounts.ledger.records import Counts, EntryKind, Outcome, Reservation


@dataclass(frozen=True, slots=True)
class Reserve:
    """Put the largest possible cost of a request aside. Gives the `Reservation` that was granted.

    With `may_lower`, a request that the money does not cover in full is granted with fewer tokens,
    but not with fewer than `LEAST_OUTPUT_TOKENS`; else it is refused with a `QuotaError`.
    """

    reservation: Reservation
    may_lower: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """So much of a request was generated and may be charged after a crash. Gives whether the
    request is still open: it is not where another process took this one for dead and swept it."""

    reservation_id: str
    counts: Counts


@dataclass(frozen=True, slots=True)
class Late:
    """So much was generated of a request that was swept while it ran: charge what came since."""

    reservation: Reservation
    counts: Counts


@dataclass(frozen=True, slots=True)
class End:
    """A request ended: charge exactly what it used and give the rest back. Gives the cost."""

    reservation: Reservation
    counts: Counts
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Sweep:
    """The process that ran a request is dead: charge what is durably known of it. Gives whether it
    was still open."""

    reservation_id: str
    user_id: str


@dataclass(frozen=True, slots=True)
class Post:
    """Money that somebody gives or takes. Gives a `Posted`."""

    user_id: str
    kind: EntryKind
    amount_nanousd: int
    idempotency_key: str
    actor_id: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Beat:
    """The process is alive."""

    process_id: str


@dataclass(frozen=True, slots=True)
class Farewell:
    """The process leaves; or, said by another, it is dead and nothing of it is open."""

    process_id: str


Operation = Reserve | Progress | Late | End | Sweep | Post | Beat | Farewell

LEAST_OUTPUT_TOKENS = 16
"""A request whose money covers fewer output tokens than this (and than it asks for) is refused."""


@dataclass(frozen=True, slots=True)
class Posted:
    """What a `Post` did: the balance after it, and False for `new` if its key was seen before."""

    balance_nanousd: int
    new: bool


Result = Reservation | Posted | int | bool | None | Exception
