"""Backups of real databases, from each into each, while they are in use."""

from __future__ import annotations

import asyncio
import json
import stat
import tarfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from osslo.accounts.ledger.operations import Beat
from osslo.accounts.ledger.records import Counts, Outcome, Status
from osslo.accounts.ledger.sweeper import Sweeper
from osslo.accounts.records import COMMAND_LINE, KeyRules
from osslo.backup import Place, check_backup, restore_backup, write_backup
from osslo.cli.main import run
from osslo.db import rows
from osslo.db.database import Database, sqlite_url
from osslo.db.migrate import upgrade
from osslo.errors import ConfigurationError, RequestError
from osslo.settings import FileSettings
from osslo.store.files import FileStore, NewFile
from tests.accounts.conftest import make_accounts, make_user
from tests.accounts.ledger_stage import DOLLAR, ledger_on
from tests.databases import PostgresServer

MakeUrl = Callable[[str], Awaitable[str]]


@pytest.fixture
def new_url(postgres: PostgresServer, tmp_path: Path) -> MakeUrl:
    """The URL of a new, empty database of a kind."""
    numbers = iter(range(100))

    async def make(kind: str) -> str:
        if kind == "sqlite":
            return sqlite_url(tmp_path / f"db-{next(numbers)}.db")
        return await asyncio.to_thread(postgres.new_database)

    return make


@dataclass(frozen=True)
class Filled:
    """A place with accounts, money, a running request, and a file."""

    place: Place
    url: str
    key: str


def home_with_pepper(folder: Path, pepper: str = "a pepper of this home\n") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "pepper").write_text(pepper)
    return folder


async def fill(url: str, folder: Path) -> Filled:
    database = Database(url)
    await upgrade(database)
    place = Place(database, folder / "files", home_with_pepper(folder))
    accounts = make_accounts(database)
    ann = await make_user(accounts)
    made = await accounts.keys.create(
        COMMAND_LINE, ann.id, KeyRules(name="grüße", networks=("10.0.0.0/8",), models=("m",))
    )
    rotated = await accounts.keys.rotate(COMMAND_LINE, made.key.id, overlap_s=60)
    async with ledger_on(database, "proc_old") as ledger:
        await ledger.give(ann.id, DOLLAR)
        for number in range(20):
            charge = await ledger.open(ann.id, request_id=f"r{number}")
            ended = charge.end(Counts(100, number, cached_tokens=7), Outcome(Status.COMPLETED))
            assert ended is not None
            await ended
        await ledger.open(ann.id, request_id="runs")
        await ledger.writer.put(Beat("proc_old"))
    store = FileStore(database, place.files, FileSettings())
    contents = store.incoming()
    contents.write_bytes(b"line\n" * 1000)
    await store.add(
        NewFile(
            tenant=ann.id, filename="in.jsonl", purpose="batch", size_bytes=5000, contents=contents
        )
    )
    return Filled(place, url, rotated.text)


async def contents_of(database: Database) -> dict[str, list[bytes]]:
    """Every row of every table."""

    def read(connection: Connection) -> dict[str, list[bytes]]:
        return {t.name: sorted(rows.dump(connection, t)) for t in rows.tables_of(connection)}

    async with database.engine.connect() as connection:
        return await connection.run_sync(read)


@pytest.mark.parametrize("source", ["sqlite", "postgresql"])
@pytest.mark.parametrize("target", ["sqlite", "postgresql"])
async def test_all_comes_back_from_each_into_each(
    new_url: MakeUrl, tmp_path: Path, source: str, target: str
) -> None:
    filled = await fill(await new_url(source), tmp_path / "old")
    archive = tmp_path / "b.tar.gz"
    steps: list[tuple[str, int, int]] = []
    written = await write_backup(filled.place, archive, progress=lambda *step: steps.append(step))
    assert steps[-1] == ("files", 1, 1)
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert await asyncio.to_thread(check_backup, archive) == written
    new = Database(await new_url(target))
    there = Place(new, tmp_path / "new" / "files", tmp_path / "new")
    await restore_backup(archive, there)
    assert await contents_of(new) == await contents_of(filled.place.database)
    blobs = [p.relative_to(filled.place.files) for p in filled.place.files.glob("??/*")]
    assert len(blobs) == 1
    assert (there.files / blobs[0]).read_bytes() == b"line\n" * 1000
    assert not (there.home / "pepper").exists()
    await goes_on(new, filled)
    await filled.place.database.close()
    await new.close()


