"""A ledger commit: loads what a batch of operations needs, lets the `Book` apply them, and writes
what it says. Runs on a synchronous connection.

On PostgreSQL each round trip takes as long as everything that SQLite does: there a batch is tried
without a transaction around it first, in two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection

from osslo.accounts.ledger import statements
from osslo.accounts.ledger.book import Book, Ended, NewEntry, NewUsage
from osslo.accounts.ledger.loading import Asked, load, loaded_from, look
from osslo.accounts.ledger.operations import Operation, Result
from osslo.accounts.ledger.records import Counts, Reservation
from osslo.accounts.ledger.statements import COUNTED, SUMMED
from osslo.db.prepared import Row, Writes, write, write_if


def commit(
    connection: Connection, operations: Sequence[Operation], *, again: bool = False
) -> list[Result]:
    """Apply `operations` in order and return what each gives, inside a write transaction.

    `again` says that an earlier try may have been committed without our learning of it.
    """
    loaded, now = load(connection, Asked.by(operations), again=again)
    book = Book(loaded)
    results = [book.apply(operation) for operation in operations]
    write(connection, _writes(book, now))
    return results


def commit_at_once(connection: Connection, operations: Sequence[Operation]) -> list[Result] | None:
    """The same on PostgreSQL where each statement commits by itself: look, and write if nothing
    that was seen has changed meanwhile. None, and nothing written, where it has, or where more must
    be known than one look gives.

    What keys have spent has no version of its own. It belongs to a user, and nobody changes it
    without writing that user's balance anew.
    """
    asked = Asked.by(operations)
    if asked.posts or asked.late:
        return None
    seen = look(connection, asked, lock=False)
    if asked.unknown(seen):
        return None
    book = Book(loaded_from(connection, seen))
    results = [book.apply(operation) for operation in operations]
    return results if write_if(connection, seen.versions, _writes(book, seen.now)) else None


def _writes(book: Book, now: datetime) -> Writes:
    """Every balance that was loaded is written, moved or not: its version tells others that its
    user's books have changed."""
    used, corrected = _used_rows(book.usage, now)
    changed = [
        {"user_id": user, "balance_nanousd": book.balances[user]} for user in sorted(book.balances)
    ]
    return [
        (statements.NEW_ENTRY, [_entry(entry, now) for entry in book.entries]),
        (statements.CHANGED_BALANCE, changed),
        (statements.NEW_RESERVATION, [_opened(each, now) for each in book.opened.values()]),
        (statements.PROGRESSED, _progressed(book.progressed)),
        (statements.CLOSED, [{"id": identity} for identity in book.closed]),
        (statements.NEW_USAGE, used),
        (statements.CORRECTED_USAGE, corrected),
        (statements.GROWN_DAY, _grown(book.usage, now.date())),
        (statements.NEXT_BEAT, [_beat(each, now) for each in book.beats - book.farewells]),
        (statements.FAREWELL, [{"id": process_id} for process_id in book.farewells]),
    ]


def _entry(entry: NewEntry, now: datetime) -> dict[str, Any]:
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


def _progressed(progressed: dict[str, Counts]) -> list[Row]:
    return [
        {
            "id": reservation_id,
            "completion_tokens": counts.completion_tokens,
            "cached_tokens": counts.cached_tokens,
            "reasoning_tokens": counts.reasoning_tokens,
        }
        for reservation_id, counts in sorted(progressed.items())
    ]


def _used_rows(usage: list[NewUsage], now: datetime) -> tuple[list[Row], list[Row]]:
    """The rows that are new, and those that take the place of one on record, once each: what a
    batch corrects may be its own."""
    new: dict[str, Row] = {}
    corrected: dict[str, Row] = {}
    for each in usage:
        identity = each.reservation.id
        is_new = each.correction is None or identity in new
        (new if is_new else corrected)[identity] = _used(each, now)
    return list(new.values()), list(corrected.values())


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


def _grown(usage: list[NewUsage], today: date) -> list[Row]:
    """What is added to the day's sums. A correction adds what it changes, to the day on which it is
    made."""
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
    return [
        {"day": today, **dict(zip(labels, group, strict=True)), **total}
        for group, total in sorted(sums.items())
    ]


def _beat(process_id: str, now: datetime) -> Row:
    return {"id": process_id, "beat": 0, "started_at": now}
