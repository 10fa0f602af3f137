"""What a batch of operations needs to know: whose rows those are, and loading them for the `Book`.

Rows are looked at in one order everywhere (balances by user, then reservations by id), so that
replicas that lock them wait for each other instead of dying in deadlocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import Connection

from osslo.accounts.ledger import statements
from osslo.accounts.ledger.book import Ended, Loaded
from osslo.accounts.ledger.operations import (
    End,
    Late,
    Operation,
    Post,
    Progress,
    Reserve,
    Sweep,
)
from osslo.accounts.ledger.records import Counts, Rates, Reservation, SpendingRule, Status
from osslo.accounts.ledger.spending import spending_rule
from osslo.accounts.records import SpendingPeriod
from osslo.db.prepared import (
    Fetched,
    ListStatement,
    Row,
    Writes,
    fetch,
    fetch_listed,
    fetch_one,
    write,
)


@dataclass(slots=True)
class Asked:
    """Whose balances and keys, and which reservations, a batch is about."""

    users: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    opening: set[str] = field(default_factory=set)
    ending: set[str] = field(default_factory=set)
    running: set[str] = field(default_factory=set)
    late: set[str] = field(default_factory=set)
    posts: list[Post] = field(default_factory=list)

    @staticmethod
    def by(operations: Sequence[Operation]) -> Asked:
        """What `operations` are about."""
        asked = Asked()
        for operation in operations:
            asked._note(operation)
        asked.running -= asked.ending
        return asked

    def unknown(self, seen: Seen) -> set[str]:
        """The reservations to be ended that are neither open nor opened in this batch."""
        return self.ending - seen.ending.keys() - self.opening

    def _note(self, operation: Operation) -> None:
        match operation:
            case Reserve(reservation):
                self.users.add(reservation.user_id)
                self.keys.add(reservation.key_id)
                self.opening.add(reservation.id)
            case Progress(reservation_id):
                self.running.add(reservation_id)
            case End(reservation):
                self.users.add(reservation.user_id)
                self.ending.add(reservation.id)
            case Late(reservation):
                self.users.add(reservation.user_id)
                self.late.add(reservation.id)
            case Sweep(reservation_id, user_id):
                self.users.add(user_id)
                self.ending.add(reservation_id)
            case Post(user_id):
                self.users.add(user_id)
                self.posts.append(operation)
            case _:
                return


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look gives. On PostgreSQL `versions` has what tells later whether the rows that were
    seen have changed."""

    now: datetime
    balances: dict[str, int]
    ending: dict[str, Reservation]
    running: set[str]
    limits: dict[str, SpendingRule]
    versions: Writes = ()


def look(connection: Connection, asked: Asked, *, lock: bool) -> Seen:
    """Look once, and lock the balances and reservations. SQLite has one writer, and needs no lock;
    its moment is the machine's, PostgreSQL's the server's."""
    if connection.dialect.name == "sqlite":
        return _look_at_sqlite(connection, asked)
    users, reservations = sorted(asked.users), sorted(asked.ending)
    listed = [users, reservations, sorted(asked.running), sorted(asked.keys)]
    text = statements.LOCKED if lock else statements.SEEN
    moment, *found = fetch_one(connection, text, listed)
    balances, ending, running, limits = ([tuple(row) for row in rows or ()] for rows in found)
    now = moment.astimezone(UTC)
    return Seen(
        now=now,
        balances={user: balance for user, balance, _ in balances},
        ending=_reservations(row[:-1] for row in ending),
        running={identity for identity, _ in running},
        limits=_limits(limits, now.date()),
        versions=(
            (statements.SAME_BALANCES, [_version("user_id", row) for row in balances]),
            (statements.SAME_RESERVATIONS, [_version("id", row) for row in (*ending, *running)]),
        ),
    )


