"""The SQL of a commit: loads and locks the rows that a batch of operations needs, lets the `Book`
apply them, and writes what it says. Runs on a synchronous connection inside a write transaction.

Locks are taken in one order everywhere (balances by user, then reservations by id), so that
replicas wait for each other instead of dying in deadlocks. On PostgreSQL a batch is few round
trips, because each takes about as long as everything that SQLite does. `statements` has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Any, cast

from sqlalchemy import Connection, Table, update

from osslo.accounts.ledger import statements
from osslo.accounts.ledger.book import Book, Ended, Loaded, NewUsage
from osslo.accounts.ledger.operations import (
    End,
    Late,
    Operation,
    Post,
    Progress,
    Reserve,
    Result,
    Sweep,
)
from osslo.accounts.ledger.records import Counts, Rates, Reservation, SpendingRule, Status
from osslo.accounts.ledger.spending import spending_rule
from osslo.accounts.ledger.statements import COUNTED, SUMMED, among
from osslo.accounts.ledger.tables import UsageRow
from osslo.accounts.records import SpendingPeriod
from osslo.db.prepared import run_many, run_one

_USAGE = cast(Table, UsageRow.__table__)


def commit(
    connection: Connection, operations: Sequence[Operation], *, again: bool = False
) -> list[Result]:
    """Apply `operations` in order and return what each gives.

    `again` says that an earlier try may have been committed without our learning of it.
    """
    now, limits = _now(connection, operations)
    book = Book(_load(connection, operations, limits, again=again))
    results = [book.apply(operation) for operation in operations]
    _write(connection, book, now)
    return results


def _now(
    connection: Connection, operations: Sequence[Operation]
) -> tuple[datetime, dict[str, SpendingRule]]:
    """The transaction's moment by the database's clock, and in the same round trip the spending
    limits of the keys that ask for reservations. SQLite's clock is the machine's."""
    keys = {each.reservation.key_id for each in operations if isinstance(each, Reserve)}
    if connection.dialect.name == "sqlite":
        now = datetime.now(UTC)
        return now, _limits(
            among(connection, statements.limited_keys, keys) if keys else (), now.date()
        )
    if not keys:
        return run_one(connection, statements.NOW, {}).scalar_one().astimezone(UTC), {}
    rows = among(connection, statements.now_and_limited_keys, keys).all()
    now = rows[0].moment.astimezone(UTC)
    return now, _limits((row for row in rows if row.id is not None), now.date())


def _limits(rows: Iterable[Any], today: date) -> dict[str, SpendingRule]:
    return {
        row.id: spending_rule(
            row.spending_limit_nanousd, SpendingPeriod(row.spending_period), today
        )
        for row in rows
    }


# --- loading ------------------------------------------------------------------------------------


def _load(
    connection: Connection,
    operations: Sequence[Operation],
    limits: dict[str, SpendingRule],
    *,
    again: bool,
) -> Loaded:
    users, reserves, ends, posts = _named(operations)
    running = {each.reservation_id for each in operations if isinstance(each, Progress)}
    late = {each.reservation.id for each in operations if isinstance(each, Late)}
    loaded = Loaded()
    if posts:
        _make_balances(connection, sorted({post.user_id for post in posts}))
    if users:
        loaded.balances = _balances(connection, sorted(users))
    if ends:
        loaded.ending = _take_reservations(connection, ends)
    if running:
        loaded.running = _running(connection, running - loaded.ending.keys())
    unknown = ends - loaded.ending.keys() - {each.reservation.id for each in reserves}
    unknown |= late
    if again:
        wanted = {each.reservation.id for each in reserves}
        loaded.known = _known_reservations(connection, wanted - loaded.ending.keys())
        unknown |= ends | wanted
    if unknown:
        loaded.ended = _ended(connection, unknown)
    if posts:
        loaded.posted = _posted(connection, {post.idempotency_key for post in posts})
    for key_id, rule in limits.items():
        loaded.headroom[key_id] = rule.limit_nanousd - spent_nanousd(connection, key_id, rule)
    return loaded


def _named(
    operations: Sequence[Operation],
) -> tuple[set[str], list[Reserve], set[str], list[Post]]:
    """Whose balances, and which reservations, the operations are about."""
    users: set[str] = set()
    reserves: list[Reserve] = []
    ends: set[str] = set()
    posts: list[Post] = []
    for operation in operations:
        match operation:
            case Reserve(reservation):
                users.add(reservation.user_id)
                reserves.append(operation)
            case End(reservation):
                users.add(reservation.user_id)
                ends.add(reservation.id)
            case Late(reservation):
                users.add(reservation.user_id)
            case Sweep(reservation_id, user_id):
                users.add(user_id)
                ends.add(reservation_id)
            case Post(user_id):
                users.add(user_id)
                posts.append(operation)
            case _:
                continue
    return users, reserves, ends, posts


def _make_balances(connection: Connection, users: list[str]) -> None:
    rows = [{"user_id": user, "balance_nanousd": 0} for user in users]
    run_many(connection, statements.NEW_BALANCE[connection.dialect.name], rows)


def _balances(connection: Connection, users: list[str]) -> dict[str, int]:
    found = among(connection, statements.locked_balances, users)
    return {row.user_id: row.balance_nanousd for row in found}


def _take_reservations(connection: Connection, ids: set[str]) -> dict[str, Reservation]:
    """Delete the reservations and give what they were: none can be taken twice."""
    return {
        row.id: _reservation(row) for row in among(connection, statements.taken_reservations, ids)
    }


def _running(connection: Connection, ids: set[str]) -> set[str]:
    """Which of them are open, and stay so until this transaction ends."""
    if not ids:
        return set()
    return set(among(connection, statements.locked_reservations, ids).scalars())


def _known_reservations(connection: Connection, ids: set[str]) -> dict[str, Reservation]:
    if not ids:
        return {}
    return {row.id: _reservation(row) for row in among(connection, statements.reservations, ids)}


def _reservation(row: Any) -> Reservation:
    return Reservation(
        id=row.id,
        request_id=row.request_id,
        process_id=row.process_id,
        user_id=row.user_id,
        key_id=row.key_id,
        model=row.model,
        protocol=row.protocol,
        rates=Rates(row.input_nanousd, row.cached_input_nanousd, row.output_nanousd),
        reserved_nanousd=row.reserved_nanousd,
        max_tokens=row.max_tokens,
        counts=Counts(
            prompt_tokens=row.prompt_tokens,
            completion_tokens=row.completion_tokens,
            cached_tokens=row.cached_tokens,
            reasoning_tokens=row.reasoning_tokens,
        ),
        batch=bool(row.batch),
    )


def _ended(connection: Connection, ids: set[str]) -> dict[str, Ended]:
    return {
        row.id: Ended(
            status=Status(row.status),
            prompt_tokens=row.prompt_tokens,
            cached_tokens=row.cached_tokens,
            completion_tokens=row.completion_tokens,
            reasoning_tokens=row.reasoning_tokens,
            cost_nanousd=row.cost_nanousd,
        )
        for row in among(connection, statements.ended_requests, ids)
    }


def _posted(connection: Connection, keys: set[str]) -> dict[str, tuple[str, str, int]]:
    rows = among(connection, statements.posted_entries, keys)
    return {row.idempotency_key: (row.user_id, row.kind, row.amount_nanousd) for row in rows}


def spent_nanousd(connection: Connection, key_id: str, rule: SpendingRule) -> int:
    """What a key has spent since the rule's first day, with what running requests put aside."""
    asked = {"of_key": key_id, "since": rule.since or date.min}
    row = run_one(connection, statements.SPENT, asked).one()
    return int(row.charged) + int(row.reserved)


