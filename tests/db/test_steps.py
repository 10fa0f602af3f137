"""Steps on a SQLite file: on the spot where nobody else writes, and the log they leave."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from osslo.db import steps as module
from osslo.db.database import Database, sqlite_url
from osslo.db.steps import MOVE_AFTER_STEPS, READERS_WAIT_S, Steps, steps_of
from tests.databases import PostgresServer

PAGE_BYTES = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "osslo.db"


@pytest.fixture
async def steps(path: Path) -> AsyncIterator[Steps]:
    steps = steps_of(Database(sqlite_url(path)))
    await steps.run(make)
    yield steps
    await steps.close()


def make(connection: Connection) -> None:
    connection.execute(text("CREATE TABLE counted (value int)"))
    connection.execute(text("INSERT INTO counted VALUES (0)"))


def count(connection: Connection) -> int:
    query = text("UPDATE counted SET value = value + 1 RETURNING value")
    return int(connection.execute(query).scalar_one())


def fail(connection: Connection) -> None:
    count(connection)
    raise RuntimeError("in the middle")


async def test_a_step_on_the_spot_is_seen_by_all(steps: Steps, path: Path) -> None:
    assert steps.now(count) == 1
    assert await steps.run(count) == 2
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT value FROM counted").fetchone() == (2,)


async def test_while_another_writes_nothing_is_done_and_nobody_waits(
    steps: Steps, path: Path
) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    called: list[Connection] = []
    assert steps.now(called.append) is None
    assert called == []
    other.execute("ROLLBACK")
    assert steps.now(count) == 1


@pytest.mark.parametrize("times", [1, 3])
async def test_a_step_that_fails_leaves_nothing_and_the_next_one_works(
    steps: Steps, times: int
) -> None:
    for _ in range(times):
        with pytest.raises(RuntimeError, match="in the middle"):
            steps.now(fail)
    assert steps.now(count) == 1


async def test_a_flush_moves_the_log_and_it_begins_anew(steps: Steps, path: Path) -> None:
    for _ in range(20 * MOVE_AFTER_STEPS):
        steps.now(count)
        if steps.now(count) % 50 == 0:  # type: ignore[operator]  # nobody else writes
            await steps.flush()
    assert pages_of_log(path) < 4 * MOVE_AFTER_STEPS
    with sqlite3.connect(f"file:{path}?immutable=1", uri=True) as without_log:
        (value,) = without_log.execute("SELECT value FROM counted").fetchone()
    assert value > 38 * MOVE_AFTER_STEPS


async def test_a_log_that_a_reader_made_long_begins_anew_once_it_is_gone(
    steps: Steps, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_LOG_PAGES", 100)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT value FROM counted").fetchone()
    began = time.monotonic()
    await many(steps)
    assert time.monotonic() - began < 10 * READERS_WAIT_S  # not the reader's time
    long = pages_of_log(path)
    reader.execute("COMMIT")
    await many(steps)
    await many(steps)
    assert long > MOVE_AFTER_STEPS
    assert pages_of_log(path) < long + 1.5 * MOVE_AFTER_STEPS


async def test_a_log_begins_anew_although_somebody_always_writes(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(module, "LONGEST_LOG_PAGES", 100)
    monkeypatch.setattr(sqlite3, "connect", told(asked))
    await many(steps)
    assert asked == ["PRAGMA wal_checkpoint(PASSIVE)", "PRAGMA wal_checkpoint(RESTART)"]


def told(asked: list[str]) -> Callable[..., sqlite3.Connection]:
    connect = sqlite3.connect

    def connected(path: str, timeout: float) -> sqlite3.Connection:
        connection = connect(path, timeout=timeout)
        connection.set_trace_callback(asked.append)
        return connection

    return connected


async def many(steps: Steps) -> None:
    for _ in range(MOVE_AFTER_STEPS + 1):
        assert steps.now(count) is not None
    await steps.flush()


def pages_of_log(path: Path) -> int:
    """A log that begins anew keeps its length on the disk, so that this is its longest so far."""
    return path.with_name(f"{path.name}-wal").stat().st_size // PAGE_BYTES


async def test_postgresql_has_no_step_on_the_spot(postgres: PostgresServer) -> None:
    url = await asyncio.to_thread(postgres.new_database)
    steps = steps_of(Database(url))
    assert steps.now(count) is None
    await steps.close()
