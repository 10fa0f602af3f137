"""Files, batches and the queue on real databases."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from osslo.db.database import Database
from osslo.errors import ConflictError, NotFoundError, RateLimitError, RequestError
from osslo.settings import FileSettings
from osslo.store.batches import BatchProblem, BatchStore, LineResult, NewBatch
from osslo.store.files import FileStore, NewFile, StoredFile
from osslo.store.jobs import Job, JobQueue, LeaseLostError
from osslo.types import Usage

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Shelf:
    """The stores over one database and folder, with a clock that tests set."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.clock = Clock()
        self.folder = folder
        settings = FileSettings(max_owner_file_bytes=1000)
        self.files = FileStore(database, folder, settings, self.clock)
        self.queue = JobQueue(database, self.clock)
        self.batches = BatchStore(self.files, self.queue, self.clock)

    def new_file(self, text: bytes = b"{}\n", **fields: object) -> NewFile:
        path = self.files.incoming()
        path.write_bytes(text)
        values: dict[str, object] = {
            "tenant": "a",
            "filename": "in.jsonl",
            "purpose": "batch",
            "size_bytes": len(text),
            "contents": path,
        }
        return NewFile(**(values | fields))  # type: ignore[arg-type]  # the fields are NewFile's

    async def file(self, text: bytes = b"{}\n", **fields: object) -> StoredFile:
        self.clock.pass_s(1)
        return await self.files.add(self.new_file(text, **fields))

    async def batch(self, file: StoredFile, **fields: object) -> str:
        self.clock.pass_s(1)
        values: dict[str, object] = {
            "tenant": "a",
            "user_id": None,
            "key_id": None,
            "endpoint": "/v1/chat/completions",
            "input_file_id": file.id,
            "completion_window": "24h",
            "window_s": 86400,
        }
        new = NewBatch(**(values | fields))  # type: ignore[arg-type]  # the fields are NewBatch's
        return (await self.batches.create(new, most_active=3)).id

    async def claim(self, worker: str = "w1") -> Job:
        job = await self.queue.claim(worker, ["batch"], lease_s=30)
        assert job is not None
        return job


@pytest.fixture
def shelf(database: Database, tmp_path: Path) -> Shelf:
    return Shelf(database, tmp_path / "files")


# --- files --------------------------------------------------------------------------------------


async def test_contents_come_back_and_only_to_their_owner(shelf: Shelf) -> None:
    kept = await shelf.file(b"hello")
    assert shelf.files.path(kept).read_bytes() == b"hello"
    assert await shelf.files.get("a", kept.id) == kept
    with pytest.raises(NotFoundError):
        await shelf.files.get("b", kept.id)
    with pytest.raises(NotFoundError):
        await shelf.files.delete("b", kept.id)
    assert kept.id not in shelf.files.path(kept).name


async def test_deleting_deletes_the_contents(shelf: Shelf) -> None:
    kept = await shelf.file()
    await shelf.files.delete("a", kept.id)
    assert not shelf.files.path(kept).exists()
    with pytest.raises(NotFoundError):
        await shelf.files.get("a", kept.id)


async def test_pages_follow_each_other(shelf: Shelf) -> None:
    made = [(await shelf.file(purpose="batch" if n % 2 else "user_data")).id for n in range(5)]
    await shelf.file(tenant="b")

    async def page(**asked: object) -> tuple[list[str], bool]:
        wanted = {"purpose": None, "after": None, "limit": 10, "order": "asc"} | asked
        found = await shelf.files.page("a", **wanted)  # type: ignore[arg-type]  # page's own
        return [file.id for file in found.items], found.has_more

    assert await page() == (made, False)
    assert await page(order="desc", limit=2) == (made[:2:-1], True)
    assert await page(order="desc", limit=2, after=made[3]) == ([made[2], made[1]], True)
    assert await page(after=made[2]) == (made[3:], False)
    assert await page(purpose="batch") == ([made[1], made[3]], False)
    with pytest.raises(NotFoundError, match="nonesuch"):
        await page(after="nonesuch")


async def test_an_owner_has_only_so_much_room(shelf: Shelf) -> None:
    await shelf.file(b"x" * 900)
    refused = shelf.new_file(b"x" * 101)
    with pytest.raises(RequestError, match="1001 bytes"):
        await shelf.files.add(refused)
    blobs = [path for path in shelf.folder.rglob("*") if path.is_file()]
    assert len(blobs) == 1
    await shelf.file(b"x" * 101, tenant="b")


