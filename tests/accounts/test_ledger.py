"""The ledger on real databases: reserving, settling, limits, races, crashes and lost answers."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

from osslo.accounts.ledger.operations import Post, Sweep
from osslo.accounts.ledger.records import Counts, EntryKind, Outcome, Status
from osslo.accounts.ledger.sweeper import Sweeper, Watch
from osslo.accounts.ledger.writer import LedgerWriter
from osslo.db.database import Database, sqlite_url
from osslo.db.migrate import upgrade
from osslo.db.steps import Steps, steps_of
from osslo.errors import OverloadedError, QuotaError, RequestError
from tests.accounts.ledger_stage import DOLLAR, Ledger, ledger_on
from tests.databases import PostgresProcess, PostgresServer

DONE = Outcome(Status.COMPLETED)
MOST = 100 * 80 + 1000 * 320


@pytest.fixture
async def ledger(database: Database) -> AsyncIterator[Ledger]:
    async with ledger_on(database) as opened:
        yield opened


async def test_a_request_is_reserved_and_settled_exactly(ledger: Ledger) -> None:
    await ledger.give("ann", DOLLAR)
    charge = await ledger.open()
    assert await ledger.balance() == DOLLAR - MOST
    ended = charge.end(Counts(100, 7, cached_tokens=60, reasoning_tokens=3), DONE)
    assert ended is not None
    cost = 40 * 80 + 60 * 40 + 7 * 320
    assert await ended == cost
    assert await ledger.balance() == DOLLAR - cost
    assert await ledger.open_reservations() == 0
    (row,) = await ledger.usage()
    counted = (row.prompt_tokens, row.cached_tokens, row.completion_tokens, row.reasoning_tokens)
    assert counted == (100, 60, 7, 3)
    assert (row.cost_nanousd, row.status, row.key_id) == (cost, "completed", "key_1")


async def test_what_generated_nothing_costs_nothing(ledger: Ledger) -> None:
    await ledger.give("ann", DOLLAR)
    charge = await ledger.open()
    ended = charge.end(Counts(100), Outcome(Status.REFUSED, error="overloaded"))
    assert ended is not None
    assert await ended == 0
    assert charge.end(Counts(100, 50), DONE) is None
    assert await ledger.balance() == DOLLAR


async def test_no_money_is_refused_and_says_what_would_be_covered(ledger: Ledger) -> None:
    with pytest.raises(QuotaError, match=r"balance is \$0\.00"):
        await ledger.open()
    await ledger.give("ann", 100 * 80 + 50 * 320)
    with pytest.raises(QuotaError, match="at most 50 output tokens"):
        await ledger.open()
    assert await ledger.balance() == 100 * 80 + 50 * 320
    lowered = await ledger.open(may_lower=True)
    assert lowered.max_tokens == 50
    assert await ledger.balance() == 0


async def test_a_request_is_not_lowered_to_next_to_nothing(ledger: Ledger) -> None:
    await ledger.give("ann", 100 * 80 + 15 * 320)
    with pytest.raises(QuotaError):
        await ledger.open(may_lower=True)
    assert (await ledger.open(max_tokens=15)).max_tokens == 15


async def test_concurrent_requests_never_overspend(ledger: Ledger) -> None:
    await ledger.give("ann", 10 * MOST + 5)

    async def one() -> bool:
        try:
            await ledger.open()
        except QuotaError:
            return False
        return True

    assert sum(await asyncio.gather(*(one() for _ in range(64)))) == 10
    assert await ledger.balance() == 5


async def test_replicas_share_one_balance(database: Database) -> None:
    """Two processes spend the same users' money at once, in batches that name them in any order."""
    users = [f"user_{index}" for index in range(6)]
    other = Database(database.url.render_as_string(hide_password=False))
    async with ledger_on(database, "proc_a") as a, ledger_on(other, "proc_b") as b:
        for user in users:
            await a.give(user, 5 * MOST)
        chosen = random.Random(5)

        async def one(ledger: Ledger, user: str) -> int:
            try:
                charge = await ledger.open(user)
            except QuotaError:
                return 0
            ended = charge.end(Counts(100, 1000, cached_tokens=0), DONE)
            assert ended is not None
            await ended
            return 1

        asked = [(chosen.choice((a, b)), chosen.choice(users)) for _ in range(120)]
        granted = sum(await asyncio.gather(*(one(ledger, user) for ledger, user in asked)))
        left = [await a.balance(user) for user in users]
        assert sum(left) == 6 * 5 * MOST - granted * MOST
        assert min(left) >= 0
        assert await a.open_reservations() == 0
    await other.close()


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE ledger_entries SET amount_nanousd = 1", "append-only"),
        ("DELETE FROM ledger_entries", "append-only"),
        ("UPDATE balances SET balance_nanousd = -1", "not_negative"),
    ],
)
async def test_the_database_itself_refuses(ledger: Ledger, statement: str, what: str) -> None:
    await ledger.give("ann", DOLLAR)
    with pytest.raises(DBAPIError, match=what):
        async with ledger.database.write() as session:
            await session.execute(text(statement))
    assert await ledger.balance() == DOLLAR


