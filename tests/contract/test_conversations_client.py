"""Conversations through the official client, over a scripted backend."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import openai
import pytest

from tests.api.conftest import KEY, Stage
from tests.contract.conftest import StartServer
from tests.scripted import ByteVocabulary

Client = Callable[[str], openai.OpenAI]
MODEL = "gpt-oss-20b"


@pytest.fixture
def server(start_server: StartServer, openai_client: Client) -> tuple[openai.OpenAI, Stage, str]:
    url, stage = start_server()
    return openai_client(url), stage, url


def test_conversations_come_change_and_go(server: tuple[openai.OpenAI, Stage, str]) -> None:
    client, _, _ = server
    made = client.conversations.create(
        items=[{"type": "message", "role": "user", "content": "My name is Ada."}],
        metadata={"topic": "names"},
    )
    assert made.object == "conversation"
    assert client.conversations.retrieve(made.id).metadata == {"topic": "names"}
    assert client.conversations.update(made.id, metadata={"a": "b"}).metadata == {"a": "b"}
    gone = client.conversations.delete(made.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "conversation.deleted", True)
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(made.id)


def test_items_are_added_listed_page_by_page_and_deleted(
    server: tuple[openai.OpenAI, Stage, str],
) -> None:
    client, _, _ = server
    made = client.conversations.create()
    added = client.conversations.items.create(
        made.id,
        items=[{"type": "message", "role": "user", "content": f"Word {n}."} for n in range(5)],
    )
    ids = [item.id for item in added.data]
    assert len(set(ids)) == 5
    listed = [item.id for item in client.conversations.items.list(made.id, order="asc", limit=2)]
    assert listed == ids
    newest = [item.id for item in client.conversations.items.list(made.id, limit=3)]
    assert newest == ids[::-1]
    one = client.conversations.items.retrieve(ids[1] or "", conversation_id=made.id)
    assert one.type == "message"
    assert one.content[0].text == "Word 1."  # type: ignore[union-attr]  # an input_text part
    client.conversations.items.delete(ids[1] or "", conversation_id=made.id)
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.retrieve(ids[1] or "", conversation_id=made.id)


def test_responses_read_a_conversation_and_add_to_it(
    server: tuple[openai.OpenAI, Stage, str],
) -> None:
    client, stage, _ = server
    made = client.conversations.create()
    first = client.responses.create(model=MODEL, input="My name is Ada.", conversation=made.id)
    assert first.conversation is not None
    assert first.conversation.id == made.id
    for _ in client.responses.create(
        model=MODEL, input="Who am I?", conversation={"id": made.id}, store=False, stream=True
    ):
        pass
    types = [item.type for item in client.conversations.items.list(made.id, order="asc")]
    assert types == ["message", "reasoning", "message"] * 2
    prompt = ByteVocabulary().text(stage.backend.requests[-1].prompt)
    assert prompt.index("My name is Ada.") < prompt.index("Oslo.") < prompt.index("Who am I?")
    client.conversations.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model=MODEL, input="And now?", conversation=made.id)


def test_what_is_wrong_is_said(server: tuple[openai.OpenAI, Stage, str]) -> None:
    client, _, _ = server
    made = client.conversations.create()
    message = {"type": "message", "role": "user", "content": "Hi", "id": "msg_1"}
    client.conversations.items.create(made.id, items=[message])  # type: ignore[list-item]  # id
    with pytest.raises(openai.BadRequestError) as twice:
        client.conversations.items.create(made.id, items=[message])  # type: ignore[list-item]  # id
    assert twice.value.code == "duplicate_item"
    with pytest.raises(openai.BadRequestError) as foreign:
        client.conversations.items.create(
            made.id, items=[{"type": "local_shell_call_output", "id": "x", "output": "y"}]
        )
    assert foreign.value.param == "items[0].type"
    with pytest.raises(openai.BadRequestError) as many:
        client.conversations.create(items=[{"role": "user", "content": "x"}] * 21)
    assert many.value.param == "items"
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.list("conv_\x00")


def test_the_asynchronous_client(server: tuple[openai.OpenAI, Stage, str]) -> None:
    async def talk(url: str) -> None:
        async with openai.AsyncOpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0) as client:
            made = await client.conversations.create()
            await client.responses.create(model=MODEL, input="Hi", conversation=made.id)
            items = [item.type async for item in client.conversations.items.list(made.id)]
            assert items == ["message", "reasoning", "message"]

    asyncio.run(talk(server[2]))