# --- writing ------------------------------------------------------------------------------------


def _write(connection: Connection, book: Book, now: datetime) -> None:
    if book.entries:
        run_many(connection, statements.NEW_ENTRY, [_entry(entry, now) for entry in book.entries])
    if book.touched:
        changed = [
            {"of_user": user, "balance": book.balances[user]} for user in sorted(book.touched)
        ]
        run_many(connection, statements.CHANGED_BALANCE, changed)
    if book.opened:
        rows = [_opened(reservation, now) for reservation in book.opened.values()]
        run_many(connection, statements.NEW_RESERVATION, rows)
    if book.progressed:
        _write_progress(connection, book.progressed)
    if book.usage:
        _write_usage(connection, book.usage, now)
    for process_id in book.beats:
        _beat(connection, process_id, now)
    for process_id in book.farewells:
        run_one(connection, statements.FAREWELL, {"of_process": process_id})


def _entry(entry: Any, now: datetime) -> dict[str, Any]:
    return {
        "user_id": entry.user_id,
        "kind": entry.kind.value,
        "amount_nanousd": entry.amount_nanousd,
        "balance_nanousd": entry.balance_nanousd,
        "idempotency_key": entry.idempotency_key,
        "request_id": entry.request_id,
        "actor_id": entry.actor_id,
        "note": entry.note,
        "at": now,
    }