async def test_a_payment_told_twice_counts_once(ledger: Ledger) -> None:
    payment = Post("ann", EntryKind.TOP_UP, DOLLAR, "stripe:evt_1")
    assert (await ledger.writer.post(payment)).new
    again = await ledger.writer.post(payment)
    assert (again.new, again.balance_nanousd) == (False, DOLLAR)
    with pytest.raises(RequestError, match="idempotency"):
        await ledger.writer.post(Post("ann", EntryKind.TOP_UP, 2, "stripe:evt_1"))
    together = [Post("ann", EntryKind.TOP_UP, 1, "x") for _ in range(9)]
    results = await asyncio.gather(*(ledger.writer.post(post) for post in together))
    assert sum(result.new for result in results) == 1
    assert await ledger.balance() == DOLLAR + 1


async def test_no_more_can_be_taken_than_there_is(ledger: Ledger) -> None:
    await ledger.give("ann", 5)
    with pytest.raises(RequestError, match="cannot be taken"):
        await ledger.writer.post(Post("ann", EntryKind.ADJUSTMENT, -6, "fix"))
    assert await ledger.balance() == 5


# --- progress and crashes -----------------------------------------------------------------------


async def test_progress_is_durable_and_keeps_up(database: Database) -> None:
    async with ledger_on(database, every=8) as ledger:
        await ledger.give("ann", DOLLAR)
        charge = await ledger.open()
        for told in range(1, 101):
            charge.progress(Counts(100, told, cached_tokens=20))
            await charge.keep_up()
            async with database.read() as session:
                query = text("SELECT completion_tokens FROM reservations")
                durable = (await session.execute(query)).scalar_one()
            assert told + 1 - durable <= 8


async def test_the_sweeper_charges_what_is_durable(database: Database) -> None:
    async with ledger_on(database, "proc_dead") as dead:
        await dead.give("ann", DOLLAR)
        begun = await dead.open(request_id="begun")
        begun.progress(Counts(100, 40, cached_tokens=60, reasoning_tokens=9))
        await dead.open(request_id="not begun")
        unknown = await dead.open(request_id="cached part unknown")
        unknown.progress(Counts(100, 32))
    async with ledger_on(database, "proc_live") as live:
        times = iter((0.0, 3.0, 6.0, 9.0, 12.0))
        sweeper = Sweeper(
            database, live.writer, process_id="proc_live", lease_s=10, clock=lambda: next(times)
        )
        for _ in range(4):
            assert await sweeper.look() == 0
        assert await live.open_reservations() == 3
        assert await sweeper.look() == 3
        cost = (40 * 80 + 60 * 40 + 40 * 320) + (100 * 40 + 32 * 320)
        assert await live.balance() == DOLLAR - cost
        assert await live.open_reservations() == 0
        assert {row.status for row in await live.usage()} == {"crashed"}


