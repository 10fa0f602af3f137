"""Real databases for tests: a SQLite file, and a PostgreSQL server of the test run's own.

The server listens on a Unix socket only, in a folder that goes away with the run. PostgreSQL
refuses to run as root, so as root it runs as the user that its package made.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path

import asyncpg

from osslo.db.database import Database, sqlite_url
from osslo.db.migrate import upgrade

PACKAGE_USER = "postgres"


@dataclass(frozen=True)
class PostgresServer:
    """A running server; `new_database` makes an empty database and gives its URL."""

    folder: Path
    numbers: count[int]

    def new_database(self) -> str:
        name = f"osslo_{next(self.numbers)}"
        asyncio.run(self.execute(f'CREATE DATABASE "{name}"'))
        return self.url(name)

    async def execute(self, statement: str) -> None:
        """Run one statement as the superuser."""
        connection = await asyncpg.connect(host=str(self.folder), user="osslo", database="postgres")
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def url(self, name: str) -> str:
        return f"postgresql://osslo@/{name}?host={self.folder}"


def postgres_binaries() -> Path:
    """The folder of the newest PostgreSQL's server programs."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not versions:
        raise RuntimeError("PostgreSQL's server is not installed: apt-get install postgresql")
    return versions[-1].parent


class PostgresProcess:
    """The server as a process that a test may kill and start again."""

    def __init__(self, folder: Path, *, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._environment = None if environment is None else {**os.environ, **environment}
        self._data = folder / "data"
        self._binaries = postgres_binaries()
        self._user = PACKAGE_USER if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        if self._user:
            shutil.chown(folder, self._user)
        self._run("initdb", "-D", str(self._data), "-U", "osslo", "-A", "trust", "--no-sync")

    def start(self) -> None:
        """Start, and return once connections are taken."""
        arguments = ["-D", str(self._data), "-k", str(self.folder)]
        arguments += ["-c", "listen_addresses=", "-c", "max_connections=200"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._binaries / "postgres"), *arguments],
                user=self._user,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=self.folder,
                env=self._environment,
            )
        self._run("pg_isready", "-h", str(self.folder), "-t", "30", "-q", retry=True)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT is PostgreSQL's fast shutdown, SIGQUIT an immediate one."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None

    def _run(self, program: str, *arguments: str, retry: bool = False) -> None:
        for _ in range(300 if retry else 1):
            done = subprocess.run(
                [str(self._binaries / program), *arguments],
                user=self._user,
                capture_output=True,
                cwd=self.folder,
                check=False,
            )
            if done.returncode == 0:
                return
            if retry and self._process is not None and self._process.poll() is not None:
                break
        raise RuntimeError(f"{program} failed: {done.stderr.decode()[-500:]}")


@cache
def _sqlite_template() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    """A migrated, empty SQLite database, made once a run, in a folder that goes away with it."""
    folder = tempfile.TemporaryDirectory(prefix="osslo-sqlite-")
    path = Path(folder.name) / "template.db"

    async def make() -> None:
        database = Database(sqlite_url(path))
        await upgrade(database)
        await database.close()

    with ThreadPoolExecutor(1) as apart:  # the caller may already be in an event loop
        apart.submit(asyncio.run, make()).result()
    return folder, path


def migrated_sqlite() -> Database:
    """An empty database of its own: a copy of one that was migrated once."""
    folder, template = _sqlite_template()
    path = Path(folder.name) / f"{secrets.token_hex(8)}.db"
    shutil.copyfile(template, path)
    return Database(sqlite_url(path))


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server for the length of the block. Its folder is short: sockets allow 107 characters."""
    with tempfile.TemporaryDirectory(prefix="osslo-pg-") as name:
        process = PostgresProcess(Path(name))
        process.start()
        try:
            yield PostgresServer(Path(name), count())
        finally:
            process.stop(signal.SIGQUIT)  # its data goes away: nothing need be written out
