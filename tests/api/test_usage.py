"""Balances, payments and usage over HTTP, on a real ledger: who sees what, and OpenAI's shapes."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from sqlalchemy import text

from osslo.accounts.ledger.records import Counts, Outcome, Status
from osslo.accounts.ledger.retention import usage_sweep
from osslo.accounts.records import Role
from osslo.store.sweep import sweep_once
from tests.api.accounts_stage import People, Person, people

DAY = datetime(2026, 5, 4, tzinfo=UTC)
NOON = int(DAY.timestamp()) + 12 * 3600


@asynccontextmanager
async def with_usage() -> AsyncIterator[tuple[People, Person, Person, Person]]:
    """An admin, and two members: ann used at 12:00, 12:00:30 and 14:00 of one day (the last in a
    batch), bob at noon of the next."""
    async with people(ledger=True) as they:
        admin = await they.in_session(await they.make("admin", Role.ADMIN))
        members = [await they.make(name) for name in ("ann", "bob")]
        for member in members:
            await they.ledger.top_up(
                they.system, member.id, 10**9, note=None, idempotency_key="start"
            )
        ann, bob = [await they.with_key(member) for member in members]
        await use(they, ann, NOON, model="a")
        await use(they, ann, NOON + 30, model="b", cached=10)
        await use(they, ann, NOON + 7200, model="a", batch=True)
        await use(they, bob, NOON + 86_400, model="a")
        yield they, admin, ann, bob


async def use(
    they: People, who: Person, at: int, *, model: str, cached: int = 0, batch: bool = False
) -> None:
    """A request of 30 prompt and 5 output tokens that ended at a moment."""
    assert who.user is not None
    assert who.key is not None
    ledger = they.ledger
    charge = await ledger.charging.open(
        user_id=who.user.id,
        key_id=who.key,
        model=model,
        protocol="chat.completions",
        request_id=f"req-{at}",
        prompt_tokens=30,
        max_tokens=9,
        batch=batch,
    )
    ended = charge.end(Counts(30, 5, cached_tokens=cached), Outcome(Status.COMPLETED))
    assert ended is not None
    await ended
    async with they.accounts.context.database.write() as session:
        moment = datetime.fromtimestamp(at, UTC).replace(tzinfo=None)
        change = text("UPDATE usage SET at = :at WHERE request_id = :id")
        values = {"at": f"{moment:%Y-%m-%d %H:%M:%S.%f}", "id": f"req-{at}"}
        await session.execute(change, values)


async def buckets(they: People, who: Person, what: str = "usage/completions", **query: Any) -> Any:
    asked = {"start_time": int(DAY.timestamp()), "limit": 3} | query
    response = await they.call(who, "GET", f"/v1/organization/{what}", params=asked)
    assert response.status_code == 200, response.text
    return response.json()


def used(page: Any, *names: str) -> list[list[tuple[Any, ...]]]:
    """Of each bucket its results' requests and the named fields."""
    return [
        sorted(
            (result["num_model_requests"], *(result[name] for name in names))
            for result in bucket["results"]
        )
        for bucket in page["data"]
    ]


async def test_usage_by_day_hour_and_minute() -> None:
    async with with_usage() as (they, admin, ann, _bob):
        days = await buckets(they, admin, end_time=NOON + 3 * 86_400)
        assert used(days, "input_tokens", "input_cached_tokens", "output_tokens") == [
            [(3, 90, 10, 15)],
            [(1, 30, 0, 5)],
            [],
        ]
        assert [b["end_time"] - b["start_time"] for b in days["data"]] == [86_400] * 3
        assert days["has_more"]
        hours = await buckets(they, ann, bucket_width="1h", start_time=NOON + 9)
        assert used(hours) == [[(2,)], [], [(1,)]]
        assert hours["data"][0]["start_time"] == NOON
        minutes = await buckets(they, ann, bucket_width="1m", start_time=NOON, end_time=NOON + 61)
        assert used(minutes) == [[(2,)], []]
        assert (minutes["has_more"], minutes["next_page"]) == (False, None)


