"""Stored responses and conversations on real databases: owners, time to live, bounds, atomicity."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from osslo.db.database import Database
from osslo.errors import NotFoundError, RateLimitError, RequestError
from osslo.settings import StoreSettings
from osslo.store.conversations import ConversationStore, sweep_conversations
from osslo.store.items import moment
from osslo.store.responses import LEASE_S, ResponseStore, StoredResponse, sweep_responses
from osslo.store.sweep import Sweeper, sweep_once

SWEEPS = (sweep_responses, sweep_conversations)


class Clock:
    """Time that only a test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Kept:
    """Both stores over one database and one clock."""

    def __init__(self, database: Database, **settings: Any) -> None:
        self.database = database
        self.clock = Clock()
        self.settings = StoreSettings(**settings)
        self.responses = ResponseStore(database, self.settings, self.clock)
        self.conversations = ConversationStore(database, self.settings, self.clock)

    async def sweep(self) -> int:
        return await sweep_once(self.database, SWEEPS, moment(self.clock.now))


@pytest.fixture
def kept(database: Database) -> Kept:
    return Kept(database, store_ttl_s=1000)


def item(name: str, text: str = "hi") -> dict[str, Any]:
    return {"id": name, "type": "message", "role": "user", "content": text}


def response(name: str, **fields: Any) -> StoredResponse:
    output = [item(f"msg_{name}_out", "\x00 and \ud800 survive")]
    made = StoredResponse(
        id=name,
        tenant="ann",
        status="completed",
        body={"id": name, "status": "completed", "output": output},
        inputs=(item(f"msg_{name}_in"),),
    )
    return replace(made, **fields)


async def test_a_response_comes_back_as_it_was(kept: Kept) -> None:
    saved = response("a")
    await kept.responses.save(saved)
    found = await kept.responses.get("ann", "a")
    assert found.body == saved.body
    page = await kept.responses.input_items("ann", "a", limit=10)
    assert page.items == saved.inputs


async def test_nobody_else_reaches_it(kept: Kept) -> None:
    await kept.responses.save(response("a"))
    conversation = await kept.conversations.create("ann", {}, [item("i1")])
    for attempt in (
        kept.responses.get("bob", "a"),
        kept.responses.delete("bob", "a"),
        kept.responses.cancel("bob", "a"),
        kept.responses.history("bob", "a", most=10),
        kept.responses.input_items("bob", "a", limit=5),
        kept.conversations.get("bob", conversation.id),
        kept.conversations.update("bob", conversation.id, {}),
        kept.conversations.delete("bob", conversation.id),
        kept.conversations.items("bob", conversation.id, limit=5),
        kept.conversations.item("bob", conversation.id, "i1"),
        kept.conversations.delete_item("bob", conversation.id, "i1"),
        kept.conversations.add_items("bob", conversation.id, [item("i2")]),
        kept.conversations.history("bob", conversation.id, most=10),
    ):
        with pytest.raises(NotFoundError):
            await attempt
    assert await kept.responses.find_items("bob", ["msg_a_out", "i1"]) == {}
    assert set(await kept.responses.find_items("ann", ["msg_a_out", "i1"])) == {"msg_a_out", "i1"}


@pytest.mark.parametrize("name", ["", "x" * 200, "nul\x00", "a b", "ø", "a\n"])
async def test_no_id_upsets_the_database(kept: Kept, name: str) -> None:
    with pytest.raises(NotFoundError):
        await kept.responses.get("ann", name)
    with pytest.raises(NotFoundError):
        await kept.conversations.get("ann", name)
    assert await kept.responses.find_items("ann", [name]) == {}


async def test_a_chain_is_read_from_its_beginning(kept: Kept) -> None:
    await kept.responses.save(response("a"))
    await kept.responses.save(response("b", previous_id="a"))
    await kept.responses.save(response("c", previous_id="b"))
    items = await kept.responses.history("ann", "c", most=6)
    expected = [f"msg_{name}_{end}" for name in "abc" for end in ("in", "out")]
    assert [entry["id"] for entry in items] == expected
    with pytest.raises(RequestError, match="more than 5 items"):
        await kept.responses.history("ann", "c", most=5)
    await kept.responses.delete("ann", "a")
    with pytest.raises(NotFoundError, match="goes back to"):
        await kept.responses.history("ann", "c", most=6)


async def test_going_on_renews_all_of_a_chain(kept: Kept) -> None:
    await kept.responses.save(response("a"))
    await kept.responses.save(response("b", previous_id="a"))
    kept.clock.now += 900
    await kept.responses.history("ann", "b", most=10)
    kept.clock.now += 900
    assert await kept.sweep() == 0
    await kept.responses.get("ann", "a")
    kept.clock.now += 200
    with pytest.raises(NotFoundError):
        await kept.responses.get("ann", "a")
    assert await kept.sweep() == 2