async def test_what_expired_is_gone_and_then_swept(shelf: Shelf) -> None:
    old, young = await shelf.file(ttl_s=10), await shelf.file(ttl_s=100)
    shelf.clock.pass_s(20)
    with pytest.raises(NotFoundError):
        await shelf.files.get("a", old.id)
    assert await shelf.files.sweep() == 1
    assert not shelf.files.path(old).exists()
    assert shelf.files.path(young).exists()


async def test_an_input_stays_while_its_batch_runs(shelf: Shelf) -> None:
    file = await shelf.file(ttl_s=10)
    await shelf.batch(file)
    shelf.clock.pass_s(60)
    assert await shelf.files.sweep() == 0
    with pytest.raises(ConflictError, match="batch_"):
        await shelf.files.delete("a", file.id)
    await shelf.batches.fail(await shelf.claim(), [])
    assert await shelf.files.sweep() == 1


async def test_contents_that_a_crash_left_behind_are_swept(shelf: Shelf) -> None:
    kept = await shelf.file()
    left, fresh = shelf.files.incoming(), shelf.files.incoming()
    lost = shelf.folder / "ab" / ("ab" * 32)
    lost.parent.mkdir(exist_ok=True)
    for path in (left, fresh, lost):
        path.write_bytes(b"x")
    for path in (left, lost, shelf.files.path(kept)):
        os.utime(path, (0, 0))
    await shelf.files.sweep()
    assert [path.exists() for path in (left, lost)] == [False, False]
    assert fresh.exists()
    assert shelf.files.path(kept).exists()


# --- the queue ----------------------------------------------------------------------------------


async def test_a_job_has_one_worker_until_its_lease_ends(shelf: Shelf) -> None:
    file = await shelf.file()
    batch = await shelf.batch(file)
    job = await shelf.claim()
    assert (job.subject, job.attempts) == (batch, 1)
    assert await shelf.queue.claim("w2", ["batch"], lease_s=30) is None
    shelf.clock.pass_s(20)
    await shelf.queue.renew(job, lease_s=30)
    shelf.clock.pass_s(20)
    assert await shelf.queue.claim("w2", ["batch"], lease_s=30) is None
    shelf.clock.pass_s(20)
    second = await shelf.claim("w2")
    assert (second.subject, second.attempts) == (batch, 2)
    with pytest.raises(LeaseLostError):
        await shelf.queue.renew(job, lease_s=30)


async def test_a_worker_that_lost_its_lease_changes_nothing(shelf: Shelf) -> None:
    batch = await shelf.batch(await shelf.file())
    late = await shelf.claim()
    shelf.clock.pass_s(60)
    job = await shelf.claim("w2")
    changes: list[Callable[[], object]] = [
        lambda: shelf.batches.begin(late, total=9, model="x"),
        lambda: shelf.batches.record(late, LineResult(1, True, "{}")),
        lambda: shelf.batches.finalize(late),
        lambda: shelf.batches.conclude(late, "completed", output=None, errors=None, unrun=0),
        lambda: shelf.batches.fail(late, []),
        lambda: shelf.batches.drop(late),
    ]
    for change in changes:
        with pytest.raises(LeaseLostError):
            await change()  # type: ignore[misc]  # each gives an awaitable
    await shelf.queue.put_back(late)
    found = await shelf.batches.find(batch)
    assert found is not None
    assert (found.status, found.total, found.completed) == ("validating", 0, 0)
    await shelf.queue.renew(job, lease_s=30)


async def test_a_dead_workers_jobs_are_free_at_once(shelf: Shelf) -> None:
    file = await shelf.file()
    for _ in range(2):
        await shelf.batch(file)
    await shelf.claim("w1")
    other = await shelf.claim("w2")
    assert await shelf.queue.release_worker("w1") == 1
    assert (await shelf.claim("w3")).attempts == 2
    await shelf.queue.renew(other, lease_s=30)


async def test_a_job_that_was_put_back_waits_its_delay(shelf: Shelf) -> None:
    await shelf.batch(await shelf.file())
    await shelf.queue.put_back(await shelf.claim(), delay_s=10)
    assert await shelf.queue.claim("w1", ["batch"], lease_s=30) is None
    shelf.clock.pass_s(10)
    job = await shelf.claim()
    assert job.attempts == 2
    await shelf.queue.put_back(job, forgive=True)
    assert (await shelf.claim()).attempts == 2