async def test_groups_and_filters() -> None:
    async with with_usage() as (they, admin, ann, bob):
        assert ann.user is not None
        assert bob.user is not None
        both = {"limit": 2, "end_time": NOON + 2 * 86_400}
        by_model = await buckets(they, admin, **both, **{"group_by[]": ["model", "batch"]})
        assert used(by_model, "model", "batch")[0] == [
            (1, "a", False),
            (1, "a", True),
            (1, "b", False),
        ]
        by_user = await buckets(they, admin, **both, **{"group_by": ["user_id", "project_id"]})
        assert used(by_user, "user_id", "project_id") == [
            [(3, ann.user.id, None)],
            [(1, bob.user.id, None)],
        ]
        by_key = await buckets(they, ann, **both, **{"group_by[]": "api_key_id"})
        assert used(by_key, "api_key_id", "model") == [[(3, ann.key, None)], []]
        for query, wanted in (
            ({"models[]": "b"}, [[(1,)], []]),
            ({"user_ids[]": bob.user.id}, [[], [(1,)]]),
            ({"api_key_ids[]": [ann.key]}, [[(3,)], []]),
            ({"batch": "true"}, [[(1,)], []]),
            ({"batch": "false"}, [[(2,)], [(1,)]]),
            ({"project_ids[]": "proj_1"}, [[], []]),
        ):
            assert used(await buckets(they, admin, **both, **query)) == wanted, query


async def test_costs_by_day_and_line_item() -> None:
    async with with_usage() as (they, admin, ann, _bob):
        page = await buckets(they, admin, "costs", limit=1, **{"group_by[]": ["line_item"]})
        dear, cheap = 30 * 80 + 5 * 320, 20 * 80 + 10 * 40 + 5 * 320
        amounts = {r["line_item"]: r["amount"] for r in page["data"][0]["results"]}
        assert amounts["a"] == {"value": pytest.approx(2 * dear / 1e9), "currency": "usd"}
        assert amounts["b"]["value"] == pytest.approx(cheap / 1e9)
        own = await buckets(they, ann, "costs", limit=1, **{"line_items[]": "b"})
        (only,) = own["data"][0]["results"]
        assert only["amount"]["value"] == pytest.approx(cheap / 1e9)


async def test_members_see_their_own_only() -> None:
    async with with_usage() as (they, _admin, ann, bob):
        assert ann.user is not None
        own = await buckets(they, bob, end_time=NOON + 2 * 86_400, limit=2)
        assert used(own) == [[], [(1,)]]
        for path in (
            f"/v1/organization/usage/completions?start_time=1&user_ids[]={ann.user.id}",
            f"/v1/organization/costs?start_time=1&user_ids[]={ann.user.id}",
            f"/v1/usage?user_id={ann.user.id}",
            f"/v1/usage/export?user_id={ann.user.id}",
            f"/v1/balance?user_id={ann.user.id}",
        ):
            assert (await they.call(bob, "GET", path)).status_code == 403, path


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("", "start_time"),
        ("?start_time=9&end_time=9", "end_time"),
        ("?start_time=1&bucket_width=1w", "bucket_width"),
        ("?start_time=1&limit=32", "limit"),
        ("?start_time=1&group_by[]=colour", "group_by"),
        ("?start_time=1&page=page_zz", "page"),
        ("?start_time=1&page=page_7", "page"),
        ("?start_time=-1", "start_time"),
        ("?start_time=99999999999999", "start_time"),
    ],
)
async def test_bad_queries_are_named(query: str, param: str) -> None:
    async with people(ledger=True) as they:
        ann = await they.with_key(await they.make("ann"))
        path = "/v1/organization/usage/completions" + query
        response = await they.call(ann, "GET", path)
        assert response.status_code == 400, response.text
        assert response.json()["error"]["param"].startswith(param)


async def test_the_official_client_pages_through_them() -> None:
    async with with_usage() as (they, admin, _ann, _bob):
        transport = httpx2.ASGITransport(they.app)
        http = DefaultAsyncHttpxClient(transport=transport)
        async with AsyncOpenAI(
            api_key="none",
            admin_api_key="none",
            base_url="http://osslo/v1",
            http_client=http,
            default_headers={"Authorization": "", **admin.headers},
        ) as client:
            organization = client.admin.organization
            seen, page = [], None
            while True:
                got = await organization.usage.completions(
                    start_time=int(DAY.timestamp()),
                    end_time=NOON + 86_401,
                    bucket_width="1h",
                    limit=13,
                    group_by=["model"],
                    **({} if page is None else {"page": page}),
                )
                seen += got.data
                page = got.next_page
                if not got.has_more:
                    break
            assert [bucket.start_time for bucket in seen] == [
                int(DAY.timestamp()) + 3600 * hour for hour in range(37)
            ]
            results = [
                (bucket.start_time - NOON, result)
                for bucket in seen
                for result in bucket.results
                if result.object == "organization.usage.completions.result"
            ]
            assert [(at, r.model, r.input_tokens) for at, r in results] == [
                (0, "a", 30),
                (0, "b", 30),
                (7200, "a", 30),
                (86_400, "a", 30),
            ]
            costs = await organization.usage.costs(start_time=int(DAY.timestamp()), limit=1)
            (only,) = costs.data[0].results
            assert only.object == "organization.costs.result"
            assert only.amount is not None
            assert only.amount.currency == "usd"


