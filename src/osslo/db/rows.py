"""Every row of a database as lines of JSON, and back, the same for SQLite and PostgreSQL.

Values that JSON has no word for are tagged: `{"$time": …}`, `{"$date": …}`, `{"$bytes": …}`,
`{"$json": …}`. Rows are written into the tables as the database has them, so that lines of an older
schema can be loaded into that schema. Knows nothing of files: see `osslo.backup`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from itertools import islice
from typing import Any

from sqlalchemy import (
    JSON,
    Connection,
    MetaData,
    Table,
    Text,
    cast,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.schema import ForeignKeyConstraint

_AT_ONCE = 500
_VERSION_TABLE = "alembic_version"


def tables_of(connection: Connection) -> list[Table]:
    """The tables that the database has, those that others refer to first."""
    metadata = MetaData()
    metadata.reflect(connection)
    tables = [table for table in metadata.sorted_tables if table.name != _VERSION_TABLE]
    for table in tables:
        for column in table.columns:
            if isinstance(column.type, JSON):
                column.type.none_as_null = True
    return tables


def is_used(connection: Connection) -> bool:
    """Whether the database holds users, money, or anything else than a fresh one does."""
    tables = {table.name: table for table in tables_of(connection)}
    looked_at = (tables[name] for name in ("users", "ledger_entries", "usage") if name in tables)
    return any(connection.execute(select(table).limit(1)).first() for table in looked_at)


def drop_all(connection: Connection) -> None:
    """Drop every table, and what belongs to them."""
    metadata = MetaData()
    metadata.reflect(connection)
    metadata.drop_all(connection)
    if connection.dialect.name == "postgresql":
        connection.execute(text("DROP FUNCTION IF EXISTS osslo_append_only()"))


def beats(connection: Connection) -> dict[str, int]:
    """The beats of the processes that are known to have served from this database."""
    tables = {table.name: table for table in tables_of(connection)}
    if "ledger_processes" not in tables:
        return {}
    return {row.id: row.beat for row in connection.execute(select(tables["ledger_processes"]))}


def count_rows(connection: Connection, table: Table) -> int:
    """How many rows there are."""
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def dump(connection: Connection, table: Table) -> Iterator[bytes]:
    """The rows of a table, a line each, by primary key."""
    json_columns = {column.name for column in table.columns if isinstance(column.type, JSON)}
    columns = [
        cast(column, Text).label(column.name) if column.name in json_columns else column
        for column in table.columns
    ]
    query = select(*columns).order_by(*table.primary_key)
    found = connection.execute(query, execution_options={"yield_per": _AT_ONCE})
    for row in found.mappings():
        values = {
            name: {"$json": value} if name in json_columns and value is not None else _plain(value)
            for name, value in row.items()
        }
        yield json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def load(connection: Connection, table: Table, lines: Iterable[bytes]) -> int:
    """Insert lines into an empty table; how many. References of a table to itself are filled in
    last, for a row may refer to one that comes later."""
    (identity, *_) = table.primary_key
    own = [
        constraint.column_keys[0]
        for constraint in table.constraints
        if isinstance(constraint, ForeignKeyConstraint) and constraint.referred_table is table
    ]
    later: list[dict[str, Any]] = []
    rows = (json.loads(line, object_hook=_untagged) for line in lines)
    total = 0
    while part := list(islice(rows, _AT_ONCE)):
        for row in part:
            for name in own:
                if row[name] is not None:
                    later.append({"of_key": row[identity.name], name: row[name]})
                    row[name] = None
        connection.execute(insert(table), part)
        total += len(part)
    for row in later:
        (name,) = row.keys() - {"of_key"}
        change = update(table).where(identity == row["of_key"])
        connection.execute(change.values({name: row[name]}))
    _continue_numbers(connection, table)
    return total


def wrong_balances(connection: Connection) -> list[str]:
    """Users whose balance is not the sum of their ledger entries."""
    rows = connection.execute(
        text(
            "SELECT b.user_id FROM balances b WHERE b.balance_nanousd <> (SELECT "
            "COALESCE(SUM(e.amount_nanousd), 0) FROM ledger_entries e WHERE e.user_id = b.user_id)"
        )
    )
    return [str(row.user_id) for row in rows]


def _continue_numbers(connection: Connection, table: Table) -> None:
    """Let numbers that PostgreSQL counts up go on after the ones that were inserted."""
    if connection.dialect.name != "postgresql":
        return
    for column in table.primary_key:
        sequence = connection.execute(
            select(func.pg_get_serial_sequence(table.name, column.name))
        ).scalar_one()
        highest = select(func.max(column)).scalar_subquery()
        if sequence is not None:
            connection.execute(select(func.setval(sequence, func.coalesce(highest, 1))))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return {"$time": aware.astimezone(UTC).isoformat()}
    if isinstance(value, date):
        return {"$date": value.isoformat()}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    return value


def _untagged(tagged: dict[str, Any]) -> Any:
    if len(tagged) != 1:
        return tagged
    ((tag, value),) = tagged.items()
    match tag:
        case "$json":
            return JSON.NULL if value == "null" else json.loads(value)
        case "$time":
            return datetime.fromisoformat(value)
        case "$date":
            return date.fromisoformat(value)
        case "$bytes":
            return base64.b64decode(value)
        case _:
            return tagged