async def test_one_that_was_swept_alive_charges_the_rest(ledger: Ledger) -> None:
    await ledger.give("ann", DOLLAR)
    charge = await ledger.open()
    charge.progress(Counts(100, 32, cached_tokens=0))
    async with ledger.database.read() as session:
        reservation_id = (await session.execute(text("SELECT id FROM reservations"))).scalar_one()
    assert await ledger.writer.sweep([Sweep(reservation_id, "ann")]) == 1
    assert await ledger.balance() == DOLLAR - (100 * 80 + 32 * 320)
    assert await ledger.writer.sweep([Sweep(reservation_id, "ann")]) == 0
    ended = charge.end(Counts(100, 90, cached_tokens=0), DONE)
    assert ended is not None
    assert await ended == 100 * 80 + 90 * 320
    assert await ledger.balance() == DOLLAR - (100 * 80 + 90 * 320)
    (row,) = await ledger.usage()
    assert (row.status, row.completion_tokens) == ("completed", 90)
    async with ledger.database.read() as session:
        columns = "requests, completion_tokens, cost_nanousd"
        daily = (await session.execute(text(f"SELECT {columns} FROM usage_daily"))).one()
    assert tuple(daily) == (1, 90, row.cost_nanousd)


async def test_one_that_was_swept_alive_and_dies_later_loses_one_step(ledger: Ledger) -> None:
    """A process that stood still is swept, goes on, and is killed: what it generated after the
    sweep is durable step by step, as before it."""
    await ledger.give("ann", DOLLAR)
    charge = await ledger.open()
    async with ledger.database.read() as session:
        reservation_id = (await session.execute(text("SELECT id FROM reservations"))).scalar_one()
    for told in range(1, 401):
        charge.progress(Counts(100, told, cached_tokens=0))
        await charge.keep_up()
        if told == 70:
            assert await ledger.writer.sweep([Sweep(reservation_id, "ann")]) == 1
        if told > 70 and told % 9 == 0:
            async with ledger.database.read() as session:
                query = text("SELECT completion_tokens, balance_nanousd FROM usage, balances")
                durable, balance = (await session.execute(query)).one()
            assert told - durable <= 64
            assert DOLLAR - balance == 100 * 80 + durable * 320
    (row,) = await ledger.usage()
    assert row.status == "crashed"
    ended = charge.end(Counts(100, 400, cached_tokens=0), DONE)
    assert ended is not None
    assert await ended == 100 * 80 + 400 * 320
    (row,) = await ledger.usage()
    assert (row.status, row.completion_tokens) == ("completed", 400)
    async with ledger.database.read() as session:
        columns = "requests, completion_tokens, cost_nanousd"
        daily = (await session.execute(text(f"SELECT {columns} FROM usage_daily"))).one()
    assert tuple(daily) == (1, 400, row.cost_nanousd)


async def test_the_rest_is_charged_only_as_far_as_money_goes(ledger: Ledger) -> None:
    await ledger.give("ann", MOST)
    charge = await ledger.open()
    async with ledger.database.read() as session:
        reservation_id = (await session.execute(text("SELECT id FROM reservations"))).scalar_one()
    await ledger.writer.sweep([Sweep(reservation_id, "ann")])
    await ledger.open(request_id="another", max_tokens=990)
    ended = charge.end(Counts(100, 90, cached_tokens=0), DONE)
    assert ended is not None
    assert await ended == 10 * 320
    assert await ledger.balance() == 0


def test_clocks_and_stalls_do_not_make_the_living_look_dead() -> None:
    watch = Watch(lease_s=10)
    for moment in range(0, 40, 2):
        dead = watch.see({"living": moment, "still": 7}, float(moment))
        assert dead == (["still"] if moment >= 10 else [])
    assert watch.see({"living": 38, "still": 7}, 500.0) == []  # we stood still ourselves
    assert watch.see({"living": 38, "still": 7}, 502.0) == []


# --- databases that go away ---------------------------------------------------------------------