async def test_old_rows_become_hours_and_nothing_else_changes() -> None:
    async with with_usage() as (they, admin, ann, _bob):
        assert ann.user is not None
        queries: list[dict[str, Any]] = [
            {"limit": 3},
            {"limit": 30, "bucket_width": "1h", "group_by[]": ["model", "batch", "user_id"]},
        ]
        before = [await buckets(they, admin, **query) for query in queries]
        costs = await buckets(they, admin, "costs")
        balance = (await they.call(ann, "GET", "/v1/balance")).json()
        database = they.accounts.context.database
        later = datetime.fromtimestamp(NOON + 3600, UTC) + timedelta(days=30)
        assert await sweep_once(database, [usage_sweep(30)], later) == 2
        assert await sweep_once(database, [usage_sweep(30)], later) == 0
        assert [await buckets(they, admin, **query) for query in queries] == before
        assert await sweep_once(database, [usage_sweep(1)], later) == 2
        assert [await buckets(they, admin, **query) for query in queries] == before
        assert await buckets(they, admin, "costs") == costs
        assert (await they.call(ann, "GET", "/v1/balance")).json() == balance
        assert (await they.call(admin, "GET", "/v1/usage")).json()["data"] == []
        async with database.read() as session:
            left = text("SELECT sum(amount_nanousd) FROM ledger_entries WHERE user_id = :id")
            total = (await session.execute(left, {"id": ann.user.id})).scalar_one()
        assert total == balance["balance_nanousd"]


async def test_the_log_is_listed_and_exported() -> None:
    async with with_usage() as (they, admin, ann, _bob):
        first = (await they.call(ann, "GET", "/v1/usage?limit=2")).json()
        assert [row["request_id"] for row in first["data"]] == [
            f"req-{NOON + 7200}",
            f"req-{NOON + 30}",
        ]
        rest = await they.call(ann, "GET", f"/v1/usage?limit=2&after={first['last_id']}")
        assert [row["model"] for row in rest.json()["data"]] == ["a"]
        some = await they.call(admin, "GET", f"/v1/usage?model=a&since={NOON}&until={NOON + 1}")
        assert [row["user_id"] for row in some.json()["data"]] == [ann.user.id if ann.user else ""]
        exported = await they.call(admin, "GET", "/v1/usage/export")
        rows = list(csv.DictReader(io.StringIO(exported.text)))
        assert [row["request_id"] for row in rows][-1] == f"req-{NOON}"
        as_json = (await they.call(admin, "GET", "/v1/usage/export?format=json")).json()
        assert [row["id"] for row in as_json] == [row["id"] for row in rows]
        assert sum(row["cost_nanousd"] for row in as_json) == sum(
            int(row["cost_nanousd"]) for row in rows
        )
        nothing = await they.call(ann, "GET", "/v1/usage/export?format=json&model=none")
        assert nothing.json() == []


async def test_a_payment_counts_once_and_only_admins_record_it() -> None:
    async with people(ledger=True) as they:
        ann = await they.make("ann")
        key = await they.with_key(ann)
        boss = await they.make("boss", Role.ADMIN)
        hook = await they.with_key(boss, management=True)
        path = f"/v1/users/{ann.id}/payments"
        told = {"amount_nanousd": 5_000_000_000, "idempotency_key": "evt_1", "note": "card"}
        replies = [await they.call(hook, "POST", path, json=told) for _ in range(2)]
        assert [reply.json()["new"] for reply in replies] == [True, False]
        assert [reply.json()["balance_nanousd"] for reply in replies] == [5_000_000_000] * 2
        other = await they.call(hook, "POST", path, json=told | {"amount_nanousd": 1})
        assert (other.status_code, other.json()["error"]["code"]) == (400, "idempotency_conflict")
        back = {"amount_nanousd": -6_000_000_000, "idempotency_key": "refund_1"}
        too_much = await they.call(hook, "POST", path, json=back)
        assert too_much.json()["error"]["code"] == "balance_too_low"
        balance = (await they.call(key, "GET", "/v1/balance")).json()
        assert (balance["balance_nanousd"], balance["reserved_nanousd"]) == (5_000_000_000, 0)
        assert (await they.call(key, "POST", path, json=told)).status_code == 403
        nobody = await they.call(hook, "POST", "/v1/users/user_none/payments", json=told)
        assert nobody.status_code == 404
        acts = [entry.act for entry in await they.accounts.audit_log(they.system)]
        assert acts.count("balance.top_up") == 1