def _look_at_sqlite(connection: Connection, asked: Asked) -> Seen:
    now = datetime.now(UTC)
    running = _listed(connection, statements.RUNNING, asked.running)
    return Seen(
        now=now,
        balances=dict(_listed(connection, statements.BALANCES, asked.users)),
        ending=_reservations(_listed(connection, statements.RESERVATIONS, asked.ending)),
        running={identity for (identity,) in running},
        limits=_limits(_listed(connection, statements.LIMITS, asked.keys), now.date()),
    )


def load(connection: Connection, asked: Asked, *, again: bool) -> tuple[Loaded, datetime]:
    """Everything that the operations need, locked, and the transaction's moment."""
    if asked.posts:
        users = sorted({post.user_id for post in asked.posts})
        empty = [{"user_id": user, "balance_nanousd": 0} for user in users]
        write(connection, [(statements.NEW_BALANCE, empty)])
    seen = look(connection, asked, lock=True)
    if again:  # what an earlier try wrote may have been committed while this look waited for locks
        seen = look(connection, asked, lock=True)
    loaded = loaded_from(connection, seen)
    unknown = asked.unknown(seen) | asked.late
    if again:
        known = _listed(connection, statements.RESERVATIONS, asked.opening)
        loaded.known = _reservations(known)
        unknown |= asked.ending | asked.opening
    loaded.ended = _ended(_listed(connection, statements.ENDED_REQUESTS, unknown))
    posted = {post.idempotency_key for post in asked.posts}
    loaded.posted = {
        key: (user, kind, amount)
        for key, user, kind, amount in _listed(connection, statements.POSTED, posted)
    }
    return loaded, seen.now


def loaded_from(connection: Connection, seen: Seen) -> Loaded:
    """What was seen, with what its keys may still spend."""
    spent = spent_nanousd(connection, seen.limits)
    return Loaded(
        balances=seen.balances,
        ending=seen.ending,
        running=seen.running,
        headroom={key: rule.limit_nanousd - spent[key] for key, rule in seen.limits.items()},
    )


def spent_nanousd(connection: Connection, rules: dict[str, SpendingRule]) -> dict[str, int]:
    """What keys have spent since their rules' first days, with what running requests put aside."""
    if not rules:
        return {}
    rows = [{"key_id": key_id, "since": rule.since or date.min} for key_id, rule in rules.items()]
    return {key_id: int(spent) for key_id, spent in fetch(connection, statements.SPENT, rows)}


def _listed(connection: Connection, statement: ListStatement, values: Iterable[str]) -> Fetched:
    return fetch_listed(connection, statement, values) if values else ()


def _version(key: str, row: tuple[Any, ...]) -> Row:
    return {key: row[0], "version": row[-1]}


def _limits(rows: Fetched, today: date) -> dict[str, SpendingRule]:
    return {
        key_id: spending_rule(limit, SpendingPeriod(period), today)
        for key_id, limit, period in rows
    }


def _reservations(rows: Iterable[tuple[Any, ...]]) -> dict[str, Reservation]:
    found = [dict(zip(statements.RESERVATION, row, strict=True)) for row in rows]
    return {row["id"]: _reservation(row) for row in found}


def _reservation(row: Row) -> Reservation:
    return Reservation(
        id=row["id"],
        request_id=row["request_id"],
        process_id=row["process_id"],
        user_id=row["user_id"],
        key_id=row["key_id"],
        model=row["model"],
        protocol=row["protocol"],
        rates=Rates(row["input_nanousd"], row["cached_input_nanousd"], row["output_nanousd"]),
        reserved_nanousd=row["reserved_nanousd"],
        max_tokens=row["max_tokens"],
        counts=Counts(
            prompt_tokens=row["prompt_tokens"],
            completion_tokens=row["completion_tokens"],
            cached_tokens=row["cached_tokens"],
            reasoning_tokens=row["reasoning_tokens"],
        ),
        batch=bool(row["batch"]),
    )


def _ended(rows: Fetched) -> dict[str, Ended]:
    found = {}
    for identity, status, *counted in rows:
        found[identity] = Ended(Status(status), *counted)
    return found