async def goes_on(database: Database, filled: Filled) -> None:
    """The restored server takes the old key, counts on, and ends the request that had run."""
    await upgrade(database)
    accounts = make_accounts(database)
    holder = await accounts.keyring.identify(filled.key, address="10.1.2.3")
    assert holder is not None
    ann = holder.user.id
    async with ledger_on(database, "proc_new") as ledger:
        spent = 19 * (93 * 80 + 7 * 40) + sum(range(20)) * 320  # the first generated nothing
        reserved = 100 * 80 + 1000 * 320
        assert await ledger.balance(ann) == DOLLAR - spent - reserved
        times = iter(range(0, 1000, 4))
        sweeper = Sweeper(
            database, ledger.writer, process_id="proc_new", clock=lambda: float(next(times))
        )
        while await ledger.open_reservations():
            await sweeper.look()
        assert await ledger.balance(ann) == DOLLAR - spent
        await ledger.give(ann, 5, "after")
        assert await ledger.balance(ann) == DOLLAR - spent + 5
    with pytest.raises(Exception, match="append-only"):
        async with database.write() as session:
            await session.execute(text("DELETE FROM ledger_entries"))


async def test_a_backup_of_a_moment_while_money_moves(new_url: MakeUrl, tmp_path: Path) -> None:
    for kind in ("sqlite", "postgresql"):
        filled = await fill(await new_url(kind), tmp_path / kind)
        stop = asyncio.Event()

        async def spend(filled: Filled = filled, stop: asyncio.Event = stop) -> None:
            async with ledger_on(filled.place.database, "proc_busy") as ledger:
                number = 0
                while not stop.is_set():
                    number += 1
                    await ledger.give("bob", number, f"gift:{number}")

        spending = asyncio.create_task(spend())
        for number in range(3):
            archive = tmp_path / f"{kind}-{number}.tar.gz"
            await write_backup(filled.place, archive)
            new = Database(await new_url("sqlite"))
            await restore_backup(archive, Place(new, tmp_path / "f", tmp_path / "h"), watch_s=0)
            await new.close()  # restoring checks that balances are the sums of their entries
        stop.set()
        await spending
        await filled.place.database.close()


