"""Connections, transactions and migrations on real databases."""

from __future__ import annotations

import asyncio
import stat
import sys
import tempfile
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

import osslo.accounts.ledger.tables
import osslo.accounts.tables
import osslo.store.completions
import osslo.store.job_tables
import osslo.store.tables
import osslo.store.tuning_tables  # noqa: F401 - declares its tables
from osslo.db.base import Base, UtcDateTime
from osslo.db.database import Database, parse_url, sqlite_url
from osslo.db.migrate import upgrade
from osslo.errors import ConfigurationError
from tests.databases import PostgresProcess, PostgresServer


@pytest.mark.parametrize("url", ["mysql://host/name", "nonsense", "://"])
def test_refuses_other_databases(url: str) -> None:
    with pytest.raises(ConfigurationError, match="sqlite"):
        parse_url(url)


async def test_migrations_make_what_the_models_say(database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, Base.metadata))

    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_several_processes_may_migrate_together(database_url: str) -> None:
    databases = [Database(database_url) for _ in range(4)]
    await asyncio.gather(*(upgrade(database) for database in databases))
    for database in databases:
        await database.close()


async def test_several_servers_may_start_together(database_url: str) -> None:
    code = (
        "import asyncio, sys; from osslo.db.database import Database; "
        "from osslo.db.migrate import upgrade; asyncio.run(upgrade(Database(sys.argv[1])))"
    )
    started = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", code, database_url)
        for _ in range(3)
    ]
    assert [await process.wait() for process in started] == [0, 0, 0]
    database = Database(database_url)
    async with database.read() as session:
        versions = await session.execute(text("SELECT version_num FROM alembic_version"))
        assert len(versions.all()) == 1
    await database.close()


async def test_refuses_a_newer_database(database: Database) -> None:
    async with database.write() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError, match="newer"):
        await upgrade(database)


async def test_writers_queue_and_lose_nothing(database: Database) -> None:
    async with database.write() as session:
        await session.execute(text("CREATE TABLE counter (n INTEGER)"))
        await session.execute(text("INSERT INTO counter VALUES (0)"))
    lock = "" if database.is_sqlite else " FOR UPDATE"

    async def add() -> None:
        async with database.write() as session:
            n = (await session.execute(text("SELECT n FROM counter" + lock))).scalar_one()
            await session.execute(text("UPDATE counter SET n = :n"), {"n": n + 1})

    await asyncio.gather(*(add() for _ in range(40)))
    async with database.read() as session:
        assert (await session.execute(text("SELECT n FROM counter"))).scalar_one() == 40


async def test_a_failed_write_leaves_nothing(database: Database) -> None:
    async with database.write() as session:
        await session.execute(text("CREATE TABLE counter (n INTEGER)"))

    async def fail() -> None:
        async with database.write() as session:
            await session.execute(text("INSERT INTO counter VALUES (1)"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with database.read() as session:
        assert (await session.execute(text("SELECT count(*) FROM counter"))).scalar_one() == 0


async def test_a_new_file_is_its_owners_alone(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path / "made" / "x.db"))
    await upgrade(database)
    files = list((tmp_path / "made").iterdir())
    assert len(files) > 1
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    await database.close()


async def test_moments_come_back_in_utc(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path / "x.db"))
    column = UtcDateTime()
    dialect = database.engine.dialect
    there = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    kept = column.process_bind_param(there, dialect)
    assert column.process_result_value(kept, dialect) == there.astimezone(UTC)
    with pytest.raises(ValueError, match="time zone"):
        column.process_bind_param(datetime(2026, 1, 1), dialect)
    await database.close()


async def test_a_start_waits_for_a_server_that_comes_later() -> None:
    with tempfile.TemporaryDirectory(prefix="osslo-pg-") as name:
        server = PostgresProcess(Path(name))
        database = Database(f"postgresql://osslo@/postgres?host={name}")
        starting = asyncio.create_task(upgrade(database, wait_s=120))
        await asyncio.to_thread(server.start)
        await starting
        await database.close()
        await asyncio.to_thread(server.stop)


async def test_a_start_gives_up_on_a_server_that_is_away(tmp_path: Path) -> None:
    database = Database(f"postgresql://osslo:secret@/osslo?host={tmp_path}")
    with pytest.raises(ConfigurationError, match="OSSLO_DATABASE_URL") as refusal:
        await upgrade(database, wait_s=0.1)
    assert "secret" not in refusal.value.message
    assert str(tmp_path.name) in refusal.value.message
    await database.close()


async def test_a_server_that_lets_nobody_in_is_not_waited_for(postgres: PostgresServer) -> None:
    for url in (postgres.url("nonesuch"), postgres.url("postgres").replace("osslo@", "nobody@")):
        database = Database(url)
        with pytest.raises(ConfigurationError, match="does not exist"):
            await asyncio.wait_for(upgrade(database, wait_s=600), 60)
        await database.close()