async def test_the_oldest_go_when_there_are_too_many(database: Database) -> None:
    kept = Kept(database, store_max_responses=2)
    for name in "abc":
        kept.clock.now += 1
        await kept.responses.save(response(name))
    with pytest.raises(NotFoundError):
        await kept.responses.get("ann", "a")
    await kept.responses.get("ann", "b")
    await kept.responses.save(response("other", tenant="bob"))
    await kept.responses.get("ann", "c")


async def test_the_oldest_go_when_there_is_too_much(database: Database) -> None:
    kept = Kept(database, store_max_bytes=2048)
    for name in ("a", "b", "c"):
        kept.clock.now += 1
        await kept.responses.save(response(name, inputs=(item(f"{name}_in", "x" * 700),)))
    with pytest.raises(NotFoundError):
        await kept.responses.get("ann", "a")
    await kept.responses.get("ann", "c")


async def test_a_response_that_is_left_behind_fails(kept: Kept) -> None:
    queued = response("a", status="queued", background=True)
    await kept.responses.queue(
        replace(queued, body={"id": "a", "status": "queued", "output": [], "error": None})
    )
    kept.clock.now += LEASE_S / 2
    assert await kept.responses.renew(["a"]) == {"a"}
    kept.clock.now += LEASE_S * 0.9
    assert (await kept.responses.get("ann", "a")).status == "queued"
    kept.clock.now += LEASE_S
    found = await kept.responses.get("ann", "a")
    assert found.status == found.body["status"] == "failed"
    assert "Send the request again" in found.body["error"]["message"]
    assert not await kept.responses.finish(queued)


async def test_the_sweep_ends_what_was_left_behind(kept: Kept) -> None:
    await kept.responses.queue(response("a", status="in_progress", background=True))
    kept.clock.now += LEASE_S + 1
    await kept.sweep()
    assert (await kept.responses.get("ann", "a")).status == "failed"


async def test_the_end_of_a_background_response_is_written_once(kept: Kept) -> None:
    queued = response("a", status="queued", background=True, body={"output": []})
    await kept.responses.queue(queued)
    await kept.responses.mark_running("a", {"status": "in_progress", "output": []})
    cancelled = await kept.responses.cancel("ann", "a")
    assert cancelled.status == cancelled.body["status"] == "cancelled"
    assert await kept.responses.renew(["a"]) == set()
    assert not await kept.responses.finish(response("a", log="x"))
    assert (await kept.responses.cancel("ann", "a")).status == "cancelled"

    await kept.responses.queue(replace(queued, id="b"))
    assert await kept.responses.finish(response("b", inputs=queued.inputs, log="x"))
    found = await kept.responses.get("ann", "b")
    assert (found.status, found.log) == ("completed", "x")
    items = await kept.responses.history("ann", "b", most=10)
    assert [entry["id"] for entry in items] == ["msg_a_in", "msg_b_out"]


async def test_unfinished_background_responses_are_bounded(database: Database) -> None:
    kept = Kept(database, max_background=1)
    await kept.responses.queue(response("a", status="queued", background=True))
    with pytest.raises(RateLimitError, match="unfinished background"):
        await kept.responses.queue(response("b", status="queued", background=True))
    await kept.responses.queue(response("c", status="queued", background=True, tenant="bob"))
    await kept.responses.cancel("ann", "a")
    await kept.responses.queue(response("b", status="queued", background=True))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"status": "failed"}, "failed"),
        ({"status": "queued", "background": True}, "not done"),
        ({"conversation_id": "conv_1"}, "belongs to the conversation"),
    ],
)
async def test_what_cannot_be_gone_on_from(kept: Kept, fields: dict[str, Any], why: str) -> None:
    await kept.responses.save(response("a", **fields))
    with pytest.raises(RequestError, match=why):
        await kept.responses.history("ann", "a", most=10)


# --- conversations ------------------------------------------------------------------------------


async def test_items_are_paged_both_ways(kept: Kept) -> None:
    made = await kept.conversations.create("ann", {"k": "v"}, [item(f"i{n}") for n in range(5)])
    assert made.metadata == {"k": "v"}

    async def ids(**fields: Any) -> tuple[list[str], bool]:
        page = await kept.conversations.items("ann", made.id, **fields)
        return [entry["id"] for entry in page.items], page.has_more

    assert await ids(limit=2) == (["i0", "i1"], True)
    assert await ids(limit=3, after="i1") == (["i2", "i3", "i4"], False)
    assert await ids(limit=2, order="desc") == (["i4", "i3"], True)
    assert await ids(limit=9, order="desc", after="i2") == (["i1", "i0"], False)
    with pytest.raises(NotFoundError):
        await ids(limit=2, after="nothing")


