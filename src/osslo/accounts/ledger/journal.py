"""The SQL of a commit: loads and locks the rows that a batch of operations needs, lets the `Book`
apply them, and writes what it says. Runs on a synchronous connection inside a write transaction.

Locks are taken in one order everywhere (balances by user, then reservations by id), so that
replicas wait for each other instead of dying in deadlocks. On PostgreSQL a batch is few round
trips, because each takes about as long as everything that SQLite does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Any, cast

from sqlalchemy import Connection, Table, bindparam, delete, func, select, true, update
from sqlalchemy.dialects import postgresql, sqlite

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
from osslo.accounts.ledger.tables import (
    BalanceRow,
    DailyUsageRow,
    EntryRow,
    ProcessRow,
    ReservationRow,
    UsageRow,
)
from osslo.accounts.records import SpendingPeriod
from osslo.accounts.tables import KeyRow

_BALANCES = cast(Table, BalanceRow.__table__)
_ENTRIES = cast(Table, EntryRow.__table__)
_RESERVATIONS = cast(Table, ReservationRow.__table__)
_USAGE = cast(Table, UsageRow.__table__)
_DAILY = cast(Table, DailyUsageRow.__table__)
_PROCESSES = cast(Table, ProcessRow.__table__)
_KEYS = cast(Table, KeyRow.__table__)

_COUNTED = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")


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
    on_sqlite = connection.dialect.name == "sqlite"
    columns = (_KEYS.c.id, _KEYS.c.spending_limit_nanousd, _KEYS.c.spending_period)
    has_limit = _KEYS.c.id.in_(_among(keys)) & _KEYS.c.spending_limit_nanousd.is_not(None)
    if on_sqlite:
        now = datetime.now(UTC)
        query = select(*columns).where(has_limit)
        return now, _limits(connection.execute(query) if keys else (), now.date())
    if not keys:
        return connection.execute(select(func.now())).scalar_one().astimezone(UTC), {}
    one = select(func.now().label("moment")).subquery()
    both = select(one.c.moment, *columns).select_from(one.outerjoin(_KEYS, has_limit))
    rows = connection.execute(both).all()
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


def _among(values: Iterable[str]) -> list[str]:
    """The values, sorted, and the last repeated up to a power of two, so that statements come in
    few lengths and databases keep them prepared."""
    listed = sorted(values)
    size = 1 << max(0, len(listed) - 1).bit_length()
    return listed + listed[-1:] * (size - len(listed))


def _make_balances(connection: Connection, users: list[str]) -> None:
    new = _insert(connection, _BALANCES).on_conflict_do_nothing()
    connection.execute(new, [{"user_id": user, "balance_nanousd": 0} for user in users])


def _balances(connection: Connection, users: list[str]) -> dict[str, int]:
    query = (
        select(_BALANCES.c.user_id, _BALANCES.c.balance_nanousd)
        .where(_BALANCES.c.user_id.in_(_among(users)))
        .order_by(_BALANCES.c.user_id)
        .with_for_update()
    )
    return {row.user_id: row.balance_nanousd for row in connection.execute(query)}


def _take_reservations(connection: Connection, ids: set[str]) -> dict[str, Reservation]:
    """Delete the reservations and give what they were: none can be taken twice."""
    query = delete(_RESERVATIONS).where(_RESERVATIONS.c.id.in_(_among(ids)))
    rows = connection.execute(query.returning(_RESERVATIONS))
    return {row.id: _reservation(row) for row in rows}


def _running(connection: Connection, ids: set[str]) -> set[str]:
    """Which of them are open, and stay so until this transaction ends."""
    if not ids:
        return set()
    query = select(_RESERVATIONS.c.id).where(_RESERVATIONS.c.id.in_(_among(ids)))
    rows = connection.execute(query.order_by(_RESERVATIONS.c.id).with_for_update())
    return set(rows.scalars())


def _known_reservations(connection: Connection, ids: set[str]) -> dict[str, Reservation]:
    if not ids:
        return {}
    query = select(_RESERVATIONS).where(_RESERVATIONS.c.id.in_(_among(ids)))
    return {row.id: _reservation(row) for row in connection.execute(query)}


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
        batch=row.batch,
    )


def _ended(connection: Connection, ids: set[str]) -> dict[str, Ended]:
    query = select(_USAGE).where(_USAGE.c.id.in_(_among(ids))).with_for_update()
    return {
        row.id: Ended(
            status=Status(row.status),
            prompt_tokens=row.prompt_tokens,
            cached_tokens=row.cached_tokens,
            completion_tokens=row.completion_tokens,
            reasoning_tokens=row.reasoning_tokens,
            cost_nanousd=row.cost_nanousd,
        )
        for row in connection.execute(query)
    }


def _posted(connection: Connection, keys: set[str]) -> dict[str, tuple[str, str, int]]:
    columns = _ENTRIES.c
    query = select(columns.idempotency_key, columns.user_id, columns.kind, columns.amount_nanousd)
    rows = connection.execute(query.where(columns.idempotency_key.in_(_among(keys))))
    return {row.idempotency_key: (row.user_id, row.kind, row.amount_nanousd) for row in rows}


def spent_nanousd(connection: Connection, key_id: str, rule: SpendingRule) -> int:
    """What a key has spent since the rule's first day, with what running requests put aside."""
    since = true() if rule.since is None else _DAILY.c.day >= rule.since
    charged = select(func.coalesce(func.sum(_DAILY.c.cost_nanousd), 0)).where(
        _DAILY.c.key_id == key_id, since
    )
    reserved = select(func.coalesce(func.sum(_RESERVATIONS.c.reserved_nanousd), 0)).where(
        _RESERVATIONS.c.key_id == key_id
    )
    row = connection.execute(
        select(charged.scalar_subquery().label("a"), reserved.scalar_subquery().label("b"))
    ).one()
    return int(row.a) + int(row.b)