class Faulty:
    """Steps that, as told, lose the answer of a commit or cannot reach the database at all."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.lose = 0
        self.away = 0
        self.forever = False

    async def run(self, step: object, at_once: object = None) -> object:
        self.reach()
        result = await self.steps.run(step, at_once)  # type: ignore[arg-type]  # a step
        self.answer()
        return result

    def now(self, step: object) -> object:
        self.reach()
        result = self.steps.now(step)  # type: ignore[arg-type]  # a step
        if result is not None:
            self.answer()
        return result

    def reach(self) -> None:
        if self.away > 0 or self.forever:
            self.away -= 1
            raise ConnectionRefusedError("away")

    def answer(self) -> None:
        if self.lose:
            self.lose -= 1
            raise OperationalError(
                "COMMIT", {}, ConnectionResetError(), connection_invalidated=True
            )

    async def flush(self) -> None:
        await self.steps.flush()

    async def close(self) -> None:
        await self.steps.close()


async def test_a_commit_whose_answer_is_lost_counts_once(database: Database) -> None:
    async with ledger_on(database) as ledger:
        await ledger.give("ann", DOLLAR)
        faulty = Faulty(steps_of(database))
        writer = LedgerWriter(faulty)  # type: ignore[arg-type]  # for any step
        writer.start()
        ledger.charging._writer = writer
        for _ in range(3):
            faulty.lose, faulty.away = 2, 1
            charge = await ledger.open()
            faulty.lose = 1
            charge.progress(Counts(100, 64, cached_tokens=0))
            faulty.lose = 2
            ended = charge.end(Counts(100, 70, cached_tokens=0), DONE)
            assert ended is not None
            await ended
        faulty.lose = 1
        await writer.post(Post("ann", EntryKind.TOP_UP, 1, "once"))
        assert await ledger.balance() == DOLLAR + 1 - 3 * (100 * 80 + 70 * 320)
        assert await ledger.open_reservations() == 0
        assert len(await ledger.usage()) == 3
        await writer.close()


class Gated:
    """Steps whose flushes wait for a gate."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.gate = asyncio.Event()
        self.waiting = asyncio.Event()

    async def run(self, step: object, at_once: object = None) -> object:
        return await self.steps.run(step, at_once)  # type: ignore[arg-type]  # a step

    def now(self, step: object) -> object:
        return self.steps.now(step)  # type: ignore[arg-type]  # a step

    async def flush(self) -> None:
        self.waiting.set()
        await self.gate.wait()
        await self.steps.flush()

    async def close(self) -> None:
        await self.steps.close()


async def test_a_reservation_does_not_wait_for_the_disk_and_all_else_does(
    database: Database,
) -> None:
    async with ledger_on(database) as ledger:
        await ledger.give("ann", DOLLAR)
        gated = Gated(steps_of(database))
        writer = LedgerWriter(gated)  # type: ignore[arg-type]  # for any step
        writer.start()
        ledger.charging._writer = writer
        charge = await ledger.open()
        ended = charge.end(Counts(100, 1, cached_tokens=0), DONE)
        assert ended is not None
        gift = writer.put(Post("ann", EntryKind.TOP_UP, 1, "gift"))
        await ledger.open()  # committed after them
        assert not ended.done()
        assert not gift.done()
        gated.gate.set()
        assert await ended == 100 * 80 + 320
        await gift
        await writer.close()


class Forgetful(Gated):
    """Steps on SQLite that lose what was not flushed when they are told to, as a power cut would,
    although their process goes on."""

    def __init__(self, steps: Steps, path: str) -> None:
        super().__init__(steps)
        self.path = path
        self.flushed = sqlite3.connect(":memory:", check_same_thread=False)
        self.keep()

    def keep(self) -> None:
        with closing(sqlite3.connect(self.path)) as live:
            live.backup(self.flushed)

    def forget(self) -> None:
        with closing(sqlite3.connect(self.path)) as live:
            self.flushed.backup(live)

    async def flush(self) -> None:
        if not self.gate.is_set():
            self.waiting.set()
            await self.gate.wait()
            raise ConnectionResetError("lost")
        await self.steps.flush()


async def test_what_was_lost_before_it_was_flushed_is_committed_again(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path / "osslo.db"))
    await upgrade(database)
    async with ledger_on(database) as ledger:
        await ledger.give("ann", DOLLAR)
        forgetful = Forgetful(steps_of(database), str(tmp_path / "osslo.db"))
        writer = LedgerWriter(forgetful)  # type: ignore[arg-type]  # for any step
        writer.start()
        ledger.charging._writer = writer
        await use_a_server_that_is_lost(ledger, forgetful, forgetful.forget)
        await writer.close()
        await exactly_two_are_charged(ledger)
    await database.close()


