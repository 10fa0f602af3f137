"""Training data: read as serving would send it, and refused with the line that is at fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from osslo.errors import RequestError
from osslo.harmony.messages import ReasoningEffort
from osslo.harmony.training import TrainingLine, check_training_lines, parse_training_line
from osslo.model.presets import preset
from osslo.model.synth_tokenizer import byte_tokenizer_json
from osslo.model.tokenizer import Tokenizer
from osslo.tuning.dataset import BadDataError, DataOptions, Dataset, read_dataset
from osslo.tuning.examples import ExampleRenderer

TOOLS = [
    {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}},
]
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "look_up", "arguments": '{"word": "tide"}'},
}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be short.\nReasoning: high"},
    {"role": "user", "content": "What is a tide?"},
    {"role": "assistant", "content": None, "thinking": "I look it up.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "the sea, moving"},
    {"role": "assistant", "content": "The sea, moving."},
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    text = byte_tokenizer_json(preset("tiny").vocab_size)
    assert text is not None
    return Tokenizer.from_json(text)


def read(path: Path, tokenizer: Tokenizer, **options: Any) -> Dataset:
    end = tokenizer.special("<|endoftext|>")
    return read_dataset([path], ExampleRenderer(tokenizer), end, DataOptions(**options))


def lines(path: Path, *values: Any) -> Path:
    path.write_text("\n".join(json.dumps(value) for value in values), encoding="utf-8")
    return path


def user(text: str = "Hi") -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str = "Ho", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def learned(tokenizer: Tokenizer, dataset: Dataset) -> list[str]:
    texts = []
    for example in dataset.examples():
        pairs = zip(example.ids, example.learned, strict=True)
        texts.append(tokenizer.decode(token for token, counts in pairs if counts))
    return texts


def test_only_what_the_assistant_says_is_learned(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = lines(tmp_path / "a.jsonl", {"messages": TALK, "tools": TOOLS})
    dataset = read(path, tokenizer)
    assert learned(tokenizer, dataset) == [
        "<|channel|>analysis<|message|>I look it up.<|end|>"
        "<|start|>assistant to=functions.look_up<|channel|>commentary <|constrain|>json<|message|>"
        '{"word": "tide"}'
        "<|call|><|channel|>final<|message|>The sea, moving.<|return|>"
    ]
    whole = tokenizer.decode(dataset.examples()[0].ids)
    assert "Reasoning: high" in whole
    assert "# Instructions\n\nBe short." in whole
    assert "type look_up = " in whole


def test_a_call_may_end_the_conversation(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = lines(tmp_path / "a.jsonl", {"messages": TALK[:3], "tools": TOOLS})
    assert learned(tokenizer, read(path, tokenizer))[0].endswith("<|call|>")


def test_weight_zero_is_seen_and_not_learned(tmp_path: Path, tokenizer: Tokenizer) -> None:
    talk = [user(), said("wrong", weight=0), user("Again"), said("right")]
    dataset = read(lines(tmp_path / "a.jsonl", {"messages": talk}), tokenizer)
    assert learned(tokenizer, dataset) == ["<|channel|>final<|message|>right<|return|>"]
    assert "wrong" in tokenizer.decode(dataset.examples()[0].ids)


def test_each_example_has_its_effort() -> None:
    talk = {"messages": [user(), said()]}
    for value, wanted in (
        (talk, ReasoningEffort.LOW),
        ({**talk, "reasoning_effort": "high"}, ReasoningEffort.HIGH),
    ):
        parsed = parse_training_line(json.dumps(value), effort=ReasoningEffort.LOW)
        assert isinstance(parsed, TrainingLine)
        assert parsed.conversation.effort is wanted


def test_plain_text_is_learned_whole_in_pieces(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("x" * 100, encoding="utf-8")
    dataset = read(path, tokenizer, max_tokens=40)
    assert [len(example.ids) for example in dataset.examples()] == [40, 40, 21]
    assert dataset.learned_tokens == 101 - 3
    assert dataset.examples()[-1].ids[-1] == tokenizer.special("<|endoftext|>")
    rows = lines(tmp_path / "rows.jsonl", {"text": "one"}, {"text": "two"})
    assert len(read(rows, tokenizer).examples()) == 2


def test_a_share_is_kept_for_validation(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = lines(tmp_path / "a.jsonl", *({"messages": [user(str(i)), said()]} for i in range(20)))
    first, again = read(path, tokenizer, seed=1), read(path, tokenizer, seed=1)
    assert (len(first.training), len(first.validation)) == (18, 2)
    assert first == again
    assert read(path, tokenizer, seed=2) != first
    assert not read(path, tokenizer, validation_share=0.0).validation


BAD: list[tuple[Any, str]] = [
    ([], "not a JSON object"),
    ({"messages": []}, "'messages' must be a list"),
    ({"messages": ["Hi"]}, r"messages\[0\]' must be an object"),
    ({"messages": [user()], "prompt": "Hi"}, "'prompt' is unknown"),
    ({"messages": [user()]}, "no message of the assistant"),
    ({"messages": [user(), said(weight=0)]}, "no message of the assistant"),
    ({"messages": [user(), said(weight=2)]}, "weight' must be 0 or 1"),
    ({"messages": [user(), said(), user()]}, "last message must be the assistant's"),
    ({"messages": [{"role": "human", "content": "Hi"}]}, "role' must be"),
    ({"messages": [{"role": "user", "content": 3}]}, "content' must be a text"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "text only"),
    ({"messages": [user(), said("")]}, "needs 'content' or 'tool_calls'"),
    ({"messages": [user(), said(function_call={})]}, "the old form"),
    ({"messages": [user(), said("", tool_calls=[CALL])]}, "does not declare"),
    ({"messages": [user(), TALK[3], said()]}, "names no call"),
    ({"messages": [user(), said(reasoning="a", thinking="b")]}, "keep one"),
    ({"messages": [{"role": "user", "content": "x", "weight": 1}, said()]}, "assistant messages"),
    ({"messages": [user(), said()], "reasoning_effort": "huge"}, "reasoning_effort"),
    ({"messages": [user(), said()], "tools": [{}]}, r"tools\[0\]"),
    ({"messages": [user(), said()], "tools": TOOLS * 2}, "twice"),
    ({"text": ""}, "not empty"),
]


@pytest.mark.parametrize(("value", "message"), BAD, ids=[m for _, m in BAD])
def test_a_bad_line_says_what_is_wrong(value: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_training_line(json.dumps(value))


def test_every_fault_is_named_with_its_line(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "bad.jsonl"
    good = json.dumps({"messages": [user(), said()]})
    long = json.dumps({"messages": [user(), said("x" * 3000)]})
    path.write_text(f"{good}\n\n{{\n{good}\n{long}\n", encoding="utf-8")
    with pytest.raises(BadDataError) as caught:
        read(path, tokenizer, max_tokens=1000)
    first, second = caught.value.problems
    assert first.startswith(f"{path}:3: not JSON")
    assert second.startswith(f"{path}:5: ")
    assert "--max-tokens" in second
    many = tmp_path / "many.jsonl"
    many.write_text("[]\n" * 100, encoding="utf-8")
    with pytest.raises(BadDataError, match="perhaps more") as caught:
        read(many, tokenizer)
    assert len(caught.value.problems) == 20


def test_an_upload_is_checked_by_the_same_rules() -> None:
    good = json.dumps({"messages": [user(), said()]})
    problems, right = check_training_lines([(1, good), (2, ""), (3, "[]")], most=5)
    assert right == 1
    assert problems == ["line 3: not a JSON object; each line is {'messages': [...]}"]