# --- writing ------------------------------------------------------------------------------------


def _write(connection: Connection, book: Book, now: datetime) -> None:
    if book.entries:
        connection.execute(_ENTRIES.insert(), [_entry(entry, now) for entry in book.entries])
    if book.touched:
        new = update(_BALANCES).where(_BALANCES.c.user_id == bindparam("of_user"))
        changed = [
            {"of_user": user, "balance_nanousd": book.balances[user]}
            for user in sorted(book.touched)
        ]
        connection.execute(new, changed)
    if book.opened:
        rows = [_opened(reservation, now) for reservation in book.opened.values()]
        connection.execute(_RESERVATIONS.insert(), rows)
    if book.progressed:
        _write_progress(connection, book.progressed)
    if book.usage:
        _write_usage(connection, book.usage, now)
    for process_id in book.beats:
        _beat(connection, process_id, now)
    for process_id in book.farewells:
        connection.execute(delete(_PROCESSES).where(_PROCESSES.c.id == process_id))


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
    """Counts only grow, so that a repeated commit cannot set one back."""
    columns = _RESERVATIONS.c
    new = (
        update(_RESERVATIONS)
        .where(columns.id == bindparam("of_id"))
        .where(columns.completion_tokens <= bindparam("completion"))
        .values(
            completion_tokens=bindparam("completion"),
            cached_tokens=bindparam("cached"),
            reasoning_tokens=bindparam("reasoning"),
        )
    )
    rows = [
        {
            "of_id": reservation_id,
            "completion": counts.completion_tokens,
            "cached": counts.cached_tokens,
            "reasoning": counts.reasoning_tokens,
        }
        for reservation_id, counts in sorted(progressed.items())
    ]
    connection.execute(new, rows)


def _write_usage(connection: Connection, usage: list[NewUsage], now: datetime) -> None:
    for each in usage:
        if each.correction is not None:
            connection.execute(
                update(_USAGE).where(_USAGE.c.id == each.reservation.id), _used(each, now)
            )
    new = [_used(each, now) for each in usage if each.correction is None]
    if new:
        connection.execute(_USAGE.insert(), new)
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
    return {name: getattr(counts, name) or 0 for name in _COUNTED}


def _write_daily(connection: Connection, usage: list[NewUsage], today: date) -> None:
    """Add to the day's sums. A correction adds what it changes, to the day on which it is made."""
    sums: dict[tuple[str, str, str, str], dict[str, int]] = {}
    names = ("requests", *_COUNTED, "cost_nanousd")
    for each in usage:
        reservation = each.reservation
        group = (reservation.user_id, reservation.key_id, reservation.model, reservation.protocol)
        added = {"requests": 1, "cost_nanousd": each.cost_nanousd, **_counted(each.counts)}
        if each.correction is not None:
            before = {"requests": 1, "cost_nanousd": each.correction.cost_nanousd}
            before |= _counted(each.correction)
            added = {name: added[name] - before[name] for name in names}
        total = sums.setdefault(group, dict.fromkeys(names, 0))
        for name in names:
            total[name] += added[name]
    new = _insert(connection, _DAILY)
    grown = {name: _DAILY.c[name] + new.excluded[name] for name in names}
    upsert = new.on_conflict_do_update(index_elements=list(_DAILY.primary_key), set_=grown)
    labels = ("user_id", "key_id", "model", "protocol")
    rows = [
        {"day": today, **dict(zip(labels, group, strict=True)), **total}
        for group, total in sorted(sums.items())
    ]
    connection.execute(upsert, rows)


def _beat(connection: Connection, process_id: str, now: datetime) -> None:
    new = _insert(connection, _PROCESSES)
    upsert = new.on_conflict_do_update(
        index_elements=[_PROCESSES.c.id], set_={"beat": _PROCESSES.c.beat + 1}
    )
    connection.execute(upsert, {"id": process_id, "beat": 0, "started_at": now})


def _insert(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that can say what happens on a conflict, which both dialects spell alike."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)
