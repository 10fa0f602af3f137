"""`/tokenize` and `/detokenize` in both dialects."""

from __future__ import annotations

from typing import Any

import pytest

from osslo.api.tokenize import DetokenizeReply, TokenizeReply
from tests.api.conftest import Stage
from tests.api.test_chat_completions import TOOL
from tests.scripted import ByteVocabulary

VOCABULARY = ByteVocabulary()
MESSAGES = [{"role": "user", "content": "Hei"}]


async def post(stage: Stage, path: str, **body: object) -> Any:
    async with stage.client() as client:
        return await client.post(path, json=body)


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_there_and_back(stage: Stage, prefix: str) -> None:
    reply = await post(stage, f"{prefix}/tokenize", model="gpt-oss-20b", prompt="Hei, æ")
    tokens = TokenizeReply.model_validate_json(reply.text)
    assert tokens.tokens == VOCABULARY.encode("Hei, æ")
    assert (tokens.count, tokens.max_model_len) == (7, 8192)
    assert tokens.model == "scripted-model"
    back = await post(stage, f"{prefix}/detokenize", tokens=tokens.tokens)
    text = DetokenizeReply.model_validate_json(back.text)
    assert text.prompt == text.content == "Hei, æ"


async def test_the_dialect_of_llama_server(stage: Stage) -> None:
    plain = (await post(stage, "/tokenize", content="Hi", add_special=True)).json()
    assert plain["tokens"] == [72, 105]
    pieces = (await post(stage, "/tokenize", content="aæ", with_pieces=True)).json()["tokens"]
    assert pieces == [
        {"id": 97, "piece": "a"},
        {"id": 0xC3, "piece": [0xC3]},
        {"id": 0xA6, "piece": [0xA6]},
    ]


async def test_text_never_becomes_a_special_token(stage: Stage) -> None:
    reply = (await post(stage, "/tokenize", prompt="<|end|>", return_token_strs=True)).json()
    assert reply["tokens"] == list(b"<|end|>")
    assert "".join(reply["token_strs"]) == "<|end|>"


async def test_messages_are_the_prompt_of_a_chat_completion(stage: Stage) -> None:
    for fields in ({}, {"tools": [TOOL], "reasoning_effort": "high"}):
        reply = (await post(stage, "/tokenize", messages=MESSAGES, **fields)).json()
        await post(stage, "/v1/chat/completions", model="gpt-oss-20b", messages=MESSAGES, **fields)
        assert tuple(reply["tokens"]) == stage.backend.requests[-1].prompt


async def test_the_generation_prompt_can_be_left_out(stage: Stage) -> None:
    whole = (await post(stage, "/tokenize", messages=MESSAGES)).json()["tokens"]
    less = (await post(stage, "/tokenize", messages=MESSAGES, add_generation_prompt=False)).json()
    assert less["tokens"] == whole[: -len(VOCABULARY.tokens("<|start|>assistant"))]


async def test_bytes_that_are_no_text_read_as_replacement_characters(stage: Stage) -> None:
    assert (await post(stage, "/detokenize", tokens=[0xC3])).json()["prompt"] == "\ufffd"
    assert (await post(stage, "/detokenize", tokens=[])).json()["prompt"] == ""
    end = VOCABULARY.specials["<|end|>"]
    assert (await post(stage, "/detokenize", tokens=[end])).json()["prompt"] == "<|end|>"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "content": "b"}, "content"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "messages"),
        ("/tokenize", {"prompt": "a", "parse_special": True}, "parse_special"),
        ("/tokenize", {"messages": MESSAGES, "chat_template": "x"}, "chat_template"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"prompt": "a", "model": "x"}, "model"),
        ("/tokenize", {"prompt": "a", "banana": 1}, "banana"),
        ("/detokenize", {"tokens": [0, 263]}, "tokens[1]"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
        ("/detokenize", {}, "tokens"),
    ],
)
async def test_each_wrong_parameter_is_refused_by_name(
    stage: Stage, path: str, body: dict[str, Any], param: str
) -> None:
    response = await post(stage, path, **body)
    assert response.status_code in (400, 404)
    assert response.json()["error"]["param"] == param


async def test_a_key_is_needed(stage: Stage) -> None:
    async with stage.client(None) as client:
        for path in ("/tokenize", "/v1/detokenize"):
            assert (await client.post(path, json={})).status_code == 401
