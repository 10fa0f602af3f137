"""The ledger against what really happened: black boxes for what was generated, clients for what
they were told. Recomputes every price by itself.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import text

from bench.faults.blackbox import Witnessed, read_box
from osslo.db.database import Database

INPUT, CACHED, OUTPUT = 80, 40, 320
"""The shipped prices after their discount, in nano-dollars a token."""


@dataclass(frozen=True, slots=True)
class Books:
    """Everything in the ledger's tables."""

    balances: dict[str, int]
    entries: tuple[Any, ...]
    usage: tuple[Any, ...]
    daily: dict[str, int]
    reservations: int


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report. `at_most` None: `value` must be at least `target`."""

    name: str
    value: int
    target: int | None
    samples: int
    is_least: bool = False

    @property
    def is_met(self) -> bool:
        if self.target is None:
            return True
        return self.value >= self.target if self.is_least else self.value <= self.target


async def open_reservations(database_url: str) -> int:
    """How many requests the ledger holds for running."""
    database = Database(database_url)
    try:
        async with database.read() as session:
            counted = await session.execute(text("SELECT count(*) FROM reservations"))
            return int(counted.scalar_one())
    finally:
        await database.close()


async def read_books(database_url: str) -> Books:
    """All tables, in one transaction."""
    database = Database(database_url)
    try:
        async with database.read() as session:

            async def rows(statement: str) -> tuple[Any, ...]:
                return tuple((await session.execute(text(statement))).all())

            balances = await rows("SELECT user_id, balance_nanousd FROM balances")
            daily = await rows(
                "SELECT user_id, sum(cost_nanousd) FROM usage_daily GROUP BY user_id"
            )
            return Books(
                balances={row[0]: row[1] for row in balances},
                entries=await rows(
                    "SELECT user_id, kind, amount_nanousd, balance_nanousd, request_id "
                    "FROM ledger_entries ORDER BY id"
                ),
                usage=await rows(
                    "SELECT request_id, user_id, status, prompt_tokens, cached_tokens, "
                    "completion_tokens, cost_nanousd FROM usage"
                ),
                daily={row[0]: int(row[1]) for row in daily},
                reservations=len(await rows("SELECT id FROM reservations")),
            )
    finally:
        await database.close()


def witnessed(boxes: Iterable[Path]) -> dict[str, Witnessed]:
    """Every request that an engine was asked for, by its id."""
    found: dict[str, Witnessed] = {}
    for path in boxes:
        found |= read_box(path).requests
    return found


def price(prompt_tokens: int, cached_tokens: int | None, completion_tokens: int) -> int:
    """What so many tokens cost. Where nobody knows how much of the prompt was cached, all was."""
    if not completion_tokens:
        return 0
    cached = prompt_tokens if cached_tokens is None else cached_tokens
    return (prompt_tokens - cached) * INPUT + cached * CACHED + completion_tokens * OUTPUT


def audit(
    books: Books, seen: Mapping[str, Witnessed], told: Sequence[Mapping[str, Any]], step: int
) -> list[Row]:
    """The rows of the report that are about money; `step` is the ledger's durable step."""
    charged = _charged(books)
    usage = {row.request_id: row for row in books.usage}
    requests = seen.keys() | charged.keys()
    over = [name for name in requests if charged[name] > _worth(seen.get(name))]
    under = {name: _lost_tokens(request, usage.get(name)) for name, request in seen.items()}
    crashed = sum(row.status == "crashed" for row in books.usage)
    return [
        Row("balance_differences", len(_differing_users(books)), 0, len(books.balances)),
        Row("negative_balances", _negative(books), 0, len(books.entries)),
        Row("double_charges", len(_doubly_charged(books, charged)), 0, len(requests)),
        Row("reservations_left", books.reservations, 0, len(requests)),
        Row("largest_undercharge_tokens", max(under.values(), default=0), step, len(seen)),
        Row("overcharges", len(over), 0, len(requests)),
        Row("price_differences", sum(map(_is_mispriced, books.usage)), 0, len(books.usage)),
        Row("usage_differences", _told_otherwise(told, usage), 0, len(told)),
        Row("crashed_requests", crashed, None, len(books.usage)),
        Row("undercharged_requests", sum(lost > 0 for lost in under.values()), None, len(seen)),
        Row("late_charges", sum(row.kind == "late" for row in books.entries), None, len(usage)),
    ]


def _charged(books: Books) -> Counter[str]:
    """The sum of what each request took."""
    charged: Counter[str] = Counter()
    for entry in books.entries:
        if entry.request_id is not None:
            charged[entry.request_id] -= entry.amount_nanousd
    return charged


def _worth(request: Witnessed | None) -> int:
    """The most that a request may have cost: what left the engine, at the exact price."""
    if request is None:
        return 0
    return price(request.prompt_tokens, request.cached_tokens, request.handed_tokens)


def _lost_tokens(request: Witnessed, usage: Any) -> int:
    """Tokens that left the engine and were not paid for."""
    if usage is None or usage.cost_nanousd == 0:
        return request.handed_tokens
    owed = price(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
    unpaid = -(-max(0, owed - usage.cost_nanousd) // OUTPUT)
    return request.handed_tokens - usage.completion_tokens + unpaid


def _differing_users(books: Books) -> set[str]:
    """Users whose balance is not the sum of their entries, at the end or after any entry, or whose
    requests' costs are not what their requests took, or not what the days' sums say."""
    sums: Counter[str] = Counter()
    requests: Counter[str] = Counter()
    differing: set[str] = set()
    for entry in books.entries:
        sums[entry.user_id] += entry.amount_nanousd
        if entry.request_id is not None:
            requests[entry.user_id] -= entry.amount_nanousd
        if sums[entry.user_id] != entry.balance_nanousd:
            differing.add(entry.user_id)
    costs: Counter[str] = Counter()
    for row in books.usage:
        costs[row.user_id] += row.cost_nanousd
    for user in books.balances.keys() | sums.keys():
        agree = (
            books.balances.get(user, 0) == sums[user]
            and requests[user] == costs[user] == books.daily.get(user, 0)
        )  # fmt: skip
        if not agree:
            differing.add(user)
    return differing


def _negative(books: Books) -> int:
    """Moments at which a balance was below zero."""
    after = [entry.balance_nanousd for entry in books.entries]
    return sum(balance < 0 for balance in (*after, *books.balances.values()))


def _doubly_charged(books: Books, charged: Mapping[str, int]) -> set[str]:
    """Requests with two reservations, two ends or two records, or whose record says another cost
    than their entries add up to."""
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in books.entries:
        if entry.request_id is not None:
            kinds[entry.request_id][entry.kind] += 1
    records = Counter(row.request_id for row in books.usage)
    double = {name for name, each in kinds.items() if each["reserve"] > 1 or each["end"] > 1}
    double |= {name for name, count in records.items() if count > 1}
    return double | {
        row.request_id for row in books.usage if charged.get(row.request_id, 0) != row.cost_nanousd
    }


def _is_mispriced(usage: Any) -> bool:
    owed = price(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
    return bool(owed != usage.cost_nanousd)


def _told_otherwise(told: Sequence[Mapping[str, Any]], usage: Mapping[str, Any]) -> int:
    """Requests whose client was told another count of tokens than is on record. A record that the
    sweeper made after a crash may say less."""
    wrong = 0
    for each in told:
        row, count = usage.get(each.get("id", "")), each.get("completion_tokens")
        if row is None or count is None or each["end"] != "whole":
            continue
        wrong += count < row.completion_tokens or (
            row.status != "crashed" and count != row.completion_tokens
        )
    return wrong