async def test_other_kinds_are_left_to_others(shelf: Shelf) -> None:
    await shelf.batch(await shelf.file())
    assert await shelf.queue.claim("w1", ["tuning"], lease_s=30) is None


# --- batches ------------------------------------------------------------------------------------


async def test_a_batch_from_its_start_to_its_end(shelf: Shelf) -> None:
    batch = await shelf.batch(await shelf.file(), metadata={"x": "y"})
    job = await shelf.claim()
    begun = await shelf.batches.begin(job, total=3, model="m")
    assert (begun.status, begun.total, begun.model) == ("in_progress", 3, "m")
    usage = Usage(10, 5, cached_tokens=4, reasoning_tokens=2)
    await shelf.batches.record(job, LineResult(2, True, "two", usage))
    await shelf.batches.record(job, LineResult(2, True, "two again", usage))
    await shelf.batches.record(job, LineResult(1, True, "one", usage))
    await shelf.batches.record(job, LineResult(3, False, "three"))
    assert await shelf.batches.recorded(batch) == {1, 2, 3}
    assert (await shelf.batches.finalize(job)).status == "finalizing"
    good = [line async for line in shelf.batches.results(batch, succeeded=True)]
    assert good == ["one", "two"]
    output = shelf.new_file(b"one\ntwo\n", purpose="batch_output")
    done = await shelf.batches.conclude(job, "completed", output=output, errors=None, unrun=0)
    assert (done.completed, done.failed, done.input_tokens, done.reasoning_tokens) == (2, 1, 20, 4)
    assert set(done.moments) == {"in_progress", "finalizing", "completed"}
    assert done.output_file_id is not None
    assert (await shelf.files.get("a", done.output_file_id)).size_bytes == 8
    assert await shelf.batches.recorded(batch) == set()
    assert await shelf.queue.claim("w1", ["batch"], lease_s=30) is None
    assert await shelf.batches.get("a", batch) == done


async def test_cancelling_shows_and_cannot_be_done_to_an_end(shelf: Shelf) -> None:
    batch = await shelf.batch(await shelf.file())
    with pytest.raises(NotFoundError):
        await shelf.batches.cancel("b", batch)
    assert (await shelf.batches.cancel("a", batch)).status == "cancelling"
    job = await shelf.claim()
    assert (await shelf.batches.begin(job, total=1, model=None)).status == "cancelling"
    assert (await shelf.batches.finalize(job)).status == "cancelling"
    await shelf.batches.conclude(job, "cancelled", output=None, errors=None, unrun=1)
    with pytest.raises(ConflictError, match="cancelled"):
        await shelf.batches.cancel("a", batch)


async def test_why_a_batch_failed_is_kept(shelf: Shelf) -> None:
    batch = await shelf.batch(await shelf.file())
    await shelf.batches.fail(await shelf.claim(), [BatchProblem("bad", "No.", line=3)])
    found = await shelf.batches.get("a", batch)
    assert found.status == "failed"
    assert found.errors == [{"code": "bad", "message": "No.", "line": 3, "param": None}]


async def test_an_owner_has_only_so_many_batches_at_once(shelf: Shelf) -> None:
    file = await shelf.file()
    for _ in range(3):
        await shelf.batch(file)
    with pytest.raises(RateLimitError, match="3 unfinished"):
        await shelf.batch(file)
    await shelf.batch(file, tenant="b")
    await shelf.batches.fail(await shelf.claim(), [])
    await shelf.batch(file)


async def test_ended_batches_are_forgotten_in_time(shelf: Shelf) -> None:
    file = await shelf.file()
    old, young = await shelf.batch(file), await shelf.batch(file)
    await shelf.batches.fail(await shelf.claim(), [])
    assert await shelf.batches.sweep() == 0
    shelf.clock.pass_s(10 * 365 * 86400)
    assert await shelf.batches.sweep() == 1
    assert await shelf.batches.find(old) is None
    assert await shelf.batches.find(young) is not None
    page = await shelf.batches.page("a", after=None, limit=5)
    assert ([batch.id for batch in page.items], page.has_more) == ([young], False)
