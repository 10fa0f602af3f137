"""The statements of a ledger commit, each made once. `journal` runs them; nothing else does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from sqlalchemy import Column, Date, String, Table

from osslo.accounts.ledger.tables import (
    BalanceRow,
    DailyUsageRow,
    EntryRow,
    ProcessRow,
    ReservationRow,
    UsageRow,
)
from osslo.db.prepared import ListStatement, RowStatement

_BALANCES = cast(Table, BalanceRow.__table__)
_ENTRIES = cast(Table, EntryRow.__table__)
_RESERVATIONS = cast(Table, ReservationRow.__table__)
_USAGE = cast(Table, UsageRow.__table__)
_DAILY = cast(Table, DailyUsageRow.__table__)
_PROCESSES = cast(Table, ProcessRow.__table__)

COUNTED = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
SUMMED = ("requests", *COUNTED, "cost_nanousd")


def _columns(table: Table, names: Iterable[str] | None = None) -> tuple[Column[Any], ...]:
    """Columns by name; without names all but those that the database counts up."""
    if names is None:
        return tuple(column for column in table.columns if column is not table.autoincrement_column)
    return tuple(table.c[name] for name in names)


def _named(columns: Iterable[Column[Any]]) -> str:
    return ", ".join(column.name for column in columns)


def _insert(table: Table, on_conflict: str = "") -> RowStatement:
    columns = _columns(table)
    names = _named(columns)
    text = f"INSERT INTO {table.name} ({names}) SELECT {names} FROM {{v}} WHERE true {on_conflict}"
    return RowStatement(columns, text)


def _update(table: Table, names: Iterable[str], *, unless: str = "false") -> RowStatement:
    """Set the columns `names` of rows that are found by their primary key."""
    (key,) = table.primary_key
    columns = _columns(table, names)
    changes = ", ".join(f"{column.name} = v.{column.name}" for column in columns)
    where = f"{table.name}.{key.name} = v.{key.name} AND NOT ({unless})"
    return RowStatement(
        (key, *columns), f"UPDATE {table.name} SET {changes} FROM {{v}} WHERE {where}"
    )


# --- writing -------------------------------------------------------------------------------------

_GROWN = ", ".join(f"{name} = {_DAILY.name}.{name} + excluded.{name}" for name in SUMMED)

NEW_BALANCE = _insert(_BALANCES, "ON CONFLICT DO NOTHING")
CHANGED_BALANCE = _update(_BALANCES, ("balance_nanousd",))
NEW_ENTRY = _insert(_ENTRIES)
NEW_RESERVATION = _insert(_RESERVATIONS)
PROGRESSED = _update(
    _RESERVATIONS,
    ("completion_tokens", "cached_tokens", "reasoning_tokens"),
    unless=f"{_RESERVATIONS.name}.completion_tokens > v.completion_tokens",
)
"""Counts only grow, so that a repeated commit cannot set one back."""
NEW_USAGE = _insert(_USAGE)
CORRECTED_USAGE = _update(
    _USAGE, (column.name for column in _columns(_USAGE) if column.name != "id")
)
GROWN_DAY = _insert(_DAILY, f"ON CONFLICT ({_named(_DAILY.primary_key)}) DO UPDATE SET {_GROWN}")
NEXT_BEAT = _insert(_PROCESSES, f"ON CONFLICT (id) DO UPDATE SET beat = {_PROCESSES.name}.beat + 1")
CLOSED = RowStatement(
    _columns(_RESERVATIONS, ("id",)),
    f"DELETE FROM {_RESERVATIONS.name} WHERE id IN (SELECT id FROM {{v}})",
)
FAREWELL = RowStatement(
    _columns(_PROCESSES, ("id",)),
    f"DELETE FROM {_PROCESSES.name} WHERE id IN (SELECT id FROM {{v}})",
)

# --- reading -------------------------------------------------------------------------------------

RESERVATION = tuple(column.name for column in _columns(_RESERVATIONS))
_RESERVATION = ", ".join(RESERVATION)

ENDED = ("id", "status", *COUNTED, "cost_nanousd")

BALANCES = ListStatement("SELECT user_id, balance_nanousd FROM balances WHERE user_id {listed}")
RESERVATIONS = ListStatement(f"SELECT {_RESERVATION} FROM reservations WHERE id {{listed}}")
RUNNING = ListStatement("SELECT id FROM reservations WHERE id {listed}")
LIMITS = ListStatement(
    "SELECT id, spending_limit_nanousd, spending_period FROM keys "
    "WHERE id {listed} AND spending_limit_nanousd IS NOT NULL"
)
ENDED_REQUESTS = ListStatement(
    f"SELECT {', '.join(ENDED)} FROM usage WHERE id {{listed}} {{locked}}"
)
POSTED = ListStatement(
    "SELECT idempotency_key, user_id, kind, amount_nanousd FROM ledger_entries "
    "WHERE idempotency_key {listed}"
)
SPENT = RowStatement(
    (Column("key_id", String(64)), Column("since", Date)),
    "SELECT v.key_id,"
    " (SELECT coalesce(sum(cost_nanousd), 0) FROM usage_daily d"
    " WHERE d.key_id = v.key_id AND d.day >= v.since)"
    " + (SELECT coalesce(sum(reserved_nanousd), 0) FROM reservations r"
    " WHERE r.key_id = v.key_id) FROM {v}",
)

# --- PostgreSQL's ways to save round trips -------------------------------------------------------


def _seen(lock: str) -> str:
    return f"""
WITH held AS MATERIALIZED (
    SELECT user_id, balance_nanousd, xmin::text AS version FROM balances
    WHERE user_id = ANY($1::text[]) ORDER BY user_id {lock}
), ending AS MATERIALIZED (
    SELECT {_RESERVATION}, xmin::text AS version FROM reservations
    WHERE id = ANY($2::text[]) ORDER BY id {lock}
), running AS MATERIALIZED (
    SELECT id, xmin::text AS version FROM reservations
    WHERE id = ANY($3::text[]) ORDER BY id {lock}
)
SELECT now(),
    (SELECT json_agg(json_build_array(user_id, balance_nanousd, version)) FROM held),
    (SELECT json_agg(json_build_array({_RESERVATION}, version)) FROM ending),
    (SELECT json_agg(json_build_array(id, version)) FROM running),
    (SELECT json_agg(json_build_array(id, spending_limit_nanousd, spending_period))
     FROM keys WHERE id = ANY($4::text[]) AND spending_limit_nanousd IS NOT NULL)
"""


SEEN = _seen("")
"""The moment, and what BALANCES, RESERVATIONS, RUNNING and LIMITS give, the rows of the first three
with their version: the transaction that wrote them last."""

LOCKED = _seen("FOR UPDATE")
"""The same, locked in this order. What it waited for is as it is now, all else as it was when the
statement began."""

SAME_BALANCES = RowStatement(
    (Column("user_id", String(64)), Column("version", String(16))),
    "SELECT 1 FROM balances b JOIN {v} ON b.user_id = v.user_id AND b.xmin::text = v.version"
    " ORDER BY b.user_id FOR UPDATE OF b",
)
SAME_RESERVATIONS = RowStatement(
    (Column("id", String(64)), Column("version", String(16))),
    "SELECT 1 FROM reservations r JOIN {v} ON r.id = v.id AND r.xmin::text = v.version"
    " ORDER BY r.id FOR UPDATE OF r",
)
"""Lock those rows that still have the version which was seen."""
