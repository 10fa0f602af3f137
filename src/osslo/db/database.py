"""Connections: one `Database` a process, read and write transactions with the right locks.

SQLite runs in WAL mode; a write transaction begins with BEGIN IMMEDIATE, so that two writers queue
at its start instead of failing in its middle. PostgreSQL runs at READ COMMITTED; whoever guards an
invariant locks the row (`select(...).with_for_update()`).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from osslo.errors import ConfigurationError

BUSY_TIMEOUT_S = 15.0
"""How long a SQLite writer waits for another before it fails."""

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
}


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file."""
    return f"sqlite:///{path}"


def parse_url(url: str) -> URL:
    """`url` with the driver that Osslo uses. Raises `ConfigurationError` for another database."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError(
            "the database URL cannot be read; it looks like sqlite:////path/osslo.db or "
            "postgresql://user:password@host/name",
            param="database_url",
        ) from error
    kind = parsed.drivername.partition("+")[0]
    if kind not in _DRIVERS:
        raise ConfigurationError(
            f"{kind} is not supported as a database; use sqlite or postgresql",
            param="database_url",
        )
    return parsed.set(drivername=_DRIVERS[kind])


class Database:
    """A pool of connections to one database. Close it when the process ends."""

    def __init__(self, url: str, *, pool_size: int = 8) -> None:
        self.url = parse_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        options: dict[str, Any] = {
            "pool_pre_ping": not self.is_sqlite,
            "hide_parameters": True,  # errors are logged, and parameters hold what must not be
        }
        if self.is_sqlite:
            if self.url.database and self.url.database != ":memory:":
                _make_private(Path(self.url.database))
            options["connect_args"] = {"timeout": BUSY_TIMEOUT_S}
        else:
            options |= {"pool_size": pool_size, "max_overflow": pool_size}
        self.engine: AsyncEngine = create_async_engine(self.url, **options)
        if self.is_sqlite:
            prepare_sqlite(self.engine.sync_engine)
            _begin_transactions(self.engine.sync_engine)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session that is rolled back at its end: for queries."""
        async with AsyncSession(self.engine, expire_on_commit=False) as session:
            yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """A session whose transaction takes SQLite's write lock at once, and commits at the end
        unless the block raises."""
        async with self.engine.connect() as connection:
            await connection.execution_options(osslo_write=True)
            session = AsyncSession(bind=connection, expire_on_commit=False)
            async with session, session.begin():
                yield session

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


def prepare_sqlite(
    engine: Engine,
    *,
    synchronous: str = "FULL",
    busy_timeout_s: float = BUSY_TIMEOUT_S,
    moves_log: bool = True,
) -> None:
    """Leave BEGIN to us: the driver's own would be deferred, and would not cover reads. With
    `synchronous` FULL a commit survives a power cut, with NORMAL it does once it is flushed.
    Without `moves_log` no commit moves the write-ahead log into the file; somebody else has to."""
    pragmas = [
        "journal_mode=WAL",
        f"synchronous={synchronous}",
        "foreign_keys=ON",
        f"busy_timeout={int(busy_timeout_s * 1000)}",
    ]
    if not moves_log:
        pragmas.append("wal_autocheckpoint=0")

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        cursor: sqlite3.Cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()


def _begin_transactions(engine: Engine) -> None:
    """Begin each of SQLAlchemy's transactions, one that writes with SQLite's write lock."""

    @event.listens_for(engine, "begin")
    def on_begin(connection: Any) -> None:
        writes = connection.get_execution_options().get("osslo_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _make_private(path: Path) -> None:
    """Make a file for the database that only its owner reads, unless there is one; SQLite gives its
    journals the same mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