async def test_refuses_what_would_do_harm(new_url: MakeUrl, tmp_path: Path) -> None:
    filled = await fill(await new_url("sqlite"), tmp_path / "old")
    archive = tmp_path / "b.tar.gz"
    await write_backup(filled.place, archive, secrets=True)
    with pytest.raises(RequestError, match="exists"):
        await write_backup(filled.place, archive)
    before = await contents_of(filled.place.database)
    with pytest.raises(RequestError, match="not empty"):
        await restore_backup(archive, filled.place, watch_s=0)
    home = home_with_pepper(tmp_path / "other", "another")
    empty = Database(await new_url("sqlite"))
    with pytest.raises(RequestError, match="pepper is not the one"):
        await restore_backup(archive, Place(empty, home / "files", home), watch_s=0)
    whole = archive.read_bytes()
    for name, bad in {
        "cut off": whole[: len(whole) * 2 // 3],
        "changed": _with(archive, tmp_path, "tables/users.jsonl", b"{}\n"),
        "newer": _with_manifest(archive, tmp_path, revision="9999"),
        "another format": _with_manifest(archive, tmp_path, format=2),
        "nothing": b"",
    }.items():
        broken = tmp_path / "broken.tar.gz"
        broken.write_bytes(bad)
        with pytest.raises((RequestError, ConfigurationError)) as refused:
            await restore_backup(broken, filled.place, force=True, watch_s=0)
        assert refused.value.message, name
    assert await contents_of(filled.place.database) == before
    assert await contents_of(empty) == {}
    async with filled.place.database.write() as session:
        await session.execute(text("UPDATE balances SET balance_nanousd = 7"))
    await write_backup(filled.place, archive, force=True)
    with pytest.raises(RequestError, match="not the sum"):
        await restore_backup(archive, Place(empty, home / "files", home), watch_s=0)
    assert await contents_of(empty) == {}
    await empty.close()
    await filled.place.database.close()


def _members_of(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as opened:
        return {
            info.name: member.read()
            for info in opened
            if (member := opened.extractfile(info)) is not None
        }


def _packed(members: dict[str, bytes], folder: Path) -> bytes:
    path = folder / "packed.tar.gz"
    with tarfile.open(path, "w:gz") as made:
        for name, contents in members.items():
            (folder / "member").write_bytes(contents)
            made.add(folder / "member", name)
    return path.read_bytes()


def _with(archive: Path, folder: Path, name: str, contents: bytes) -> bytes:
    return _packed(_members_of(archive) | {name: contents}, folder)


def _with_manifest(archive: Path, folder: Path, **changes: Any) -> bytes:
    members = _members_of(archive)
    manifest = json.loads(members["manifest.json"]) | changes
    return _packed(members | {"manifest.json": json.dumps(manifest).encode()}, folder)


async def test_a_running_server_is_not_pulled_away(new_url: MakeUrl, tmp_path: Path) -> None:
    filled = await fill(await new_url("sqlite"), tmp_path / "old")
    archive = tmp_path / "b.tar.gz"
    await write_backup(filled.place, archive)
    async with ledger_on(filled.place.database, "proc_live") as ledger:
        await ledger.writer.put(Beat("proc_live"))

        async def beat() -> None:
            while True:
                await ledger.writer.put(Beat("proc_live"))

        beating = asyncio.create_task(beat())
        with pytest.raises(RequestError, match="stop it first"):
            await restore_backup(archive, filled.place, force=True, watch_s=0.5)
        beating.cancel()
        await asyncio.wait({beating})
    await filled.place.database.close()


def test_by_commands_with_secrets_and_by_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    monkeypatch.setenv("OSSLO_HOME", str(home))
    assert run(["users", "create", "ann@example.com", "--role", "owner"]) == 0
    assert run(["keys", "create", "ann@example.com", "--json"]) == 0
    capsys.readouterr()
    archive = str(tmp_path / "b.tar.gz")
    assert run(["backup", archive]) == 0
    assert "the pepper is not in this archive" in capsys.readouterr().err
    assert run(["backup", archive]) == 2
    assert run(["backup", archive, "--secrets", "--force", "--json"]) == 0
    captured = capsys.readouterr()
    assert "pepper" in json.loads(captured.out)["secrets"]
    monkeypatch.setenv("OSSLO_HOME", str(other))
    assert run(["restore", archive, "--check"]) == 0
    assert not (other / "osslo.db").exists()
    assert run(["restore", archive, "--json"]) == 0
    assert (other / "pepper").read_bytes() == (home / "pepper").read_bytes()
    capsys.readouterr()
    assert run(["keys", "list", "ann@example.com", "--json"]) == 0
    (key,) = json.loads(capsys.readouterr().out)
    assert run(["users", "create", "bob@example.com"]) == 0
    assert run(["restore", archive]) == 2
    assert run(["restore", archive, "--force"]) == 0
    capsys.readouterr()
    assert run(["users", "list", "--json"]) == 0
    assert [user["email"] for user in json.loads(capsys.readouterr().out)] == ["ann@example.com"]
    assert key["user_id"]
