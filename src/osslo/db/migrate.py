"""Bringing a database up to date, safely when several processes start together.

PostgreSQL: an advisory lock. SQLite: a lock file beside the database. The migrations themselves are
in `migrations/versions`, one linear history for all tables.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, text

from osslo.db.database import Database
from osslo.errors import ConfigurationError

_ADVISORY_LOCK = 0x6F73736C6F  # "osslo"


def alembic_config() -> Config:
    """Alembic's configuration: only where the migrations are."""
    config = Config()
    config.set_main_option("script_location", str(files("osslo.db") / "migrations"))
    return config


async def upgrade(database: Database) -> None:
    """Apply the migrations that are missing. Waits while another process does the same.

    Raises `ConfigurationError` if the database was written by a newer Osslo.
    """
    async with _alone(database), database.engine.connect() as connection:
        await connection.run_sync(_upgrade)
        await connection.commit()


def _upgrade(connection: Connection) -> None:
    config = alembic_config()
    config.attributes["connection"] = connection
    _refuse_newer(connection, ScriptDirectory.from_config(config))
    command.upgrade(config, "head")


def migrate_within(connection: Connection, revision: str) -> None:
    """Bring a database to `revision` (`head` is the newest) inside the open transaction, which the
    caller commits. Raises `ConfigurationError` for a revision that this Osslo does not know."""
    config = alembic_config()
    config.attributes["connection"] = connection
    try:
        ScriptDirectory.from_config(config).get_revision(revision)
    except CommandError as error:
        raise ConfigurationError(
            f"it was written at revision {revision}, which this version of Osslo does not know: "
            "upgrade Osslo",
            param="source",
        ) from error
    command.upgrade(config, revision)


def revision_of(connection: Connection) -> str | None:
    """The revision of a database; None if it holds nothing of Osslo's."""
    return MigrationContext.configure(connection).get_current_revision()


def _refuse_newer(connection: Connection, scripts: ScriptDirectory) -> None:
    current = revision_of(connection)
    if current is None:
        return
    try:
        scripts.get_revision(current)
    except CommandError as error:
        raise ConfigurationError(
            f"the database is at revision {current}, which this version of Osslo does not know; "
            "it was written by a newer one: upgrade Osslo or use another database",
            param="database_url",
        ) from error


@asynccontextmanager
async def _alone(database: Database) -> AsyncIterator[None]:
    """Keep every other process from migrating meanwhile."""
    if database.is_sqlite:
        async with _file_lock(database):
            yield
        return
    async with database.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
        try:
            yield
        finally:
            unlock = text("SELECT pg_advisory_unlock(:key)")
            await connection.execute(unlock, {"key": _ADVISORY_LOCK})


@asynccontextmanager
async def _file_lock(database: Database) -> AsyncIterator[None]:
    path = database.url.database
    if not path or path == ":memory:":
        yield
        return
    lock = await asyncio.to_thread(_locked, Path(path + ".lock"))
    try:
        yield
    finally:
        os.close(lock)


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor
