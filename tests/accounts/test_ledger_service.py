"""The ledger as the server runs it: top-ups, the welcome credit, charges of turns, and reading."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from osslo.accounts.context import Context
from osslo.accounts.ledger.reading import UsageFilter
from osslo.accounts.ledger.records import EntryKind, Status
from osslo.accounts.ledger.service import Ledger, welcome
from osslo.accounts.records import COMMAND_LINE, Actor, Role, User
from osslo.accounts.service import Accounts, assemble
from osslo.api.metering import LedgerMeter
from osslo.chat.events import TurnEnd, TurnEnded
from osslo.chat.metering import Bill
from osslo.db.database import Database
from osslo.errors import PermissionDeniedError, QuotaError, RequestError
from osslo.types import Timings, Usage
from tests.accounts.conftest import PEPPER, cheap_passwords

DOLLAR = 1_000_000_000
TODAY = datetime.now(UTC).date()


@pytest.fixture
async def accounts(database: Database) -> Accounts:
    context = Context(database, PEPPER, cheap_passwords())
    return assemble(context, on_user_created=welcome)


@pytest.fixture
async def ledger(accounts: Accounts) -> AsyncIterator[Ledger]:
    opened = Ledger(accounts.context, accounts.prices, lease_s=60)
    await opened.start()
    yield opened
    await opened.close()


@pytest.fixture
async def ann(accounts: Accounts) -> User:
    return await accounts.users.create(COMMAND_LINE, email="ann@example.org", name="Ann")


async def balance(ledger: Ledger, user: User) -> int:
    return (await ledger.reader.accounts([user.id]))[user.id].balance_nanousd


async def test_a_new_user_has_the_welcome_credit(ledger: Ledger, ann: User) -> None:
    assert await balance(ledger, ann) == DOLLAR
    entries = await ledger.reader.entries(ann.id, limit=10)
    assert [entry.kind for entry in entries] == [EntryKind.WELCOME]


async def test_a_top_up_counts_once(ledger: Ledger, accounts: Accounts, ann: User) -> None:
    for _ in range(3):
        await ledger.top_up(COMMAND_LINE, ann.id, DOLLAR, note="gift", idempotency_key="k")
    assert await balance(ledger, ann) == 2 * DOLLAR
    log = await accounts.audit_log(COMMAND_LINE, act="balance.top_up")
    assert len(log) == 1


async def test_money_cannot_be_taken_that_is_not_there(ledger: Ledger, ann: User) -> None:
    with pytest.raises(RequestError):
        await ledger.top_up(COMMAND_LINE, ann.id, -2 * DOLLAR, note=None, idempotency_key="k")
    with pytest.raises(RequestError, match="above zero"):
        await ledger.top_up(COMMAND_LINE, ann.id, 0, note=None, idempotency_key="k")
    assert await balance(ledger, ann) == DOLLAR


async def test_members_give_no_money(ledger: Ledger, ann: User) -> None:
    member = Actor(kind="user", role=Role.MEMBER, user_id=ann.id)
    with pytest.raises(PermissionDeniedError):
        await ledger.top_up(member, ann.id, DOLLAR, note=None, idempotency_key="k")


async def run_turn(ledger: Ledger, user: User, ended: TurnEnded, key: str = "key_1") -> None:
    bill = Bill("gpt-oss-20b", "chat.completions", user.id, key)
    charge = await LedgerMeter(ledger).open(
        bill, request_id="chatcmpl-1", prompt_tokens=100, max_tokens=1000
    )
    charge.settle(ended)


async def test_a_turn_is_charged_exactly_and_listed(ledger: Ledger, ann: User) -> None:
    usage = Usage(100, 50, cached_tokens=40, reasoning_tokens=20)
    timings = Timings(decode_s=4.9)
    await run_turn(ledger, ann, TurnEnded(TurnEnd.STOP, usage, timings, first_output_s=0.25))
    await run_turn(ledger, ann, TurnEnded(TurnEnd.ERROR, Usage(100, 0)), key="key_2")
    after = datetime.now(UTC) + timedelta(hours=1)
    cost = 60 * 80 + 40 * 40 + 50 * 320
    # An end is queued behind this top-up, so that its commit shows both.
    await ledger.top_up(COMMAND_LINE, ann.id, 1, note=None, idempotency_key="flush")
    assert await balance(ledger, ann) == DOLLAR + 1 - cost
    records = await ledger.reader.usage(UsageFilter(ann.id, until=after), limit=10)
    assert {record.status for record in records} == {Status.COMPLETED, Status.FAILED}
    done = next(record for record in records if record.status is Status.COMPLETED)
    assert (done.cost_nanousd, done.first_token_ms) == (cost, 250.0)
    assert done.tokens_per_second == pytest.approx(10.0)
    failed = await ledger.reader.usage(UsageFilter(ann.id, failed=True), limit=10)
    assert [record.key_id for record in failed] == ["key_2"]
    assert len(await ledger.reader.usage(UsageFilter(ann.id), limit=1)) == 2  # one more
    newest = (await ledger.reader.usage(UsageFilter(ann.id), limit=1))[0]
    older = await ledger.reader.usage(UsageFilter(ann.id), limit=5, after=newest.id)
    assert [record.id for record in older] == [r.id for r in records if r.id != newest.id]
    totals = await ledger.reader.totals(ann.id, since=TODAY)
    assert (totals.requests, totals.failed, totals.cost_nanousd) == (2, 1, cost)
    assert totals.first_token_ms == 250.0
    daily = await ledger.reader.daily(since=TODAY, user_id=ann.id)
    assert sum(use.completion_tokens for use in daily) == 50


@pytest.mark.parametrize(
    ("cached", "known", "prompt_cost"),
    [
        (40, True, 60 * 80 + 40 * 40),
        (0, False, 100 * 40),
    ],
)
async def test_a_cancelled_turn_pays_for_its_prompt_what_is_known(
    ledger: Ledger, ann: User, cached: int, known: bool, prompt_cost: int
) -> None:
    usage = Usage(100, 50, cached_tokens=cached)
    await run_turn(ledger, ann, TurnEnded(TurnEnd.ABORT, usage, cached_known=known))
    await ledger.top_up(COMMAND_LINE, ann.id, 1, note=None, idempotency_key="flush")
    assert await balance(ledger, ann) == DOLLAR + 1 - (prompt_cost + 50 * 320)


async def test_without_money_there_is_no_turn(ledger: Ledger, ann: User) -> None:
    await ledger.top_up(COMMAND_LINE, ann.id, -DOLLAR, note=None, idempotency_key="k")
    with pytest.raises(QuotaError):
        await run_turn(ledger, ann, TurnEnded(TurnEnd.STOP, Usage(1, 1)))
    assert (await ledger.reader.accounts([ann.id]))[ann.id].reserved_nanousd == 0


async def test_callers_without_an_account_are_free(ledger: Ledger) -> None:
    charge = await LedgerMeter(ledger).open(
        Bill("gpt-oss-20b", "chat.completions"), request_id="r", prompt_tokens=1, max_tokens=10
    )
    charge.settle(TurnEnded(TurnEnd.STOP, Usage(1, 1)))
    assert await ledger.reader.usage(UsageFilter(), limit=5) == []