async def test_items_come_and_go(kept: Kept) -> None:
    made = await kept.conversations.create("ann", {}, [item("i1")])
    await kept.conversations.add_items("ann", made.id, [item("i2"), item("i3")])
    await kept.conversations.delete_item("ann", made.id, "i2")
    await kept.conversations.add_items("ann", made.id, [item("i2")])
    items = await kept.conversations.history("ann", made.id, most=3)
    assert [entry["id"] for entry in items] == ["i1", "i3", "i2"]
    with pytest.raises(RequestError, match="twice"):
        await kept.conversations.add_items("ann", made.id, [item("i9"), item("i1")])
    with pytest.raises(NotFoundError):
        await kept.conversations.item("ann", made.id, "i9")
    with pytest.raises(RequestError, match="twice"):
        await kept.conversations.create("ann", {}, [item("x"), item("x")])
    with pytest.raises(RequestError, match="more than 2"):
        await kept.conversations.history("ann", made.id, most=2)


async def test_responses_append_all_or_nothing_and_in_turn(kept: Kept) -> None:
    made = await kept.conversations.create("ann", {}, [])
    await asyncio.gather(
        *(kept.responses.save(response(f"r{n}", conversation_id=made.id)) for n in range(8))
    )
    items = await kept.conversations.history("ann", made.id, most=100)
    pairs = [(a["id"], b["id"]) for a, b in zip(items[::2], items[1::2], strict=True)]
    assert sorted(pairs) == [(f"msg_r{n}_in", f"msg_r{n}_out") for n in range(8)]


async def test_what_failed_or_was_not_kept(kept: Kept) -> None:
    made = await kept.conversations.create("ann", {}, [])
    await kept.responses.save(response("bad", conversation_id=made.id, status="failed"))
    await kept.responses.save(response("r", conversation_id=made.id), keep=False)
    items = await kept.conversations.history("ann", made.id, most=9)
    assert [entry["id"] for entry in items] == ["msg_r_in", "msg_r_out"]
    with pytest.raises(NotFoundError):
        await kept.responses.get("ann", "r")


async def test_an_id_that_is_taken_meanwhile_loses_nothing(kept: Kept) -> None:
    made = await kept.conversations.create("ann", {}, [item("msg_r_in")])
    await kept.responses.save(response("r", conversation_id=made.id))
    items = await kept.conversations.history("ann", made.id, most=9)
    assert len(items) == len({entry["id"] for entry in items}) == 3


async def test_a_conversation_that_is_gone_stays_gone(kept: Kept) -> None:
    made = await kept.conversations.create("ann", {}, [])
    await kept.conversations.delete("ann", made.id)
    await kept.responses.save(response("r", conversation_id=made.id))
    with pytest.raises(NotFoundError):
        await kept.conversations.get("ann", made.id)


async def test_conversations_expire_after_their_last_use(kept: Kept) -> None:
    made = await kept.conversations.create("ann", {}, [item("i1")])
    kept.clock.now += 900
    await kept.conversations.update("ann", made.id, {"a": "b"})
    kept.clock.now += 900
    assert (await kept.conversations.get("ann", made.id)).metadata == {"a": "b"}
    kept.clock.now += 101
    with pytest.raises(NotFoundError):
        await kept.conversations.get("ann", made.id)
    assert await kept.sweep() == 1
    async with kept.database.read() as session:
        rows = await session.connection()
        left = (await rows.exec_driver_sql("SELECT count(*) FROM conversation_items")).scalar_one()
    assert left == 0


async def test_conversations_are_bounded(database: Database) -> None:
    kept = Kept(database, store_max_conversations=1, store_max_bytes=1024)
    made = await kept.conversations.create("ann", {}, [item("i1")])
    with pytest.raises(RateLimitError, match="delete some"):
        await kept.conversations.create("ann", {}, [])
    await kept.conversations.add_items("ann", made.id, [item("i2", "x" * 2000)])
    with pytest.raises(RateLimitError, match="bytes"):
        await kept.conversations.add_items("ann", made.id, [item("i3")])
    await kept.conversations.delete_item("ann", made.id, "i2")
    await kept.conversations.add_items("ann", made.id, [item("i3")])


async def test_the_sweeper_sweeps_again_and_again(kept: Kept) -> None:
    swept = asyncio.Event()
    turns = 0

    async def sweep(_: Database, __: object) -> int:
        nonlocal turns
        turns += 1
        if turns == 1:
            raise OSError("the disk is away")
        if turns == 4:
            swept.set()
        return 0

    sweeper = Sweeper(kept.database, [sweep], interval_s=0.001, clock=kept.clock)
    sweeper.start()
    async with asyncio.timeout(10):
        await swept.wait()
    await sweeper.stop()
