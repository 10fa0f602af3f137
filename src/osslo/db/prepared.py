"""Statements about many rows at once, as text that is made once and run by the driver's own cursor.

SQLAlchemy builds, caches and adapts a statement again at each execution, which takes several times
as long as SQLite takes to run it. What is run thousands of times a second goes this way instead.

A `RowStatement` knows its rows as a table `v`. SQLite runs a statement once for each row or value,
which costs next to nothing there; PostgreSQL, where each round trip does, gets all rows as one
array a column, and several statements in one. Values are converted on their way in as SQLAlchemy
would; what comes back is as the driver gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Column, Connection, Dialect, String
from sqlalchemy.dialects import postgresql

Row = Mapping[str, Any]
Fetched = Sequence[tuple[Any, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class RowStatement:
    """`text` has `{v}` where a FROM clause names the rows, whose columns are `columns`."""

    columns: tuple[Column[Any], ...]
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class ListStatement:
    """`text` has `{listed}` where a condition says that a value is among those that are asked for
    (`WHERE id {listed}`), and may have `{locked}` where PostgreSQL is to lock what it finds."""

    text: str


Writes = Sequence[tuple[RowStatement, Sequence[Row]]]


def write(connection: Connection, writes: Writes) -> None:
    """Run each statement on its rows. On PostgreSQL none of them sees what another one does."""
    writes = [(statement, rows) for statement, rows in writes if rows]
    if not writes:
        return
    cursor = _cursor(connection)
    if connection.dialect.name == "sqlite":
        for statement, rows in writes:
            values = _values(statement, connection.dialect, rows)
            cursor.executemany(_sqlite_text(statement), values)
        return
    cursor.execute(
        _postgres_text(tuple(statement for statement, _ in writes)),
        _arrays(writes, connection.dialect),
    )


def write_if(connection: Connection, guards: Writes, writes: Writes) -> bool:
    """PostgreSQL only: the same, in one statement, if each guard gives as many rows as it has;
    whether it was so. Guards are read first, in their order, and may lock what they find."""
    guards = [(statement, rows) for statement, rows in guards if rows]
    writes = [(statement, rows) for statement, rows in writes if rows]
    if not writes:
        return True
    text = _guarded_text(
        tuple(statement for statement, _ in guards), tuple(statement for statement, _ in writes)
    )
    arrays = _arrays([*guards, *writes], connection.dialect)
    (holds,) = fetch_one(connection, text, [*arrays, *(len(rows) for _, rows in guards)])
    return bool(holds)


def fetch(connection: Connection, statement: RowStatement, rows: Sequence[Row]) -> Fetched:
    """What the statement gives for its rows."""
    cursor = _cursor(connection)
    if connection.dialect.name == "sqlite":
        text = _sqlite_text(statement)
        values = _values(statement, connection.dialect, rows)
        return [row for each in values for row in cursor.execute(text, each)]
    cursor.execute(_postgres_text((statement,)), _arrays([(statement, rows)], connection.dialect))
    return list(cursor.fetchall())


def fetch_listed(
    connection: Connection, statement: ListStatement, values: Iterable[str]
) -> Fetched:
    """What the statement gives for `values`."""
    listed = sorted(values)
    cursor = _cursor(connection)
    if connection.dialect.name == "sqlite":
        text = _listed_text(statement, "= ?", locked="")
        found: list[tuple[Any, ...]] = []
        for value in listed:
            cursor.execute(text, (value,))
            found += cursor.fetchall()
        return found
    cursor.execute(_listed_text(statement, "= ANY($1::text[])", locked="FOR UPDATE"), (listed,))
    return list(cursor.fetchall())


def fetch_one(connection: Connection, text: str, values: Sequence[Any]) -> tuple[Any, ...]:
    """The one row of a statement in the database's own words."""
    cursor = _cursor(connection)
    cursor.execute(text, values)
    (row,) = cursor.fetchall()
    return tuple(row)


def _cursor(connection: Connection) -> Any:
    return connection.connection.cursor()


def _values(
    statement: RowStatement, dialect: Dialect, rows: Sequence[Row]
) -> list[tuple[Any, ...]]:
    converters = _converters(statement, dialect)
    return [
        tuple(row[name] if convert is None else convert(row[name]) for name, convert in converters)
        for row in rows
    ]


@lru_cache(maxsize=256)
def _converters(
    statement: RowStatement, dialect: Dialect
) -> tuple[tuple[str, Callable[[Any], Any] | None], ...]:
    kinds = [column.type.dialect_impl(dialect) for column in statement.columns]
    return tuple(
        (column.name, kind.bind_processor(dialect))
        for column, kind in zip(statement.columns, kinds, strict=True)
    )


@lru_cache(maxsize=256)
def _listed_text(statement: ListStatement, listed: str, *, locked: str) -> str:
    return statement.text.format(listed=listed, locked=locked)


@lru_cache(maxsize=256)
def _sqlite_text(statement: RowStatement) -> str:
    values = ", ".join(f"? AS {column.name}" for column in statement.columns)
    return statement.text.format(v=f"(SELECT {values}) AS v")


def _arrays(writes: Writes, dialect: Dialect) -> list[list[Any]]:
    values = [_values(statement, dialect, rows) for statement, rows in writes]
    return [list(column) for tuples in values for column in zip(*tuples, strict=True)]


@lru_cache(maxsize=256)
def _postgres_text(statements: tuple[RowStatement, ...]) -> str:
    texts = _numbered(statements, ["unnest({arrays}) AS v({names})"] * len(statements))
    if len(texts) == 1:
        return texts[0]
    parts = ", ".join(f"w{number} AS ({text})" for number, text in enumerate(texts))
    return f"WITH {parts} SELECT 1"


@lru_cache(maxsize=256)
def _guarded_text(guards: tuple[RowStatement, ...], statements: tuple[RowStatement, ...]) -> str:
    rows = "unnest({arrays}) AS v({names})"
    rows_if = f"(SELECT * FROM {rows} WHERE (SELECT holds FROM guard)) AS v"
    texts = _numbered((*guards, *statements), [rows] * len(guards) + [rows_if] * len(statements))
    first = 1 + sum(len(statement.columns) for statement in (*guards, *statements))
    parts = [
        f"g{number} AS MATERIALIZED ({text})" for number, text in enumerate(texts[: len(guards)])
    ]
    counted = (
        f"(SELECT count(*) FROM g{number}) = ${first + number}::int"
        for number in range(len(guards))
    )
    parts.append(f"guard AS MATERIALIZED (SELECT {' AND '.join(counted) or 'true'} AS holds)")
    parts += [f"w{number} AS ({text})" for number, text in enumerate(texts[len(guards) :])]
    return f"WITH {', '.join(parts)} SELECT holds FROM guard"


def _numbered(statements: tuple[RowStatement, ...], forms: Sequence[str]) -> list[str]:
    """Texts whose parameters are numbered through; a form says what stands for the rows."""
    texts, taken = [], 0
    for statement, form in zip(statements, forms, strict=True):
        numbered = enumerate(statement.columns, taken + 1)
        arrays = ", ".join(f"${number}::{_postgres_type(column)}[]" for number, column in numbered)
        names = ", ".join(column.name for column in statement.columns)
        texts.append(statement.text.format(v=form.format(arrays=arrays, names=names)))
        taken += len(statement.columns)
    return texts


def _postgres_type(column: Column[Any]) -> str:
    """A text's length is left to the table, for a cast would cut what is too long."""
    if isinstance(column.type, String):
        return "text"
    return str(column.type.compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]
