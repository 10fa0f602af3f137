"""Short write transactions, one after the other, as fast as each database can do them.

A step is a function of a synchronous connection. What it did is seen by everybody once `run`
returns, and on the disk once a later `flush` does: flushing takes many times as long as a step, so
steps go on meanwhile, and one flush serves all that came before it. Steps run on one connection
that is kept. A short step on SQLite takes less time than handing it to a thread and back, so that
`now` runs it on the spot if nobody else writes; whatever waits for a lock or for the disk has a
thread. Also owns which failures a step may be tried again after.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Protocol, TypeVar, cast

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from osslo.db.database import BUSY_TIMEOUT_S, Database, prepare_sqlite

T = TypeVar("T")


class Steps(Protocol):
    """Runs steps. `run` is not for several tasks at once, nor is `flush`; one of each may go on
    together."""

    async def run(
        self,
        step: Callable[[Connection], T],
        at_once: Callable[[Connection], T | None] | None = None,
    ) -> T:
        """What `step` returns, once its transaction is committed. If it or the commit raises, the
        transaction is rolled back; a lost connection leaves open whether it was committed.

        `at_once` is another way to do the same, which PostgreSQL tries first, where a transaction
        costs round trips: each of its statements commits by itself, only its last one writes, and
        it gives None if it did nothing."""
        ...

    def now(self, step: Callable[[Connection], T]) -> T | None:
        """What `step` returns, committed, without waiting for anybody. None, and nothing done,
        where that cannot be. Blocks its caller while the step takes; raises as `run` does."""
        ...

    async def flush(self) -> None:
        """Return once everything that was committed before is on the disk. If it raises, what was
        not flushed earlier may be lost."""
        ...

    async def close(self) -> None:
        """Let go of the connections."""
        ...


MOVE_AFTER_STEPS = 200
"""A step writes about five pages, and SQLite itself would move its log after a thousand."""

LONGEST_LOG_PAGES = 10_000
READERS_WAIT_S = 0.2
"""How long writers may stand still for a reader of a log that is too long; then it grows on."""

FROZEN_S = 5.0
"""How long PostgreSQL keeps the locks of a step whose process says nothing more."""


def steps_of(database: Database, *, frozen_s: float = FROZEN_S) -> Steps:
    """The way to run steps on `database`.

    A process that stands still in the middle of a step (a suspended machine) holds locks that all
    other replicas wait for: after `frozen_s` PostgreSQL rolls its step back and cuts it off.
    """
    if database.is_sqlite:
        return _SqliteSteps(database)
    return _PostgresSteps(database, frozen_s)


class _SqliteSteps:
    """Commits into the write-ahead log without a flush (`synchronous=NORMAL`) and flushes that log
    from another thread, which also moves it into the database's file: where SQLite does that by
    itself, at the end of a commit, that commit waits for the disk."""

    def __init__(self, database: Database) -> None:
        self._path = str(database.url.database)
        self._here = _KeptSqlite(database, wait_s=0.0)
        self._apart = _KeptSqlite(database, wait_s=BUSY_TIMEOUT_S)
        self._unmoved = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="osslo-steps")
        self._flusher = ThreadPoolExecutor(1, thread_name_prefix="osslo-flush")

    async def run(
        self,
        step: Callable[[Connection], T],
        at_once: Callable[[Connection], T | None] | None = None,  # noqa: ARG002 - the interface's
    ) -> T:
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(self._thread, self._apart.run, step)
        self._unmoved += 1
        return result

    def now(self, step: Callable[[Connection], T]) -> T | None:
        try:
            begun = self._here.begin()
        except sqlite3.OperationalError:  # locked; what else there is, `run` will meet as well
            return None
        result = self._here.finish(begun, step)
        self._unmoved += 1
        return result

    async def flush(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._flusher, self._flush)

    def _flush(self) -> None:
        descriptor = os.open(f"{self._path}-wal", os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        if self._unmoved >= MOVE_AFTER_STEPS:
            self._unmoved = 0
            self._move()

    def _move(self) -> None:
        """Move the log into the file, so that the log can begin anew. A log that grows all the
        same, since somebody writes in each such moment, is moved while writers wait."""
        with closing(sqlite3.connect(self._path, timeout=READERS_WAIT_S)) as connection:
            _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if pages > LONGEST_LOG_PAGES:
                connection.execute("PRAGMA wal_checkpoint(RESTART)")

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.shutdown)
        await asyncio.to_thread(self._flusher.shutdown)
        self._here.close()
        self._apart.close()


class _KeptSqlite:
    """A connection for steps, kept until one fails. Transactions are begun and ended by the driver:
    SQLAlchemy would take as long for that as SQLite for all of it."""

    def __init__(self, database: Database, *, wait_s: float) -> None:
        self._engine: Engine = create_engine(
            database.url.set(drivername="sqlite"),
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"check_same_thread": False},
        )
        prepare_sqlite(self._engine, synchronous="NORMAL", busy_timeout_s=wait_s, moves_log=False)
        self._kept: Connection | None = None

    def run(self, step: Callable[[Connection], T]) -> T:
        """One transaction."""
        return self.finish(self.begin(), step)

    def begin(self) -> Connection:
        """Take the write lock. Raises `sqlite3.OperationalError` if another has it for too long."""
        kept = self._kept = self._kept or self._engine.connect()
        try:
            _driver(kept).execute("BEGIN IMMEDIATE")
        except BaseException as error:
            if not is_locked(error):
                self._drop(kept)
            raise
        return kept

    def finish(self, begun: Connection, step: Callable[[Connection], T]) -> T:
        """Do what was begun for, and commit it."""
        try:
            result = step(begun)
            _driver(begun).execute("COMMIT")
        except BaseException:
            self._drop(begun)
            raise
        return result

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()
        self._engine.dispose()

    def _drop(self, kept: Connection) -> None:
        self._kept = None
        try:
            kept.connection.rollback()  # a statement that an error refers to outlives close
        finally:
            kept.invalidate()
            kept.close()


def _driver(connection: Connection) -> sqlite3.Connection:
    return cast(sqlite3.Connection, connection.connection.driver_connection)


class _PostgresSteps:
    """Commits asynchronously on one connection, and flushes on another by a message in the
    write-ahead log that is committed synchronously.

    The connection that flushes is older than every commit that it flushes: where the server was
    lost in between, it was cut off too, and says so.
    """

    def __init__(self, database: Database, frozen_s: float) -> None:
        session = {
            "idle_in_transaction_session_timeout": str(round(frozen_s * 1000)),
            **_BY_KEY,
        }
        self._engine: AsyncEngine = create_async_engine(
            database.url,
            poolclass=NullPool,
            hide_parameters=True,
            connect_args={"server_settings": session},
        )
        self._flushing: AsyncConnection | None = None
        self._kept: AsyncConnection | None = None

    async def run(
        self,
        step: Callable[[Connection], T],
        at_once: Callable[[Connection], T | None] | None = None,
    ) -> T:
        if self._flushing is None:
            self._flushing = await self._connected()
        if self._kept is None:
            kept = await self._connected()
            await kept.execute(_NO_WAIT)
            self._kept = kept
        try:
            done = await self._kept.run_sync(at_once) if at_once is not None else None
            return await self._kept.run_sync(_in_transaction, step) if done is None else done
        except BaseException:
            kept, self._kept = self._kept, None
            await _drop(kept)
            raise

    def now(self, step: Callable[[Connection], T]) -> T | None:  # noqa: ARG002 - the interface's
        return None

    async def _connected(self) -> AsyncConnection:
        connection = await self._engine.connect()
        return await connection.execution_options(isolation_level="AUTOCOMMIT")

    async def flush(self) -> None:
        flushing = self._flushing
        if flushing is None:
            raise ConnectionResetError("the connection was lost before it flushed")
        try:
            await flushing.execute(_FLUSH)
        except BaseException:
            self._flushing = None
            await _drop(flushing)
            raise

    async def close(self) -> None:
        for connection in (self._kept, self._flushing):
            if connection is not None:
                await connection.close()
        await self._engine.dispose()


def _in_transaction(connection: Connection, step: Callable[[Connection], T]) -> T:
    """Run a step on a connection that has no transactions of its own. Where it raises, the
    connection is not used again."""
    connection.execute(_BEGIN)
    result = step(connection)
    connection.execute(_COMMIT)
    return result


async def _drop(connection: AsyncConnection | None) -> None:
    if connection is not None:
        await connection.invalidate()
        await connection.close()


_BY_KEY = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
"""Steps find few rows by their keys. Their statements are planned once, at a time when tables may
be nearly empty and reading all of a table looks cheap."""

_BEGIN = text("BEGIN")
_COMMIT = text("COMMIT")
_NO_WAIT = text("SET synchronous_commit = off")
_FLUSH = text("SELECT pg_logical_emit_message(true, 'osslo', '')")

_TRANSIENT_SQLSTATES = ("08", "25P03", "40", "53", "55", "57", "58")
"""Classes of PostgreSQL's codes: connection, rollback (deadlock), resources, locks, operator's
intervention (shutdown, start-up), system; and the code of a step that stood still for too long."""

_REFUSAL_SQLSTATES = ("28", "3D", "42501")
"""Nobody is let in so (authentication), there is no such database, or no right to use it."""

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


def is_locked(error: BaseException) -> bool:
    """Whether another connection to the SQLite file has the lock that was wanted."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) == sqlite3.SQLITE_BUSY


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


def is_refusal(error: BaseException) -> bool:
    """Whether PostgreSQL does not let us in: nothing that waiting could change."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return is_refusal(error.orig)
    state = getattr(error, "sqlstate", None)
    return isinstance(state, str) and state.startswith(_REFUSAL_SQLSTATES)
