"""The statements of a ledger commit, each made once. `journal` runs them; nothing else does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, cast

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    CursorResult,
    Date,
    Table,
    bindparam,
    delete,
    func,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.expression import ClauseElement

from osslo.accounts.ledger.tables import (
    BalanceRow,
    DailyUsageRow,
    EntryRow,
    ProcessRow,
    ReservationRow,
    UsageRow,
)
from osslo.accounts.tables import KeyRow
from osslo.db.prepared import run_one

_BALANCES = cast(Table, BalanceRow.__table__)
_ENTRIES = cast(Table, EntryRow.__table__)
_RESERVATIONS = cast(Table, ReservationRow.__table__)
_USAGE = cast(Table, UsageRow.__table__)
_DAILY = cast(Table, DailyUsageRow.__table__)
_PROCESSES = cast(Table, ProcessRow.__table__)
_KEYS = cast(Table, KeyRow.__table__)

COUNTED = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
SUMMED = ("requests", *COUNTED, "cost_nanousd")

# --- with a fixed number of parameters -----------------------------------------------------------

Insert = postgresql.Insert | sqlite.Insert
InsertInto = Callable[[Table], Insert]
ByDialect = Mapping[str, ClauseElement]
"""An INSERT that says what happens on a conflict, for each dialect; both spell it alike."""


def _by_dialect(make: Callable[[InsertInto], ClauseElement]) -> ByDialect:
    return MappingProxyType({"sqlite": make(sqlite.insert), "postgresql": make(postgresql.insert)})


def _grown_day(insert: InsertInto) -> ClauseElement:
    new = insert(_DAILY)
    grown = {name: _DAILY.c[name] + new.excluded[name] for name in SUMMED}
    return new.on_conflict_do_update(index_elements=list(_DAILY.primary_key), set_=grown)


def _next_beat(insert: InsertInto) -> ClauseElement:
    return insert(_PROCESSES).on_conflict_do_update(
        index_elements=[_PROCESSES.c.id], set_={"beat": _PROCESSES.c.beat + 1}
    )


def _spent() -> ClauseElement:
    charged = select(func.coalesce(func.sum(_DAILY.c.cost_nanousd), 0)).where(
        _DAILY.c.key_id == bindparam("of_key"), _DAILY.c.day >= bindparam("since", type_=Date)
    )
    reserved = select(func.coalesce(func.sum(_RESERVATIONS.c.reserved_nanousd), 0)).where(
        _RESERVATIONS.c.key_id == bindparam("of_key")
    )
    return select(
        charged.scalar_subquery().label("charged"), reserved.scalar_subquery().label("reserved")
    )


NOW = select(func.now().label("moment"))
SPENT = _spent()
NEW_ENTRY = _ENTRIES.insert().inline()
NEW_RESERVATION = _RESERVATIONS.insert().inline()
NEW_USAGE = _USAGE.insert().inline()
NEW_BALANCE = _by_dialect(lambda insert: insert(_BALANCES).on_conflict_do_nothing())
GROWN_DAY = _by_dialect(_grown_day)
NEXT_BEAT = _by_dialect(_next_beat)
FAREWELL = delete(_PROCESSES).where(_PROCESSES.c.id == bindparam("of_process"))
CHANGED_BALANCE = (
    update(_BALANCES)
    .where(_BALANCES.c.user_id == bindparam("of_user"))
    .values(balance_nanousd=bindparam("balance"))
)
PROGRESSED = (
    update(_RESERVATIONS)
    .where(_RESERVATIONS.c.id == bindparam("of_id"))
    .where(_RESERVATIONS.c.completion_tokens <= bindparam("completion"))
    .values(
        completion_tokens=bindparam("completion"),
        cached_tokens=bindparam("cached"),
        reasoning_tokens=bindparam("reasoning"),
    )
)
"""Counts only grow, so that a repeated commit cannot set one back."""

# --- about so many values, whose parameters are v0, v1, … -----------------------------------------

Among = Callable[[int], ClauseElement]

_LIMIT_COLUMNS = (_KEYS.c.id, _KEYS.c.spending_limit_nanousd, _KEYS.c.spending_period)


def _in(column: Column[Any], size: int) -> ColumnElement[bool]:
    return column.in_([bindparam(f"v{number}", type_=column.type) for number in range(size)])


def _has_limit(size: int) -> ColumnElement[bool]:
    return _in(_KEYS.c.id, size) & _KEYS.c.spending_limit_nanousd.is_not(None)


@cache
def limited_keys(size: int) -> ClauseElement:
    """Keys that have a spending limit."""
    return select(*_LIMIT_COLUMNS).where(_has_limit(size))


@cache
def now_and_limited_keys(size: int) -> ClauseElement:
    """The same with the database's moment, in at least one row."""
    one = select(func.now().label("moment")).subquery()
    both = select(one.c.moment, *_LIMIT_COLUMNS)
    return both.select_from(one.outerjoin(_KEYS, _has_limit(size)))


@cache
def locked_balances(size: int) -> ClauseElement:
    """Balances of users, locked in the order that all writers keep to."""
    columns = _BALANCES.c
    return (
        select(columns.user_id, columns.balance_nanousd)
        .where(_in(columns.user_id, size))
        .order_by(columns.user_id)
        .with_for_update()
    )


@cache
def taken_reservations(size: int) -> ClauseElement:
    """Delete reservations and give what they were."""
    query = delete(_RESERVATIONS).where(_in(_RESERVATIONS.c.id, size))
    return query.returning(_RESERVATIONS)


@cache
def locked_reservations(size: int) -> ClauseElement:
    """The ids of open reservations, locked in the order that all writers keep to."""
    identity = _RESERVATIONS.c.id
    return select(identity).where(_in(identity, size)).order_by(identity).with_for_update()


@cache
def reservations(size: int) -> ClauseElement:
    """Open reservations."""
    return select(_RESERVATIONS).where(_in(_RESERVATIONS.c.id, size))


@cache
def ended_requests(size: int) -> ClauseElement:
    """Usage rows, locked."""
    return select(_USAGE).where(_in(_USAGE.c.id, size)).with_for_update()


@cache
def posted_entries(size: int) -> ClauseElement:
    """Entries by their idempotency keys."""
    columns = _ENTRIES.c
    query = select(columns.idempotency_key, columns.user_id, columns.kind, columns.amount_nanousd)
    return query.where(_in(columns.idempotency_key, size))


def among(connection: Connection, statement: Among, values: Iterable[str]) -> CursorResult[Any]:
    """Run a statement about `values`, sorted, and the last repeated up to a power of two, so that
    statements come in few lengths and databases keep them prepared."""
    listed = sorted(values)
    size = 1 << max(0, len(listed) - 1).bit_length()
    listed += listed[-1:] * (size - len(listed))
    row = {f"v{number}": value for number, value in enumerate(listed)}
    return run_one(connection, statement(size), row)