def _opened(reservation: Reservation, now: datetime) -> dict[str, Any]:
    rates, counts = reservation.rates, reservation.counts
    return {
        "id": reservation.id,
        "request_id": reservation.request_id,
        "process_id": reservation.process_id,
        "user_id": reservation.user_id,
        "key_id": reservation.key_id,
        "model": reservation.model,
        "protocol": reservation.protocol,
        "reserved_nanousd": reservation.reserved_nanousd,
        "input_nanousd": rates.input_nanousd,
        "cached_input_nanousd": rates.cached_input_nanousd,
        "output_nanousd": rates.output_nanousd,
        "max_tokens": reservation.max_tokens,
        "prompt_tokens": counts.prompt_tokens,
        "cached_tokens": counts.cached_tokens,
        "completion_tokens": counts.completion_tokens,
        "reasoning_tokens": counts.reasoning_tokens,
        "batch": reservation.batch,
        "created_at": now,
    }


def _write_progress(connection: Connection, progressed: dict[str, Counts]) -> None:
    rows = [
        {
            "of_id": reservation_id,
            "completion": counts.completion_tokens,
            "cached": counts.cached_tokens,
            "reasoning": counts.reasoning_tokens,
        }
        for reservation_id, counts in sorted(progressed.items())
    ]
    run_many(connection, statements.PROGRESSED, rows)


def _write_usage(connection: Connection, usage: list[NewUsage], now: datetime) -> None:
    for each in usage:
        if each.correction is not None:
            connection.execute(
                update(_USAGE).where(_USAGE.c.id == each.reservation.id), _used(each, now)
            )
    new = [_used(each, now) for each in usage if each.correction is None]
    if new:
        run_many(connection, statements.NEW_USAGE, new)
    _write_daily(connection, usage, now.date())


def _used(usage: NewUsage, now: datetime) -> dict[str, Any]:
    reservation, outcome = usage.reservation, usage.outcome
    return {
        "id": reservation.id,
        "request_id": reservation.request_id,
        "at": now,
        "user_id": reservation.user_id,
        "key_id": reservation.key_id,
        "model": reservation.model,
        "protocol": reservation.protocol,
        "status": outcome.status.value,
        "error": outcome.error,
        "cost_nanousd": usage.cost_nanousd,
        "first_token_ms": outcome.first_token_ms,
        "duration_ms": outcome.duration_ms,
        "tokens_per_second": outcome.tokens_per_second,
        "batch": reservation.batch,
        **_counted(usage.counts),
    }


def _counted(counts: Counts | Ended) -> dict[str, int]:
    return {name: getattr(counts, name) or 0 for name in COUNTED}


def _write_daily(connection: Connection, usage: list[NewUsage], today: date) -> None:
    """Add to the day's sums. A correction adds what it changes, to the day on which it is made."""
    sums: dict[tuple[str, str, str, str], dict[str, int]] = {}
    for each in usage:
        reservation = each.reservation
        group = (reservation.user_id, reservation.key_id, reservation.model, reservation.protocol)
        added = {"requests": 1, "cost_nanousd": each.cost_nanousd, **_counted(each.counts)}
        if each.correction is not None:
            before = {"requests": 1, "cost_nanousd": each.correction.cost_nanousd}
            before |= _counted(each.correction)
            added = {name: added[name] - before[name] for name in SUMMED}
        total = sums.setdefault(group, dict.fromkeys(SUMMED, 0))
        for name in SUMMED:
            total[name] += added[name]
    labels = ("user_id", "key_id", "model", "protocol")
    rows = [
        {"day": today, **dict(zip(labels, group, strict=True)), **total}
        for group, total in sorted(sums.items())
    ]
    run_many(connection, statements.GROWN_DAY[connection.dialect.name], rows)


def _beat(connection: Connection, process_id: str, now: datetime) -> None:
    row = {"id": process_id, "beat": 0, "started_at": now}
    run_one(connection, statements.NEXT_BEAT[connection.dialect.name], row)
