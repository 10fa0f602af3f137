"""Backups: everything that a server keeps, in one archive, and back into any database.

An archive is a gzipped tar of `tables/NAME.jsonl` (see `db.rows`), `files/…` (what callers
uploaded and batches wrote) and, only where asked for, `secrets/…`; its last member,
`manifest.json`, has the schema's revision and each member's size and SHA-256, so that an archive
that was cut off has none. All tables are read in one transaction, while servers go on; the same
archive can be restored into SQLite and PostgreSQL. Restoring checks the whole archive first and
then happens in one transaction, or not at all.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection

import osslo
from osslo.db import rows
from osslo.db.database import Database
from osslo.db.migrate import migrate_within, revision_of
from osslo.errors import ConfigurationError, RequestError

FORMAT = 1
SECRETS = ("pepper", "seal-key", "api-key")
"""Files in Osslo's home: what keys are hashed under, what seals reasoning, and the
key that is taken without users."""

_MANIFEST = "manifest.json"
_TABLES, _FILES, _SECRETS = "tables/", "files/", "secrets/"
_CHUNK = 1 << 20

WATCH_S = 4.0
"""How long a database is watched for a server at work: somewhat longer than its beat."""

Progress = Callable[[str, int, int], None]
"""Told (what, done, total)."""


@dataclass(frozen=True, slots=True)
class Place:
    """What is backed up, or restored into."""

    database: Database
    files: Path
    home: Path


@dataclass(frozen=True, slots=True)
class Summary:
    """What an archive holds. `missing_files` were in the database, but not on the disk."""

    created_at: str
    osslo: str
    revision: str
    rows: Mapping[str, int]
    files: int
    secrets: tuple[str, ...]
    missing_files: int
    bytes: int


# --- writing -------------------------------------------------------------------------------------


async def write_backup(
    place: Place,
    target: Path,
    *,
    secrets: bool = False,
    force: bool = False,
    progress: Progress = lambda *_: None,
) -> Summary:
    """Write everything of `place` to the archive `target`, which only its owner can read.

    Raises `RequestError` if `target` exists (unless `force`), `ConfigurationError` for a database
    that this Osslo has not brought up to date.
    """
    with _whole(target, force=force) as raw:
        async with place.database.engine.connect() as connection:
            if not place.database.is_sqlite:
                await connection.execution_options(isolation_level="REPEATABLE READ")
            write = partial(_write, place=place, raw=raw, secrets=secrets, progress=progress)
            return await connection.run_sync(write)


@contextmanager
def _whole(target: Path, *, force: bool) -> Iterator[IO[bytes]]:
    """A file to write that takes `target`'s name once it is on the disk, or never."""
    if target.exists() and not force:
        raise RequestError(f"{target} exists; name another file, or use --force", param="target")
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=target.name + ".", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as raw:
            yield raw
            raw.flush()
            os.fsync(raw.fileno())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _write(
    connection: Connection, *, place: Place, raw: IO[bytes], secrets: bool, progress: Progress
) -> Summary:
    revision = revision_of(connection)
    if revision is None:
        raise ConfigurationError("there is nothing in this database yet", param="database_url")
    with (
        gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|") as archive,
    ):
        writer = _Writer(archive)
        counts = _write_tables(writer, connection, progress)
        files, missing = _write_files(writer, connection, place.files, progress)
        kept = _write_secrets(writer, place.home) if secrets else ()
        summary = Summary(
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            osslo=osslo.__version__,
            revision=revision,
            rows=counts,
            files=files,
            secrets=kept,
            missing_files=missing,
            bytes=sum(size for size, _ in writer.members.values()),
        )
        writer.finish(summary)
    return summary


