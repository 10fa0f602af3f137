"""`store: true`: keeping chat completions, and everything that can be done with kept ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select

from osslo.api.auth import Caller
from osslo.api.chat_completions.reply_schema import (
    ChatCompletion,
    StoredCompletionPage,
    StoredMessagePage,
)
from osslo.settings import StoreSettings
from osslo.store.completions import CompletionMetadataRow, sweep_completions
from tests.api.conftest import Stage, ask, make_stage

URL = "/v1/chat/completions"


async def keep(client: Any, **fields: object) -> dict[str, Any]:
    response = await client.post(URL, json=ask(store=True, **fields))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_a_kept_answer_comes_back_as_it_was(stage: Stage) -> None:
    async with stage.client() as client:
        answer = await keep(client, metadata={"topic": "capitals"})
        again = (await client.get(f"{URL}/{answer['id']}")).json()
        messages = (await client.get(f"{URL}/{answer['id']}/messages")).json()
    assert again == answer
    ChatCompletion.model_validate(again)
    page = StoredMessagePage.model_validate(messages)
    assert [m.content for m in page.data] == ["What is the capital of Norway?"]
    assert page.first_id == page.data[0].id


async def test_nothing_is_kept_unless_asked_for(stage: Stage) -> None:
    async with stage.client() as client:
        answer = (await client.post(URL, json=ask())).json()
        await client.post(URL, json=ask(store=False))
        assert (await client.get(f"{URL}/{answer['id']}")).status_code == 404
        assert (await client.get(URL)).json()["data"] == []


async def test_a_streamed_answer_is_kept_whole(stage: Stage) -> None:
    async with stage.client() as client:
        whole = await keep(client)
        await client.post(URL, json=ask(store=True, stream=True))
        listed = (await client.get(URL, params={"order": "asc"})).json()["data"]
    assert len(listed) == 2
    streamed = next(kept for kept in listed if kept["id"] != whole["id"])
    assert streamed["choices"] == whole["choices"]
    assert streamed["usage"] == whole["usage"]


async def test_lists_page_filter_and_turn_round(stage: Stage) -> None:
    async with stage.client() as client:
        ids = [(await keep(client, metadata={"n": str(n)}))["id"] for n in range(5)]
        first = (await client.get(URL, params={"limit": 2, "order": "desc"})).json()
        rest = (
            await client.get(URL, params={"limit": 9, "order": "desc", "after": first["last_id"]})
        ).json()
        one = (await client.get(URL, params={"metadata[n]": "3"})).json()
        none = (await client.get(URL, params={"metadata[n]": "3", "metadata[m]": "3"})).json()
        other = (await client.get(URL, params={"model": "other"})).json()
    StoredCompletionPage.model_validate(first)
    assert (first["has_more"], rest["has_more"]) == (True, False)
    seen = [kept["id"] for kept in first["data"] + rest["data"]]
    assert sorted(seen) == sorted(ids)
    assert [kept["id"] for kept in one["data"]] == [ids[3]]
    assert none["data"] == other["data"] == []


async def test_metadata_can_be_replaced(stage: Stage) -> None:
    async with stage.client() as client:
        answer = await keep(client, metadata={"a": "1", "b": "2"})
        path = f"{URL}/{answer['id']}"
        changed = (await client.post(path, json={"metadata": {"a": "3"}})).json()
        emptied = (await client.post(path, json={"metadata": None})).json()
        wrong = await client.post(path, json={"model": "x"})
    assert changed["metadata"] == {"a": "3"}
    assert emptied["metadata"] == {}
    assert changed["choices"] == answer["choices"]
    assert wrong.status_code == 400


async def test_deleting_deletes(stage: Stage) -> None:
    async with stage.client() as client:
        answer = await keep(client)
        path = f"{URL}/{answer['id']}"
        deleted = (await client.delete(path)).json()
        after = [
            await client.get(path),
            await client.delete(path),
            await client.get(f"{path}/messages"),
        ]
    assert deleted == {"id": answer["id"], "object": "chat.completion.deleted", "deleted": True}
    assert [response.status_code for response in after] == [404, 404, 404]


async def test_others_never_see_it(stage: Stage) -> None:
    class OtherRing:
        async def identify(self, key: str, *_: object, **__: object) -> Caller | None:
            return Caller(tenant=key)

    object.__setattr__(stage.services, "keys", OtherRing())
    async with stage.client("sk-a") as client:
        answer = await keep(client)
        path = f"{URL}/{answer['id']}"
        other = {"authorization": "Bearer sk-b"}
        refused = [
            await client.get(path, headers=other),
            await client.post(path, headers=other, json={"metadata": {}}),
            await client.delete(path, headers=other),
            await client.get(f"{path}/messages", headers=other),
            await client.get(URL, headers=other, params={"after": answer["id"]}),
        ]
        listed = (await client.get(URL, headers=other)).json()["data"]
        assert (await client.get(path)).status_code == 200
    assert [response.status_code for response in refused] == [404] * 5
    assert listed == []


async def test_what_is_kept_expires_and_is_bounded(stage: Stage) -> None:
    store = StoreSettings(store_ttl_s=60, store_max_responses=3)
    object.__setattr__(stage.services, "store", store)
    async with stage.client() as client:
        ids = [(await keep(client))["id"] for _ in range(5)]
        listed = (await client.get(URL)).json()["data"]
        assert len(listed) == 3
        assert ids[-1] in {kept["id"] for kept in listed}
        object.__setattr__(stage.services, "clock", lambda: 1_800_000_061.0)
        assert (await client.get(URL)).json()["data"] == []
        assert (await client.get(f"{URL}/{ids[-1]}")).status_code == 404


async def test_messages_page_with_parts_and_calls() -> None:
    stage = make_stage()
    call = {"id": "c1", "type": "custom", "custom": {"name": "sh", "input": "ls"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "reasoning": "Hm.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "x"},
    ]
    async with stage.client() as client:
        answer = await keep(client, messages=messages)
        path = f"{URL}/{answer['id']}/messages"
        first = (await client.get(path, params={"limit": 2})).json()
        last = (await client.get(path, params={"after": first["last_id"]})).json()
        back = (await client.get(path, params={"order": "desc", "limit": 1})).json()
        lost = await client.get(path, params={"after": "nonesuch"})
    StoredMessagePage.model_validate(first)
    assert (first["has_more"], last["has_more"]) == (True, False)
    assert first["data"][0]["content"] == "ab"
    assert [part["text"] for part in first["data"][0]["content_parts"]] == ["a", "b"]
    assert first["data"][1]["tool_calls"] == [call]
    assert first["data"][1]["reasoning_content"] == "Hm."
    assert last["data"] == back["data"]
    assert lost.status_code == 404


async def test_wrong_queries_are_refused_by_name(stage: Stage) -> None:
    async with stage.client() as client:
        for query, param in (
            ({"limit": "0"}, "limit"),
            ({"limit": "x"}, "limit"),
            ({"order": "up"}, "order"),
            ({"banana": "1"}, "banana"),
            ({"metadata": "x"}, "metadata"),
        ):
            response = await client.get(URL, params=query)
            assert response.status_code == 400, query
            assert response.json()["error"]["param"] == param
        twice = await client.get(URL + "?order=asc&order=desc")
        assert twice.json()["error"]["param"] == "order"


async def test_a_sweep_deletes_what_expired_for_good(stage: Stage) -> None:
    async with stage.client() as client:
        await keep(client, metadata={"a": "b"})
        database = stage.services.database
        early = datetime.fromtimestamp(1_800_000_000, UTC)
        assert await sweep_completions(database, early) == 0
        late = early + timedelta(seconds=stage.services.store.store_ttl_s)
        assert await sweep_completions(database, late) == 1
        async with database.read() as session:
            rows = (await session.scalars(select(CompletionMetadataRow))).all()
        assert list(rows) == []
