"""Bringing a database up to date, safely when several processes start together.

PostgreSQL: an advisory lock. SQLite: a lock file beside the database. The migrations themselves are
in `migrations/versions`, one linear history for all tables.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
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
from osslo.db.steps import is_refusal, is_transient
from osslo.errors import ConfigurationError
from osslo.telemetry import LOGGER_NAME

_ADVISORY_LOCK = 0x6F73736C6F  # "osslo"
_PAUSE_S = 0.5

_log = logging.getLogger(LOGGER_NAME + ".db")


def alembic_config() -> Config:
    """Alembic's configuration: only where the migrations are."""
    config = Config()
    config.set_main_option("script_location", str(files("osslo.db") / "migrations"))
    return config


async def upgrade(database: Database, *, wait_s: float = 0.0) -> None:
    """Apply the migrations that are missing. Waits while another process does the same, and up to
    `wait_s` for a PostgreSQL server that does not answer (yet).

    Raises `ConfigurationError` if the database cannot be reached, lets nobody in, or was written by
    a newer Osslo.
    """
    until = time.monotonic() + wait_s
    while True:
        try:
            await _upgrade_alone(database)
        except Exception as error:
            if database.is_sqlite or not (is_transient(error) or is_refusal(error)):
                raise
            unreachable = _unreachable(database, error)
            if not is_transient(error) or time.monotonic() >= until:
                raise unreachable from error
            _log.warning("%s Trying again.", unreachable.message)
            await asyncio.sleep(_PAUSE_S)
        else:
            return


async def _upgrade_alone(database: Database) -> None:
    async with _alone(database), database.engine.connect() as connection:
        await connection.run_sync(_upgrade)
        await connection.commit()


def _unreachable(database: Database, error: Exception) -> ConfigurationError:
    cause = getattr(error, "orig", None) or error
    told = str(cause).strip().splitlines() or [type(cause).__name__]
    shown = database.url.set(drivername=database.url.get_backend_name()).render_as_string()
    return ConfigurationError(
        f"The database {shown} cannot be used: {told[0].rstrip('.')}. "
        "Start its server, or set OSSLO_DATABASE_URL to the right one.",
        param="database_url",
    )


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
