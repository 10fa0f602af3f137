"""Statements that are compiled once and then run by their text.

SQLAlchemy builds, caches and adapts a statement again at each execution, which takes several times
as long as SQLite takes to run it. What is run thousands of times a second goes this way instead.
Values are converted on their way in as always; rows come back as the driver gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, CursorResult, Dialect
from sqlalchemy.sql.expression import ClauseElement

_KEPT = 2048


@dataclass(frozen=True, slots=True)
class _Compiled:
    text: str
    names: tuple[str, ...]
    converters: tuple[Callable[[Any], Any] | None, ...]
    literals: Mapping[str, Any]

    def values(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        given = {**self.literals, **row} if self.literals else row
        return tuple(
            given[name] if convert is None else convert(given[name])
            for name, convert in zip(self.names, self.converters, strict=True)
        )


def run_one(
    connection: Connection, statement: ClauseElement, row: Mapping[str, Any]
) -> CursorResult[Any]:
    """Run `statement`, which is made once and kept, with the values of its parameters."""
    compiled = _compiled(statement, connection.dialect, tuple(row))
    return connection.exec_driver_sql(compiled.text, compiled.values(row))


def run_many(
    connection: Connection, statement: ClauseElement, rows: Sequence[Mapping[str, Any]]
) -> None:
    """The same for each of `rows`, which have the same names. Nothing comes back."""
    compiled = _compiled(statement, connection.dialect, tuple(rows[0]))
    values = [compiled.values(row) for row in rows]
    connection.exec_driver_sql(compiled.text, values if len(values) > 1 else values[0])


@lru_cache(maxsize=_KEPT)
def _compiled(statement: ClauseElement, dialect: Dialect, names: tuple[str, ...]) -> _Compiled:
    compiled: Any = statement.compile(dialect=dialect, column_keys=names)
    order = tuple(compiled.positiontup)
    kinds = [compiled.binds[name].type.dialect_impl(dialect) for name in order]
    converters = tuple(kind.bind_processor(dialect) for kind in kinds)
    literals = {name: compiled.params[name] for name in order if name not in names}
    return _Compiled(str(compiled), order, converters, MappingProxyType(literals))
