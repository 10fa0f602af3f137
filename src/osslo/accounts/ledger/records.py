"""What the ledger hands to other layers, and the exact price of counted tokens. Pure.

All money is in whole nano-dollars (10⁻⁹ US dollars).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum


class EntryKind(Enum):
    """Why money moved.

    A request is a RESERVE of the most it may cost and one END that gives back what was not used;
    LATE charges the rest where a process thought dead had gone on. The others are people's.
    """

    RESERVE = "reserve"
    END = "end"
    LATE = "late"
    TOP_UP = "topup"
    WELCOME = "welcome"
    ADJUSTMENT = "adjustment"


class Status(Enum):
    """How a request ended: by itself, at a limit of tokens, with an error, cancelled by the
    caller, refused by the engine, or with the process that ran it."""

    COMPLETED = "completed"
    LENGTH = "length"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class Rates:
    """Prices in nano-dollars a token, as they were when the request was accepted."""

    input_nanousd: int
    cached_input_nanousd: int
    output_nanousd: int

    def most(self, prompt_tokens: int, max_tokens: int) -> int:
        """The most that a request may cost."""
        return self.prompt_most(prompt_tokens) + max_tokens * self.output_nanousd

    def prompt_most(self, prompt_tokens: int) -> int:
        """The most that a prompt may cost: whatever part of it is found in the cache."""
        return prompt_tokens * max(self.input_nanousd, self.cached_input_nanousd)

    def cost(self, counts: Counts) -> int:
        """The exact cost. A request that generated nothing costs nothing. Where the cached part of
        the prompt is not known, all of it counts at the lower price."""
        if counts.completion_tokens == 0:
            return 0
        output = counts.completion_tokens * self.output_nanousd
        if counts.cached_tokens is None:
            lower = min(self.input_nanousd, self.cached_input_nanousd)
            return output + counts.prompt_tokens * lower
        fresh = counts.prompt_tokens - counts.cached_tokens
        cached = counts.cached_tokens * self.cached_input_nanousd
        return output + fresh * self.input_nanousd + cached


FREE = Rates(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Counts:
    """Counted tokens. Output includes reasoning; `cached_tokens` None is not known (yet)."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int | None = None
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Reservation:
    """One running request. `key_id` is empty where no key was used."""

    id: str
    request_id: str
    process_id: str
    user_id: str
    key_id: str
    model: str
    protocol: str
    rates: Rates
    reserved_nanousd: int
    max_tokens: int
    counts: Counts
    batch: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended, beside its counts. Times in milliseconds."""

    status: Status
    error: str | None = None
    first_token_ms: float | None = None
    duration_ms: float | None = None
    tokens_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """One ended request."""

    id: str
    request_id: str
    at: datetime
    user_id: str
    key_id: str
    model: str
    protocol: str
    status: Status
    error: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cost_nanousd: int
    first_token_ms: float | None
    duration_ms: float | None
    tokens_per_second: float | None
    batch: bool = False


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One movement of a user's money; `balance_nanousd` is what was there after it."""

    id: int
    at: datetime
    user_id: str
    kind: EntryKind
    amount_nanousd: int
    balance_nanousd: int
    request_id: str | None
    actor_id: str | None
    note: str | None


@dataclass(frozen=True, slots=True)
class Account:
    """A user's money: what can be spent, and what running requests have put aside."""

    user_id: str
    balance_nanousd: int
    reserved_nanousd: int


@dataclass(frozen=True, slots=True)
class SpendingRule:
    """A key's spending limit, and the first day (UTC) that counts; None counts every day."""

    limit_nanousd: int
    since: date | None