class _Writer:
    """Adds members to an archive, and notes what they were."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self.members: dict[str, tuple[int, str]] = {}

    def add(self, name: str, contents: IO[bytes]) -> None:
        contents.seek(0)
        digest = hashlib.sha256()
        while chunk := contents.read(_CHUNK):
            digest.update(chunk)
        size = contents.tell()
        contents.seek(0)
        self._put(name, contents, size)
        self.members[name] = (size, digest.hexdigest())

    def finish(self, summary: Summary) -> None:
        """Add the manifest."""
        manifest = {
            "format": FORMAT,
            "created_at": summary.created_at,
            "osslo": summary.osslo,
            "revision": summary.revision,
            "rows": dict(summary.rows),
            "missing_files": summary.missing_files,
            "members": self.members,
        }
        text = json.dumps(manifest).encode()
        self._put(_MANIFEST, io.BytesIO(text), len(text))

    def _put(self, name: str, contents: IO[bytes], size: int) -> None:
        info = tarfile.TarInfo(name)
        info.size = size
        info.mode = 0o600
        self._archive.addfile(info, contents)


def _write_tables(writer: _Writer, connection: Connection, progress: Progress) -> dict[str, int]:
    tables = rows.tables_of(connection)
    total = sum(rows.count_rows(connection, table) for table in tables)
    done = 0
    counts: dict[str, int] = {}
    for table in tables:
        before = done
        with tempfile.TemporaryFile() as spooled:
            for line in rows.dump(connection, table):
                spooled.write(line)
                done += 1
                if done % 1000 == 0:
                    progress("rows", done, total)
            writer.add(f"{_TABLES}{table.name}.jsonl", spooled)
        counts[table.name] = done - before
    progress("rows", done, total)
    return counts


def _write_files(
    writer: _Writer, connection: Connection, folder: Path, progress: Progress
) -> tuple[int, int]:
    """Add the contents of every file that the database knows; how many, and how many are not there
    (deleted since the rows were read, or lost)."""
    table = next((t for t in rows.tables_of(connection) if t.name == "files"), None)
    known = [] if table is None else sorted(connection.execute(table.select()).mappings(), key=str)
    missing = 0
    for number, row in enumerate(known, 1):
        blob = str(row["blob"])
        try:
            with (folder / blob[:2] / blob).open("rb") as contents:
                writer.add(f"{_FILES}{blob[:2]}/{blob}", contents)
        except FileNotFoundError:
            missing += 1
        progress("files", number, len(known))
    return len(known) - missing, missing


def _write_secrets(writer: _Writer, home: Path) -> tuple[str, ...]:
    found = tuple(name for name in SECRETS if (home / name).is_file())
    for name in found:
        with (home / name).open("rb") as contents:
            writer.add(_SECRETS + name, contents)
    return found


# --- reading -------------------------------------------------------------------------------------


def check_backup(source: Path, progress: Progress = lambda *_: None) -> Summary:
    """Read the whole archive and compare it with its manifest. Raises `RequestError` for one that
    is damaged, cut off, or of another format."""
    seen: dict[str, tuple[int, str]] = {}
    manifest: Any = None
    total = source.stat().st_size if source.is_file() else 0
    with _members(source) as members:
        for info, contents, position in members:
            if info.name == _MANIFEST:
                manifest = json.loads(contents.read())
                continue
            digest = hashlib.sha256()
            while chunk := contents.read(_CHUNK):
                digest.update(chunk)
            seen[info.name] = (info.size, digest.hexdigest())
            progress("checking", position(), total)
    if not isinstance(manifest, dict):
        raise _damaged(source, "it has no manifest; it may have been cut off")
    if manifest.get("format") != FORMAT:
        raise RequestError(
            f"{source} has format {manifest.get('format')}, and this version of Osslo reads "
            f"{FORMAT}: upgrade Osslo",
            param="source",
        )
    if {name: tuple(noted) for name, noted in manifest["members"].items()} != seen:
        raise _damaged(source, "its contents are not what its manifest says")
    return Summary(
        created_at=manifest["created_at"],
        osslo=manifest["osslo"],
        revision=manifest["revision"],
        rows=manifest["rows"],
        files=sum(name.startswith(_FILES) for name in seen),
        secrets=tuple(name.removeprefix(_SECRETS) for name in seen if name.startswith(_SECRETS)),
        missing_files=manifest["missing_files"],
        bytes=sum(size for size, _ in seen.values()),
    )


async def restore_backup(
    source: Path,
    place: Place,
    *,
    force: bool = False,
    watch_s: float = WATCH_S,
    progress: Progress = lambda *_: None,
) -> Summary:
    """Put an archive back, into an empty database or, with `force`, in the place of what is there.

    Raises `RequestError` for an archive that cannot be used, a database that is in use or not
    empty, or secrets that differ from those in home; nothing has changed then.
    """
    summary = await asyncio.to_thread(check_backup, source, progress)
    _check_secrets(source, place.home, summary, force=force)
    await _check_idle(place.database, watch_s)
    async with place.database.write() as session:
        connection = await session.connection()
        restore = partial(_restore, source=source, summary=summary, force=force, progress=progress)
        await connection.run_sync(restore)
        await asyncio.to_thread(_place_contents, source, place)
    return summary


async def _check_idle(database: Database, watch_s: float) -> None:
    """Raise `RequestError` if a server is at work on the database: its beat goes on."""

    async def beats() -> dict[str, int]:
        async with database.engine.connect() as connection:
            return await connection.run_sync(rows.beats)

    before = await beats()
    if not before:
        return
    await asyncio.sleep(watch_s)
    after = await beats()
    if any(after.get(process, beat) != beat for process, beat in before.items()):
        raise RequestError(
            "a server is running on this database; stop it first", param="database_url"
        )


def _restore(
    connection: Connection, *, source: Path, summary: Summary, force: bool, progress: Progress
) -> None:
    if rows.is_used(connection) and not force:
        raise RequestError(
            "the database is not empty; restore into another one, or use --force to replace "
            "everything in it",
            param="database_url",
        )
    rows.drop_all(connection)
    migrate_within(connection, summary.revision)
    tables = {table.name: table for table in rows.tables_of(connection)}
    for table in reversed(tables.values()):  # what migrations themselves put there
        connection.execute(table.delete())
    total, done = sum(summary.rows.values()), 0
    with _members(source) as members:
        for info, contents, _ in members:
            if not info.name.startswith(_TABLES):
                continue
            name = info.name.removeprefix(_TABLES).removesuffix(".jsonl")
            if name not in tables:
                raise _damaged(source, f"its schema has no table {name}")
            loaded = rows.load(connection, tables[name], contents)
            if loaded != summary.rows[name]:
                raise _damaged(source, f"{name} has {loaded} rows, not {summary.rows[name]}")
            done += loaded
            progress("rows", done, total)
    wrong = rows.wrong_balances(connection)
    if wrong:
        raise _damaged(source, f"balances of {len(wrong)} users are not the sum of their entries")
    migrate_within(connection, "head")


def _check_secrets(source: Path, home: Path, summary: Summary, *, force: bool) -> None:
    if force or not summary.secrets:
        return
    with _members(source) as members:
        for info, contents, _ in members:
            if not info.name.startswith(_SECRETS):
                continue
            there = home / info.name.removeprefix(_SECRETS)
            if there.exists() and there.read_bytes() != contents.read():
                raise RequestError(
                    f"{there} is not the one in the backup; use --force to replace it, or another "
                    "OSSLO_HOME",
                    param="home",
                )


def _place_contents(source: Path, place: Place) -> None:
    """Write files and secrets where they belong, each whole or not at all."""
    with _members(source) as members:
        for info, contents, _ in members:
            if info.name.startswith(_FILES):
                _place(place.files / _safe(info.name.removeprefix(_FILES), source), contents)
            elif info.name.startswith(_SECRETS):
                _place(place.home / _safe(info.name.removeprefix(_SECRETS), source), contents)


def _place(target: Path, contents: IO[bytes]) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent)
    with os.fdopen(descriptor, "wb") as file:
        while chunk := contents.read(_CHUNK):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(target)


def _safe(name: str, source: Path) -> Path:
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or len(path.parts) > 2:
        raise _damaged(source, f"it holds a file {name[:80]!r}, which leads elsewhere")
    return path


Member = tuple[tarfile.TarInfo, IO[bytes], Callable[[], int]]


@contextmanager
def _members(source: Path) -> Iterator[Iterable[Member]]:
    """The archive's regular members in order, each to be read before the next; with each a function
    that tells how far the archive has been read."""
    try:
        raw = source.open("rb")
    except OSError as error:
        raise RequestError(f"{source} cannot be read ({error.strerror})", param="source") from error
    with raw:
        try:
            with (
                gzip.GzipFile(fileobj=raw) as packed,
                tarfile.open(fileobj=packed, mode="r|") as archive,
            ):
                yield _regular(archive, raw)
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
            raise _damaged(source, str(error) or "it is cut off") from error


def _regular(archive: tarfile.TarFile, raw: IO[bytes]) -> Iterator[Member]:
    for info in archive:
        contents = archive.extractfile(info)
        if info.isfile() and contents is not None:
            yield info, contents, raw.tell


def _damaged(source: Path, why: str) -> RequestError:
    return RequestError(f"{source} is no backup that can be used: {why}", param="source")