async def test_what_stands_although_its_flush_failed_counts_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(sqlite_url(tmp_path / "osslo.db"))
    await upgrade(database)
    async with ledger_on(database) as ledger:
        await ledger.give("ann", DOLLAR)
        steps = Forgetful(steps_of(database), str(tmp_path / "osslo.db"))
        writer = LedgerWriter(steps)  # type: ignore[arg-type]  # for any step
        writer.start()
        ledger.charging._writer = writer
        charge = await ledger.open()
        await steps.waiting.wait()
        steps.gate.set()
        await writer._idle.wait()  # what was committed was committed again
        ended = charge.end(Counts(100, 1, cached_tokens=0), DONE)
        assert ended is not None
        assert await ended == 100 * 80 + 320
        await writer.close()
        assert "a ledger operation failed" not in caplog.text
        assert await ledger.balance() == DOLLAR - (100 * 80 + 320)
    await database.close()


async def test_a_server_that_crashes_loses_nothing() -> None:
    with TemporaryDirectory(prefix="osslo-pg-") as folder:
        process = PostgresProcess(Path(folder))
        process.start()
        url = await asyncio.to_thread(PostgresServer(Path(folder), count()).new_database)
        database = Database(url)
        await upgrade(database)

        def crash() -> None:
            process.stop(signal.SIGQUIT)
            process.start()

        async with ledger_on(database) as ledger:
            await ledger.give("ann", DOLLAR)
            gated = Gated(steps_of(database))
            writer = LedgerWriter(gated)  # type: ignore[arg-type]  # for any step
            writer.start()
            ledger.charging._writer = writer
            await use_a_server_that_is_lost(ledger, gated, crash, known_lost=False)
            await writer.close()
            await exactly_two_are_charged(ledger)
        await database.close()
        process.stop()


async def use_a_server_that_is_lost(
    ledger: Ledger, gated: Gated, lose: Callable[[], None], *, known_lost: bool = True
) -> None:
    """Two requests: one has ended and one runs when the database loses what it did not flush."""
    charge = await ledger.open()
    ended = charge.end(Counts(100, 9, cached_tokens=0), DONE)
    assert ended is not None
    other = await ledger.open()  # committed after that end
    assert await ledger.open_reservations() == 1
    await gated.waiting.wait()
    await asyncio.to_thread(lose)
    if known_lost:
        assert await ledger.open_reservations() == 0
        assert await ledger.balance() == DOLLAR
    gated.gate.set()
    assert await ended == 100 * 80 + 9 * 320
    late = other.end(Counts(100, 5, cached_tokens=0), DONE)
    assert late is not None
    assert await late == 100 * 80 + 5 * 320


async def exactly_two_are_charged(ledger: Ledger) -> None:
    assert await ledger.balance() == DOLLAR - (2 * 100 * 80 + 14 * 320)
    assert await ledger.open_reservations() == 0
    assert len(await ledger.usage()) == 2


async def test_away_for_long_refuses_the_new_and_keeps_the_ended(database: Database) -> None:
    async with ledger_on(database) as ledger:
        await ledger.give("ann", DOLLAR)
        faulty = Faulty(steps_of(database))
        writer = LedgerWriter(faulty)  # type: ignore[arg-type]  # as above
        writer.start()
        ledger.charging._writer = writer
        charge = await ledger.open()
        faulty.forever = True
        writer._reserve_wait_s = 0.05
        for _ in range(3):
            with pytest.raises(OverloadedError) as refused:
                await ledger.open()
            assert refused.value.retry_after_s
        ended = charge.end(Counts(100, 1, cached_tokens=0), DONE)
        assert ended is not None
        assert not ended.done()
        faulty.forever = False
        assert await ended == 100 * 80 + 320
        await writer.close()
        assert await ledger.balance() == DOLLAR - (100 * 80 + 320)
        assert await ledger.open_reservations() == 0


async def test_one_bad_operation_does_not_stop_the_others(ledger: Ledger) -> None:
    await ledger.give("ann", DOLLAR)
    bad = ledger.writer.put(Post("ann", EntryKind.TOP_UP, 2**70, "bad"))
    good = ledger.writer.put(Post("ann", EntryKind.TOP_UP, 1, "good"))
    assert isinstance(await bad, Exception)
    await good
    assert await ledger.balance() == DOLLAR + 1


async def test_a_caller_who_leaves_reserves_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.give("ann", DOLLAR)
    monkeypatch.setattr(ledger.writer._steps, "now", lambda _: None)  # all have to queue
    tasks = [asyncio.create_task(ledger.open()) for _ in range(8)]
    for _ in range(3):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await ledger.writer.close()
    assert await ledger.open_reservations() == 0
    assert await ledger.balance() == DOLLAR
