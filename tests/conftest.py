"""Rules for every test: what a skip means, and where slow-to-make things are kept between runs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from osslo.db.database import Database, sqlite_url
from osslo.db.migrate import upgrade
from tests.databases import PostgresServer, postgres_server

PLATFORM_SKIP = "platform:"
"""A skip whose reason starts so is about the machine (a CPU feature, an operating system)."""


def _fail_if_forbidden(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Under CI a skip means that a promise went unchecked; only the platform may excuse it."""
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if reason.removeprefix("Skipped: ").startswith(PLATFORM_SKIP):
        return
    report.outcome = "failed"
    report.longrepr = f"skipped under CI: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    _fail_if_forbidden(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    report = yield
    _fail_if_forbidden(report)
    return report


@pytest.fixture(scope="session")
def build_cache() -> Path:
    """A folder under `build/` that outlives a run, for things that are slow to make or to fetch.

    Whoever fills it does so atomically and names entries by content or version.
    """
    path = Path(__file__).parent.parent / "build" / "test-cache"
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """PostgreSQL, started when the first test asks for it."""
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, on SQLite and on PostgreSQL in turn."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "osslo.db")
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated, empty database."""
    opened = Database(database_url)
    await upgrade(opened)
    yield opened
    await opened.close()
