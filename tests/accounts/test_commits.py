"""Commits of the ledger, below its writer: batches of any kind, replicas that commit at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from osslo.accounts.ledger.book import Book
from osslo.accounts.ledger.journal import _writes, commit, commit_at_once
from osslo.accounts.ledger.loading import Asked, Seen, loaded_from, look
from osslo.accounts.ledger.operations import (
    Beat,
    End,
    Farewell,
    Late,
    Operation,
    Post,
    Progress,
    Reserve,
    Sweep,
)
from osslo.accounts.ledger.records import Counts, EntryKind, Outcome, Reservation, Status
from osslo.accounts.records import COMMAND_LINE, KeyRules, Role, SpendingPeriod
from osslo.db.database import Database
from osslo.db.migrate import upgrade
from osslo.db.prepared import write_if
from osslo.db.steps import Steps, steps_of
from osslo.errors import QuotaError
from tests.accounts.conftest import make_accounts
from tests.accounts.ledger_stage import DOLLAR, RATES, ledger_on
from tests.databases import PostgresServer

DONE = Outcome(Status.COMPLETED)
MOST = RATES.most(100, 1000)
GIFT = Post("ann", EntryKind.TOP_UP, DOLLAR, "gift")


def reservation(name: str, key_id: str = "") -> Reservation:
    return Reservation(
        id=name,
        request_id="request " + name,
        process_id="p",
        user_id="ann",
        key_id=key_id,
        model="m",
        protocol="p",
        rates=RATES,
        reserved_nanousd=MOST,
        max_tokens=1000,
        counts=Counts(100),
    )


async def run(
    steps: Steps, operations: Sequence[Operation], *, again: bool = False
) -> list[object]:
    """A batch in a transaction of its own."""
    return list(await steps.run(partial(commit, operations=operations, again=again)))


async def rows(database: Database, query: str) -> list[tuple[object, ...]]:
    async with database.read() as session:
        return [tuple(row) for row in await session.execute(text(query))]


async def test_a_request_may_begin_and_end_in_one_batch(database: Database) -> None:
    steps = steps_of(database)
    whole: list[Operation] = [
        GIFT,
        Reserve(reservation("a")),
        End(reservation("a"), Counts(100, 1, cached_tokens=100), DONE),
        End(reservation("a"), Counts(100, 1, cached_tokens=100), DONE),
        End(reservation("never reserved"), Counts(100, 1), DONE),
    ]
    results = await run(steps, whole)
    cost = 100 * 40 + 320
    assert results[2:] == [cost, cost, 0]
    assert (await run(steps, whole, again=True))[2:] == [cost, cost, 0]
    query = "SELECT count(*), sum(amount_nanousd) FROM ledger_entries"
    assert await rows(database, query) == [(3, DOLLAR - cost)]
    await steps.close()


async def test_what_began_before_may_begin_again_and_end_in_one_batch(database: Database) -> None:
    """The answer to a reservation was lost: it is committed again, with its end behind it."""
    steps = steps_of(database)
    begun = Reserve(reservation("a"))
    await run(steps, [GIFT, begun])
    ended = End(reservation("a"), Counts(100, 1, cached_tokens=0), DONE)
    results = await run(steps, [begun, ended], again=True)
    assert results == [reservation("a"), 100 * 80 + 320]
    assert await rows(database, "SELECT count(*) FROM reservations") == [(0,)]
    await steps.close()


async def test_one_batch_may_sweep_a_request_and_correct_it_twice(database: Database) -> None:
    steps = steps_of(database)
    await run(steps, [GIFT, Reserve(reservation("a"))])
    batch: list[Operation] = [
        Progress("a", Counts(100, 10, cached_tokens=0)),
        Sweep("a", "ann"),
        Late(reservation("a"), Counts(100, 20, cached_tokens=0)),
        End(reservation("a"), Counts(100, 30, cached_tokens=0), DONE),
    ]
    cost = 100 * 80 + 30 * 320
    assert (await run(steps, batch))[-1] == cost
    for table in ("usage", "usage_daily"):
        query = f"SELECT completion_tokens, cost_nanousd FROM {table}"
        assert await rows(database, query) == [(30, cost)]
    later: list[Operation] = [Reserve(reservation("b")), Sweep("b", "ann")]
    await run(steps, later)
    twice: list[Operation] = [
        Late(reservation("b"), Counts(100, 5, cached_tokens=0)),
        Late(reservation("b"), Counts(100, 7, cached_tokens=0)),
    ]
    await run(steps, twice)
    query = "SELECT completion_tokens FROM usage WHERE id = 'b'"
    assert await rows(database, query) == [(7,)]
    await steps.close()


async def test_a_process_that_beats_and_leaves_in_one_batch_is_gone(database: Database) -> None:
    steps = steps_of(database)
    await run(steps, [Beat("p")])
    await run(steps, [Beat("p"), Farewell("p")])
    assert await rows(database, "SELECT count(*) FROM ledger_processes") == [(0,)]
    await steps.close()


@pytest.mark.parametrize("period", SpendingPeriod)
async def test_replicas_share_one_spending_limit(
    database: Database, period: SpendingPeriod
) -> None:
    """Ten times what a key may spend is asked for, by two processes at once."""
    accounts = make_accounts(database)
    ann = await accounts.users.create(
        COMMAND_LINE, email="ann@example.com", name="ann", role=Role.MEMBER, password=None
    )
    rules = KeyRules(name="k", spending_limit_nanousd=5 * MOST, spending_period=period)
    key = (await accounts.keys.create(COMMAND_LINE, ann.id, rules)).key
    other = Database(database.url.render_as_string(hide_password=False))
    async with ledger_on(database, "proc_a") as a, ledger_on(other, "proc_b") as b:
        await a.give(ann.id, DOLLAR)

        async def one(number: int) -> int:
            try:
                charge = await (a, b)[number % 2].open(ann.id, key_id=key.id)
            except QuotaError:
                return 0
            if number % 3 == 0:
                charge.end(Counts(100, 1000, cached_tokens=0), DONE)
            return 1

        assert sum(await asyncio.gather(*(one(number) for number in range(50)))) == 5
        assert await a.balance(ann.id) == DOLLAR - 5 * MOST
    await other.close()


# --- PostgreSQL: a look, and a write if nothing changed ------------------------------------------


@pytest.fixture
async def server(postgres: PostgresServer) -> AsyncIterator[Database]:
    database = Database(await asyncio.to_thread(postgres.new_database))
    await upgrade(database)
    yield database
    await database.close()


@asynccontextmanager
async def autocommit(database: Database) -> AsyncIterator[AsyncConnection]:
    async with database.engine.connect() as connection:
        yield await connection.execution_options(isolation_level="AUTOCOMMIT")


def write_what(seen: Seen, operations: Sequence[Operation]) -> Callable[[Connection], bool]:
    def written(connection: Connection) -> bool:
        book = Book(loaded_from(connection, seen))
        for operation in operations:
            book.apply(operation)
        return write_if(connection, seen.versions, _writes(book, seen.now))

    return written


CHANGES: list[tuple[str, list[Operation]]] = [
    ("a reservation", [Reserve(reservation("other"))]),
    ("a payment", [Post("ann", EntryKind.TOP_UP, 1, "small gift")]),
    ("there and back", [Reserve(reservation("b")), End(reservation("b"), Counts(100), DONE)]),
    ("progress", [Progress("a", Counts(100, 64, cached_tokens=0))]),
    ("a sweep", [Sweep("a", "ann")]),
]


@pytest.mark.parametrize("change", [change for _, change in CHANGES], ids=[n for n, _ in CHANGES])
async def test_what_changed_since_it_was_seen_is_not_written_over(
    server: Database, change: list[Operation]
) -> None:
    steps = steps_of(server)
    await run(steps, [GIFT, Reserve(reservation("a"))])
    mine: list[Operation] = [Reserve(reservation("mine")), Sweep("a", "ann")]
    async with autocommit(server) as connection:
        seen = await connection.run_sync(partial(look, asked=Asked.by(mine), lock=False))
        await run(steps, change)
        before = await everything(server)
        assert not await connection.run_sync(write_what(seen, mine))
        assert await everything(server) == before
        seen = await connection.run_sync(partial(look, asked=Asked.by(mine), lock=False))
        if change != CHANGES[-1][1]:
            assert await connection.run_sync(write_what(seen, mine))
    await steps.close()


@pytest.mark.parametrize("kept", [True, False])
async def test_a_write_waits_for_who_came_before(server: Database, kept: bool) -> None:
    """Another transaction holds the balance: whether it commits decides whether we may write."""
    steps = steps_of(server)
    await run(steps, [GIFT])
    mine: list[Operation] = [Reserve(reservation("mine"))]
    async with autocommit(server) as connection, server.engine.connect() as other:
        seen = await connection.run_sync(partial(look, asked=Asked.by(mine), lock=False))
        await other.execute(text("UPDATE balances SET balance_nanousd = balance_nanousd"))
        writing = asyncio.create_task(connection.run_sync(write_what(seen, mine)))
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        while (await other.execute(waiting)).scalar_one() == 0:
            pass
        await (other.commit() if kept else other.rollback())
        assert await writing is not kept
    await steps.close()


async def test_what_must_be_looked_up_is_left_to_a_transaction(server: Database) -> None:
    steps = steps_of(server)
    await run(steps, [GIFT, Reserve(reservation("a")), Sweep("a", "ann")])
    async with autocommit(server) as connection:
        for operation in (
            End(reservation("a"), Counts(100, 1), DONE),
            Late(reservation("a"), Counts(100, 1)),
            GIFT,
        ):
            asked = partial(commit_at_once, operations=[operation])
            assert await connection.run_sync(asked) is None
    await steps.close()


async def test_a_commit_at_once_does_what_a_transaction_does(server: Database) -> None:
    steps = steps_of(server)
    await run(steps, [GIFT])
    batches: list[list[Operation]] = [
        [Reserve(reservation("a")), Reserve(reservation("b")), Beat("p")],
        [Progress("a", Counts(100, 64, cached_tokens=0)), Reserve(reservation("c"))],
        [End(reservation("a"), Counts(100, 70, cached_tokens=0), DONE), Sweep("b", "ann")],
        [Progress("a", Counts(100, 80, cached_tokens=0)), Farewell("p")],
    ]
    async with autocommit(server) as connection:
        results = [
            await connection.run_sync(partial(commit_at_once, operations=batch))
            for batch in batches
        ]
    cost = 100 * 80 + 70 * 320
    assert results == [
        [reservation("a"), reservation("b"), None],
        [True, reservation("c")],
        [cost, True],
        [False, None],
    ]
    assert await rows(server, "SELECT balance_nanousd FROM balances") == [(DOLLAR - cost - MOST,)]
    await steps.close()


async def everything(database: Database) -> list[object]:
    tables = ("balances", "ledger_entries", "reservations", "usage", "usage_daily")
    return [await rows(database, f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]
