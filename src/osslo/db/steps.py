"""Short write transactions, one after the other, as fast as each database can do them.

A step is a function of a synchronous connection. On SQLite it runs on a thread of its own with a
connection of its own: one hop for the whole transaction instead of several for each statement. On
PostgreSQL it runs on one connection that is kept. Also owns which failures a step may be tried
again after.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from osslo.db.database import BUSY_TIMEOUT_S, Database, prepare_sqlite

T = TypeVar("T")


class Steps(Protocol):
    """Runs steps. Not for several tasks at once."""

    async def run(self, step: Callable[[Connection], T]) -> T:
        """What `step` returns, once its transaction is committed. If it or the commit raises, the
        transaction is rolled back; a lost connection leaves open whether it was committed."""
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...


def steps_of(database: Database) -> Steps:
    """The way to run steps on `database`."""
    if database.is_sqlite:
        return _SqliteSteps(database)
    return _PostgresSteps(database.engine)


class _SqliteSteps:
    def __init__(self, database: Database) -> None:
        self._engine: Engine = create_engine(
            database.url.set(drivername="sqlite"), connect_args={"timeout": BUSY_TIMEOUT_S}
        ).execution_options(osslo_write=True)
        prepare_sqlite(self._engine)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="osslo-steps")

    async def run(self, step: Callable[[Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, step)

    def _run(self, step: Callable[[Connection], T]) -> T:
        with self._engine.begin() as connection:
            return step(connection)

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.shutdown)
        self._engine.dispose()


class _PostgresSteps:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._kept: AsyncConnection | None = None

    async def run(self, step: Callable[[Connection], T]) -> T:
        if self._kept is None:
            self._kept = await self._engine.connect()
        try:
            async with self._kept.begin():
                return await self._kept.run_sync(step)
        except BaseException:
            await self._drop()
            raise

    async def _drop(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            await kept.invalidate()
            await kept.close()

    async def close(self) -> None:
        if self._kept is not None:
            await self._kept.close()
            self._kept = None


_TRANSIENT_SQLSTATES = ("08", "40", "53", "55", "57", "58")
"""Classes of PostgreSQL's codes: connection, rollback (deadlock), resources, locks, operator's
intervention (shutdown, start-up), system."""

_TRANSIENT_SQLITE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)


def is_transient(error: BaseException) -> bool:
    """Whether the same step may succeed later: the database restarts, is locked, full or away."""
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return True
        return error.orig is not None and is_transient(error.orig)
    if isinstance(error, OSError | TimeoutError | PoolTimeoutError):
        return True
    if isinstance(error, sqlite3.Error):
        return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _TRANSIENT_SQLITE
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        return state.startswith(_TRANSIENT_SQLSTATES)
    cause = error.__cause__
    named = {type(error).__name__, type(cause).__name__}
    return bool(named & {"InterfaceError", "ConnectionDoesNotExistError"})
